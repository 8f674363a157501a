"""The packed transformer that every sequence model runs on, and the passes it is made of.

From outside: `Design` and `Transformer` of `transformer`, `device_of` of `device`.
"""
