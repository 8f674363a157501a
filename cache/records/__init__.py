"""FASTA, SMILES, CSV and SDF → records with keys, and the table that says which id stands for which key.

From outside: `read_records` of `reading`, `Record`, `key_of` and `normalise` of `record`, `read_table` of `id_table`.
"""
