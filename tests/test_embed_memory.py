"""Out of memory: smaller batches, no sequence lost, and only what does not fit alone is given up."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from made_weights import load
from safetensors.torch import save_file
from test_embed_transformer import _fair_names, far, records, tiny
from tolerances import ROWS
from torch import Tensor

from crossllm.cache import Record
from crossllm.embed.encoder import Encoder, NotEncoded, Outputs
from crossllm.embed.encoders import esm2, language_model
from crossllm.embed.encoders.batches import Batches, Landing, Piece
from crossllm.embed.encoders.windows import Window
from crossllm.embed.engine import device
from crossllm.embed.engine.device import is_out_of_memory
from crossllm.embed.engine.transformer import Transformer

pytestmark = pytest.mark.slow

TEXTS = ["M" * 290, *("MK" * n for n in range(1, 60)), "LAGV" * 30]


@pytest.fixture
def weights(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny(monkeypatch, esm2, "esm2-8m", (32, 2, 4))
    save_file(_fair_names(esm2.published(32, 2, 4), rng), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def small_memory(monkeypatch: pytest.MonkeyPatch, most: int, error: Exception) -> list[int]:
    """A model that can do no more than so many tokens at once; the tokens of each batch it is asked for."""
    asked: list[int] = []
    real = Transformer.rows

    def rows(self: Transformer, ids: Tensor, lengths: Sequence[int], layers: Sequence[int] = ()) -> list[Tensor]:
        asked.append(len(ids))
        if len(ids) > most:
            raise error
        return real(self, ids, lengths, layers)

    monkeypatch.setattr(Transformer, "rows", rows)
    return asked


CPU_ERROR = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "4096000000 bytes. Error code 12 (Cannot allocate memory)"
)
ERRORS = {"CUDA": torch.OutOfMemoryError("CUDA out of memory."), "CPU": CPU_ERROR, "NumPy": MemoryError()}


def encoded(encoder: Encoder, made: Sequence[Record]) -> dict[bytes, np.ndarray | NotEncoded]:
    found: dict[bytes, np.ndarray | NotEncoded] = {}
    for key, outputs in encoder.encode(made):
        assert key not in found, "each key once"
        found[key] = outputs if isinstance(outputs, NotEncoded) else outputs[0]
    assert found.keys() == {record.key for record in made}, "nothing is dropped"
    return found


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("long", ["whole", "window:100:50"])
def test_smaller_batches_give_the_same_rows(
    long: str,
    ahead: int,
    error: str,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = records(TEXTS, "protein")
    expected = encoded(load("protein", "esm2-8m", weights, dim=32, long=long), made)
    encoder = load("protein", "esm2-8m", weights, batch_tokens=1000, dim=32, long=long)
    encoder._batches.ahead = ahead  # type: ignore[attr-defined]
    asked = small_memory(monkeypatch, 150, ERRORS[error])
    found = encoded(encoder, made)
    for record in made:
        rows, wanted = found[record.key], expected[record.key]
        assert isinstance(wanted, np.ndarray)
        if long == "whole" and record.length > 148:
            ways = "use --long window or --compute bfloat16 or a device with more memory"
            assert rows == NotEncoded(f"out of memory: 290 residues at once do not fit on cpu; {ways}")
        else:
            assert isinstance(rows, np.ndarray)
            assert far(rows, wanted) < ROWS["float32"]
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("note: out of memory with ")
    assert 1 <= len(said) <= 4, "one line a halving, and the budget stays halved"
    assert all(line.endswith("(--batch-tokens)") for line in said)
    refused = sum(tokens > 150 for tokens in asked)
    alone = 1 + ahead if long == "whole" else 0  # beside another batch, and once more without
    assert refused == len(said) + alone, "no batch is tried again as it was"


def test_windows_of_a_sequence_that_does_not_fit_are_not_computed(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = records(["M" * 1000, "MK", "K" * 900], "protein")
    encoder = load("protein", "esm2-8m", weights, batch_tokens=120, dim=32, long="window:100:50")
    asked = small_memory(monkeypatch, 90, ERRORS["CUDA"])
    found = encoded(encoder, made)
    reasons = [getattr(found[record.key], "reason", None) for record in made]
    ways = "use --compute bfloat16 or a device with more memory"
    assert reasons == [f"out of memory: 100 residues at once do not fit on cpu; {ways}", None, reasons[0]]
    assert sorted(asked) == [4, 102, 102, 106], "one window each was tried"


def test_other_errors_are_not_taken_for_a_lack_of_memory(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load("protein", "esm2-8m", weights, dim=32)
    small_memory(monkeypatch, 10, RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        encoded(encoder, records(TEXTS, "protein"))


def test_what_torch_says_where_there_is_no_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    with pytest.raises(MemoryError) as numpys:
        np.empty(1 << 60, np.uint8)
    assert is_out_of_memory(numpys.value)
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(OSError("out of memory"))


@pytest.mark.parametrize("value", [1.0, 65504.0, 1e5, np.nan, np.inf])
def test_rows_come_from_cuda_as_they_are_stored_unless_that_loses_them(
    value: float, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """The copy itself needs CUDA; pinned memory and the wait for the device are replaced here."""
    waited: list[torch.device] = []
    monkeypatch.setattr(device, "_pinned", lambda shape, dtype: torch.empty(shape, dtype=dtype))
    monkeypatch.setattr(device, "_mark", lambda of: lambda: waited.append(of))
    rows = torch.tensor(rng.normal(size=(5, 3)), dtype=torch.float32)
    rows[4, 1] = value
    for stored in (torch.float16, torch.float32):
        found = device._fetch_ahead(rows, stored)()
        fits = stored == torch.float32 or abs(value) <= 65504
        assert found.dtype == np.dtype("float16" if stored == torch.float16 and fits else "float32")
        assert np.array_equal(found, rows.numpy().astype(found.dtype), equal_nan=True)
    assert len(waited) == 2


def test_windows_of_one_sequence_may_come_in_two_types(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one batch holds a value beyond float16, its rows come as float32; none of the others may lose by it."""
    made = records(["MKTAYIAKQR" * 40, "LAGV"], "protein")
    policy = {"dim": 32, "long": "window:100:50", "batch_tokens": 250}
    expected = encoded(load("protein", "esm2-8m", weights, **policy), made)  # type: ignore[arg-type]
    encoder = load("protein", "esm2-8m", weights, **policy)  # type: ignore[arg-type]
    count = 0

    def fetch(rows: Tensor, stored: torch.dtype) -> Callable[[], np.ndarray]:
        nonlocal count
        count += 1
        assert stored == torch.float16
        large = rows.float() * (1e5 if count % 2 else 1)
        return lambda: (large if count % 2 else large.half()).numpy()

    monkeypatch.setattr(language_model, "fetch", fetch)
    found = encoded(encoder, made)
    assert count > 2
    for record in made:
        rows, wanted = found[record.key], expected[record.key]
        assert isinstance(rows, np.ndarray)
        assert isinstance(wanted, np.ndarray)
        assert np.isfinite(rows).all()
        scale = np.where(np.abs(rows).max(1) > 1000, 1e5, 1)[:, None]
        assert far(rows / scale, wanted) < 1e-3


def pieces(tokens: Sequence[int]) -> list[Piece]:
    return [Piece(n, Window(0, t, 0, t), "M" * t, t) for n, t in enumerate(tokens)]


def flights(log: list[str], fails: Callable[[Sequence[Piece]], bool]) -> Callable[[Sequence[Piece]], Landing]:
    def launch(batch: Sequence[Piece]) -> Landing:
        names = ",".join(str(piece.record) for piece in batch)
        if fails(batch):
            log.append(f"no {names}")
            raise torch.OutOfMemoryError
        log.append(f"up {names}")

        def land() -> list[np.ndarray]:
            log.append(f"down {names}")
            return [(np.zeros((piece.tokens, 1), np.float32),) for piece in batch]

        return land

    return launch


def test_one_batch_is_on_its_way_while_another_is_given_out() -> None:
    log: list[str] = []
    batches = Batches(flights(log, lambda _: False), 10, torch.device("cpu"))
    batches.ahead = 1
    given: Iterator[tuple[Piece, Outputs | None]] = batches.run(pieces([5, 5, 10, 9]))
    assert next(given)[0].record == 0
    assert log == ["up 0,1", "up 3", "down 0,1"]
    assert [piece.record for piece, _ in given] == [1, 3, 2]
    assert log[3:] == ["up 2", "down 3", "down 2"]


def test_what_fails_beside_another_batch_is_tried_once_more_alone() -> None:
    """What is on its way takes memory too."""
    log: list[str] = []
    flying = lambda: sum(line[:2] == "up" for line in log) - sum(line[:4] == "down" for line in log)  # noqa: E731
    batches = Batches(flights(log, lambda batch: batch[0].tokens == 9 and flying() > 0), 10, torch.device("cpu"))
    batches.ahead = 1
    given = {piece.record: rows for piece, rows in batches.run(pieces([8, 9, 10]))}
    assert all(rows is not None for rows in given.values())
    assert log == ["up 0", "no 1", "down 0", "up 1", "up 2", "down 1", "down 2"]


CHILD = """
import resource, sys
import numpy as np, torch
from crossllm.embed.engine.attention import Packing
from crossllm.embed.encoders.batches import Batches, Piece
from crossllm.embed.engine.transformer import Design, Transformer, expected_shapes
from crossllm.embed.encoders.windows import Window

torch.set_num_threads(1)
design = Design(16, 1, 2, 1 << 16, 9)  # an inner width that makes 256 KiB of a token
tensors = {name: torch.rand(shape) * 0.1 for name, shape in expected_shapes(design).items()}
model = Transformer(tensors, design, torch.float32, torch.device("cpu"))

def launch(batch):
    (rows,) = model.rows(torch.ones(sum(p.tokens for p in batch), dtype=torch.int64), [p.tokens for p in batch])
    parts = [(part,) for part in np.split(rows.numpy(), np.cumsum([p.tokens for p in batch])[:-1])]
    return lambda: parts

lengths = [*range(100, 140), 8000]
pieces = [Piece(n, Window(0, t, 0, t), "M" * t, t) for n, t in enumerate(lengths)]
(expected,) = launch(pieces[:1])()[0]
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (600 << 20),) * 2)
batches = Batches(launch, 8000, torch.device("cpu"))
found = {piece.record: parts and parts[0] for piece, parts in batches.run(pieces)}
assert sorted(found) == list(range(len(lengths)))
assert [n for n, rows in found.items() if rows is None] == [40], "8,000 tokens are 2 GiB"
assert all(rows.shape == (t, 16) for t, rows in zip(lengths, [found[n] for n in range(40)]))
assert np.allclose(found[0], expected, atol=1e-5)
print(batches.budget)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS binds on Linux only")
def test_a_real_lack_of_memory_is_survived() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 130 < int(done.stdout) <= 4000
    assert done.stderr.count("note: out of memory") >= 1
