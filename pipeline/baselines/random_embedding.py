"""`random_embedding`: the model itself on rows that mean nothing, so that it can know sequences and not read them.

Shapes: L rows of a sequence, D their width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from crossllm.cache.console.progress import Lines
from crossllm.cache.store.reader import Packed
from crossllm.pipeline.baselines.material import Material, Scores
from crossllm.pipeline.splits.parts import Parts
from crossllm.pipeline.training.batches import PairBatches, Rows
from crossllm.pipeline.training.fold import fit_fold, fold_seed
from crossllm.pipeline.training.progress import Epoch

_SCALE = np.float32(np.sqrt(12 / (256**2 - 1)))
"""1 ÷ the deviation of a uniform byte."""


class RandomRows:
    """Stands in for a reader: for each key, random rows of its own, always the same, as many and as wide as the real.

    Values are uniform, of mean 0 and deviation 1, in 256 steps: drawn for each batch again, and that is fast.
    """

    def __init__(self, rows: Rows, seed: int) -> None:
        self._rows, self._seed = rows, seed
        self.folder, self.recipe = rows.folder, rows.recipe

    def __getitem__(self, key: bytes) -> np.ndarray:
        """(L, D) float32 rows of a key."""
        shape = self.length(key), self.recipe.dim
        words = -(-shape[0] * shape[1] // 8)
        source = np.random.SFC64(np.random.SeedSequence([self._seed, *np.frombuffer(key, np.uint32).tolist()]))
        drawn = np.asarray(source.random_raw(words)).view(np.uint8)[: shape[0] * shape[1]]
        rows: np.ndarray = (drawn.reshape(shape).astype(np.float32) - np.float32(127.5)) * _SCALE
        return rows

    def length(self, key: bytes) -> int:
        """L."""
        return self._rows.length(key)

    def gather(self, keys: Sequence[bytes]) -> Packed:
        """Rows of many keys, one after the other, and where each begins."""
        rows = [self[key] for key in keys]
        return Packed(np.concatenate(rows), np.cumsum([0, *map(len, rows)]))

    def prefetch(self, keys: Iterable[bytes]) -> None:
        """Nothing has to be read."""


def random_embedding(material: Material, parts: Parts, number: int) -> Scores:
    """Trained as the model is, epoch chosen on the validation part; not fitted again on both parts, as it is not."""
    config = material.config
    first, second = (RandomRows(reader, config.seed) for reader in material.readers)
    batches = PairBatches.of_dataset(material.dataset, (first, second), material.window)
    lines = Lines(material.quiet)

    def told(epoch: Epoch) -> None:
        share = epoch.epoch / config.epochs
        lines.tell(
            lambda: f"random_embedding, fold {number + 1}, epoch {epoch.epoch} of at most {config.epochs}", share
        )

    found = fit_fold(batches, parts, config, fold_seed(config.seed, number), material.device, told)
    return Scores(found.score.astype(np.float64), found.threshold)
