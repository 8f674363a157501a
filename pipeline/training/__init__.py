"""One run's training: what it reads (`inputs`), its batches, a fold's epochs (`fold`), the folder it leaves.

From outside: `TrainConfig` of `config`, `TrainOptions` of `inputs`, `RunFolder` of `run_folder`.
"""
