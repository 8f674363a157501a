"""`embed run`: which sequences are missing (`plan`), how long they take (`estimate`), encoding and storing them.

From outside: `run` of `run`, `RunOptions` of `plan`.
"""
