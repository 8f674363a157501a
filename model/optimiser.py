"""AdamW with a rate that changes by the step: torch's function, without torch's `Optimizer` around it.

`torch.optim.Optimizer` loads torch's compiler when it is made, 1.5 s in every process that trains, and looks through
all parameters and their settings at each step.  Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2; a test holds
it to `torch.optim.AdamW`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

BETAS, FLOOR = (0.9, 0.999), 1e-8
"""As torch has them."""
STATE = ("step", "exp_avg", "exp_avg_sq")
"""Of a parameter: steps done, and the moving means of its gradient and of its square; torch's names."""


class AdamW:
    """Updates a model's parameters in place from their `grad`.

    Weight decay is on matrices only: not on biases, norms and D, nor on A_log, whose decay would move A towards −1.

    Args:
        model: whose parameters; they are on their device already.
        rate: learning rate of a step, after so many done.
        decay: weight decay, of matrices.
    """

    def __init__(self, model: nn.Module, rate: Callable[[int], float], decay: float) -> None:
        self.rate, self._decay = rate, decay
        named = list(model.named_parameters())
        self.parameters = [parameter for _, parameter in named]
        self._decayed = [parameter.ndim > 1 and not name.endswith("A_log") for name, parameter in named]
        self._state: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self.done = 0
        """Steps done."""

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> None:
        """One step; a parameter without a gradient stays as it is."""
        for decayed in (True, False):
            places = [n for n, p in enumerate(self.parameters) if p.grad is not None and self._decayed[n] is decayed]
            self._update(places, self._decay if decayed else 0.0)
        self.done += 1

    def _update(self, places: list[int], decay: float) -> None:
        if not places:
            return
        own: list[Tensor] = [self.parameters[n] for n in places]
        slopes = [parameter.grad for parameter in own if parameter.grad is not None]
        counts, means, squares = zip(*(self._of(n) for n in places), strict=True)
        with torch.no_grad():
            adamw(
                own, slopes, [*means], [*squares], [], [*counts], fused=True, amsgrad=False, beta1=BETAS[0],
                beta2=BETAS[1], lr=self.rate(self.done), weight_decay=decay, eps=FLOOR, maximize=False,
            )  # fmt: skip

    def _of(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        if number not in self._state:
            own = self.parameters[number].detach()
            count = torch.zeros((), dtype=torch.float32, device=own.device)
            self._state[number] = count, torch.zeros_like(own), torch.zeros_like(own)
        return self._state[number]

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on beside the weights and `done`, by name: `N.exp_avg` of parameter N."""
        held = sorted(self._state.items())
        return {f"{n}.{name}": tensor for n, own in held for name, tensor in zip(STATE, own, strict=True)}

    def restore(self, state: Mapping[str, Tensor], done: int) -> None:
        """Take what `state` gave, and the number of steps done."""
        numbers = sorted({int(name.partition(".")[0]) for name in state})
        for n in numbers:
            device = self.parameters[n].device
            count, mean, square = (state[f"{n}.{name}"].to(device, copy=True) for name in STATE)
            self._state[n] = count, mean, square
        self.done = done
