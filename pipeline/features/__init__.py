"""Numbers that stand for a sequence without a language model: k-mers and molecular fingerprints.

From outside: `describe` of `descriptors`.  Knows sequences alone, no pairs and no labels.
"""
