"""The device that `--device` names."""

from __future__ import annotations

import torch

from cache.errors import InputError, one_line


def device_of(name: str) -> torch.device:
    """The device, tried with one number.

    Raises:
        InputError: there is no such device here.
    """
    try:
        device = torch.device(name)
        if torch.zeros(1, device=device).cpu().item() != 0:
            raise RuntimeError("it does not keep numbers")
    # torch has no class of its own for these, and imports what drives some devices only now.
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = one_line(error).split(". ")[0]
        raise InputError(f"--device {name}: {reason}; `cpu` always works") from None
    return device
