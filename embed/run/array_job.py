"""Which shard a process embeds: what flags say, else what the scheduler of a job array says in the environment.

SLURM gives the number of a task with the smallest, the largest, the step and the count of the array; LSF, whose arrays
begin at 1, the largest and the step; PBS the number alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from crossllm.cache.console.messages import note
from crossllm.cache.errors import InputError, printable
from crossllm.cache.records.shards import Shard

SLURM, LSF, PBS = "SLURM_ARRAY_TASK_", "LSB_JOBINDEX", "PBS_ARRAY_INDEX"
_BOTH = "name --num-shards N, of the whole array, and --first-index 0 or 1, at which it begins"


class _Task(NamedTuple):
    """One task of a job array."""

    number: int
    first: int
    """Number of the array's first task."""
    step: int
    tasks: int | None
    """Tasks of the array; None where that is not known, or where only a part of an array was submitted."""
    read: str
    """The variables, as they are."""


def asked_shard(
    index: int | None, count: int | None, first_index: int | None, environment: Mapping[str, str]
) -> Shard | None:
    """The shard to embed, which is said where the environment decides it; None: everything.

    Args:
        index: of `--shard-index`, counted from 0.
        count: of `--num-shards`; 1 is everything, whatever the environment says.
        first_index: of `--first-index`: the number at which the tasks of the array are counted.
        environment: the process's.

    Raises:
        InputError: a flag lacks its fellow, a variable is no number, the index is not one of the shards, or the array
            is not whole and flags do not say of what it is a part.
    """
    if index is not None:
        if count is None:
            raise InputError(f"--shard-index {index}: of how many? Add --num-shards")
        if first_index is not None:
            raise InputError(f"--first-index {first_index}: is for what a scheduler counts; --shard-index begins at 0")
        return _one_of(Shard(index, count), "--shard-index", "")
    if count == 1:
        return None
    task = _slurm(environment) or _lsf(environment) or _pbs(environment)
    if task is None:
        if count is None and first_index is None:
            return None
        flag = f"--num-shards {count}" if count is not None else f"--first-index {first_index}"
        raise InputError(f"{flag}: which of them? Add --shard-index; no variable of a job array is set")
    if count is None and task.read.startswith(PBS):
        if first_index is not None:
            raise InputError(f"--first-index {first_index}: add --num-shards, which PBS does not say")
        note(f"note: {task.read}, and no --num-shards: all sequences are embedded here")
        return None
    found = _one_of(_placed(task, count, first_index), "the task", task.read)
    note(f"note: {task.read}: shard {found.number} of {found.total}, counted from 0; --num-shards 1 embeds everything")
    return found if found.total > 1 else None


def _placed(task: _Task, count: int | None, first_index: int | None) -> Shard:
    if first_index is not None:
        if count is None:
            raise InputError(f"--first-index {first_index}: of how many shards? Add --num-shards")
        return Shard(task.number - first_index, count)
    if task.read.startswith(SLURM) and (task.tasks is None or count not in (None, task.tasks)):
        said = "is no whole array" if task.tasks is None else f"is an array of {task.tasks}, not of {count}"
        raise InputError(f"{task.read}: {said}, so which shard this is cannot be told; {_BOTH}")
    place, rest = divmod(task.number - task.first, task.step)
    if rest or (count or task.tasks) is None:
        raise InputError(f"{task.read}: the step does not lead to the task; {_BOTH}")
    return Shard(place, int(count or task.tasks or 0))


def _one_of(shard: Shard, what: str, read: str) -> Shard:
    if 0 <= shard.number < shard.total:
        return shard
    where = f"{read}: {what}" if read else what
    fix = "; check --num-shards, and --first-index where the array does not begin at its number" if read else ""
    raise InputError(f"{where} is shard {shard.number} of {shard.total}, 0 to {shard.total - 1} are expected{fix}")


def _slurm(environment: Mapping[str, str]) -> _Task | None:
    """An array is whole where it begins at 0, 1 or its step, and lies from there to its end without gaps."""
    names = [f"{SLURM}{name}" for name in ("ID", "COUNT", "MIN", "MAX", "STEP")]
    given = {name: value for name in names if (value := _number(environment, name)) is not None}
    number, count, first, last, step = map(given.get, names)
    if number is None:
        return None
    read = ", ".join(f"{name}={value}" for name, value in given.items())
    if count is None or first is None or not (step := 1 if step is None else step):
        return _Task(number, 0, 1, None, read)
    whole = first in (0, 1, step) and (last is None or last - first == (count - 1) * step)
    whole = whole and (number - first) % step == 0 and 0 <= number - first < count * step
    return _Task(number, first, step, count if whole else None, read)


def _lsf(environment: Mapping[str, str]) -> _Task | None:
    number = _number(environment, LSF)
    if not number:  # 0: a job that is no array
        return None
    last, step = _number(environment, f"{LSF}_END"), _number(environment, f"{LSF}_STEP") or 1
    read = f"{LSF}={number}" + (f", {LSF}_END={last}" if last else "") + (f", {LSF}_STEP={step}" if step > 1 else "")
    return _Task(number, 1, step, (last - 1) // step + 1 if last else None, read)


def _pbs(environment: Mapping[str, str]) -> _Task | None:
    number = _number(environment, PBS)
    return None if number is None else _Task(number, 0, 1, None, f"{PBS}={number}")


def _number(environment: Mapping[str, str], name: str) -> int | None:
    """What a variable says; None where it is not set, or empty."""
    text = environment.get(name, "").strip()
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise InputError(
            f"{name}={printable(text)}: a number of up to nine digits is expected; name --shard-index and --num-shards"
        )
    return int(text)
