"""Files of weights: where they are published, how they are pulled, checked and opened without running any code.

From outside: `read_verified` and `select_tensors` of `checkpoint`, `local_weights` of `published`, `pull` of `pull`.
"""
