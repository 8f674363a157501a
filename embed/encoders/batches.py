"""Windows of sequences through a model in batches: as many tokens at once as fit, and what to do when they do not.

`launch` starts a batch and returns a function that waits for its rows.  On a device that computes by itself one batch
is on its way while the host cuts up and stores the one before.
Where memory runs out the budget is halved for the rest of the run and the same windows are cut into batches again; only
a window that does not fit alone is given up, and its sequence with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch

from crossllm.cache.console.messages import note
from crossllm.embed.encoder import Outputs
from crossllm.embed.encoders.windows import Window
from crossllm.embed.engine.device import give_back_memory, is_out_of_memory


class Piece(NamedTuple):
    """One window of one sequence."""

    record: int
    """Which sequence of those that are encoded together."""
    window: Window
    text: str
    """The window's letters."""
    tokens: int
    """What they take in a batch, special tokens and pads too."""


Landing = Callable[[], Sequence[Outputs]]
"""Waits for a batch; the outputs of each of its pieces, in their order: arrays (L, D)."""


class Batches:
    """Runs pieces by length, so that a batch needs little padding, or none."""

    def __init__(self, launch: Callable[[Sequence[Piece]], Landing], budget: int, device: torch.device) -> None:
        """`budget` is the most tokens of a batch; a longer piece is a batch of its own."""
        self._launch, self.budget, self._device = launch, budget, device
        self.ahead = int(device.type == "cuda")
        """Batches on their way while one is given out."""

    def run(self, pieces: Iterable[Piece]) -> Iterator[tuple[Piece, Outputs | None]]:
        """Each piece with its outputs.  None for one that does not fit alone; nothing more comes of its record then."""
        waiting = sorted(pieces, key=lambda piece: piece.tokens)
        flying: list[tuple[Sequence[Piece], Landing]] = []
        given_up: set[int] = set()

        def landed() -> Iterator[tuple[Piece, Outputs]]:
            batch, landing = flying.pop(0)
            yield from ((p, found) for p, found in zip(batch, landing(), strict=True) if p.record not in given_up)

        while waiting:
            batch, alone = waiting[: self._fitting(waiting)], not flying
            landing = self._attempt(batch)
            if landing is not None:
                flying.append((batch, landing))
                waiting = waiting[len(batch) :]
            while len(flying) > (self.ahead if landing is not None else 0):
                yield from landed()
            if landing is not None:
                continue
            if len(batch) > 1:
                self._halve(sum(piece.tokens for piece in batch))
            elif alone:  # else once more, now that nothing else is on the device
                given_up.add(batch[0].record)
                waiting = [piece for piece in waiting if piece.record not in given_up]
                yield batch[0], None
        while flying:
            yield from landed()

    def _fitting(self, waiting: Sequence[Piece]) -> int:
        """How many of the first pieces make a batch: at least one."""
        total = 0
        for n, piece in enumerate(waiting):
            total += piece.tokens
            if n and total > self.budget:
                return n
        return len(waiting)

    def _attempt(self, batch: Sequence[Piece]) -> Landing | None:
        """The batch on its way, or None where there was not enough memory for it."""
        try:
            return self._launch(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Only here, when the error no longer holds on to what was made before it.
        give_back_memory(self._device)
        return None

    def _halve(self, tokens: int) -> None:
        self.budget = max(1, min(self.budget, tokens) // 2)
        note(
            f"note: out of memory with {tokens:,} tokens at once on {self._device}; going on with at most "
            f"{self.budget:,} (--batch-tokens)"
        )
