"""Files of weights: where they are published, how they are pulled, checked and opened without running any code.

From outside: `read_settled` and `pick_tensors` of `checkpoint`, `weights_at_hand` of `published`, `pull` of `pull`.
"""
