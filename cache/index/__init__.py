"""The key index of a recipe: one file that says which segment holds a key, so that 10⁵ segments need not be opened.

From outside: `write_index` of `index_writer`, `open_index` of `index_file`.
"""
