"""How alike the sequences of a dataset are, and their clusters: by alignment, or for molecules by their structure.

From outside: `similarity_of` of `similarity` gives a side's `Similarity`; `Rule` of `rules` says when two are similar.
"""
