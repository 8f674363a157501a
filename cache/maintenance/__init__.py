"""What keeps a cache whole and small: info and verify (`inspection`), repair, compact, merge, garbage collection.

From outside: the function of each module that `crossllm cache` calls by the same name.
"""
