"""Which residues, nucleotides and atoms speak for a pair: importance by place, its checks, and the files that show it.

From outside: `explain` of `explain`, which `crossllm.pipeline` gives too.
"""
