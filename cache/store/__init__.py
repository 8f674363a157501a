"""Rows on disk: a recipe's segments, the commit that publishes each, their writer and their reader.

From outside: `CacheWriter` of `writer`, `CacheReader` of `reader`, `Recipe` and `choose_recipe` of `recipe`.
"""
