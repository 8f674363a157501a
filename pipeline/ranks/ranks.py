"""The processes that train one model together, as one of them sees them; of one alone nothing is sent.

The first keeps the run's folder and decides; the others do what it tells them.  Gradients are summed by NCCL between
GPUs, all else goes through gloo on the CPUs.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


class RankLost(OSError):
    """Another process has ended, or no longer answers."""

    def __init__(self, count: int) -> None:
        super().__init__(errno.EIO, "has ended, or no longer answers", f"one of the {count} processes")


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is; of several, torch's process group is there."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this one keeps the run's folder."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of every process's values, in place.

        Raises:
            RankLost: so do all that follow.
        """
        if self.count > 1 and values.numel():
            self._sent(dist.all_reduce, values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether it is so in any of them."""
        return bool(self.sum(torch.tensor([int(flag)])).item())

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Make all of them the first one's, in place."""
        if self.count > 1:
            for tensor in tensors:
                self._sent(dist.broadcast, tensor, 0)

    def tell(self, message: Any) -> Any:
        """What the first one says, in all of them; anything that JSON holds.  What the others give is not used."""
        if self.count == 1:
            return message
        return json.loads(self.tell_bytes(json.dumps(message).encode() if self.first else b""))

    def tell_bytes(self, data: bytes) -> bytes:
        """Bytes of the first one, in all of them."""
        size = torch.tensor([len(data)])
        self.copy_first([size])
        held = torch.frombuffer(bytearray(data), dtype=torch.uint8) if self.first else None
        body = torch.empty(int(size), dtype=torch.uint8) if held is None else held
        self.copy_first([body])
        return body.numpy().tobytes()

    def _sent(self, send: Callable[..., Any], *arguments: Any) -> None:
        try:
            send(*arguments)
        except RuntimeError as error:
            raise RankLost(self.count) from error


ALONE = Ranks()
