"""Embeddings of other tools: reading their layouts (`importing`) and writing them (`exporting`).

From outside: `import_embeddings` of `importing`, `export_embeddings` of `exporting`.
"""
