"""Datasets: importing them, the pairs table, the generated demo, and how folds are cut (`splits`).

From outside: `load_dataset` of `dataset`, `import_dataset` of `importing`, `read_pairs` of `pairs`.
"""
