"""The child that RDKit runs in: stopped at its bounds, replaced, never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crossllm.cache.records.molecules import read_molecules
from crossllm.cache.records.rdkit_child import Answer, RdkitChild

pytestmark = pytest.mark.slow

# Of RDKit's issue 1360: once two hours and 200 GB in the search for rings.
HIGHLY_CYCLIC = (
    "COC1=CC=C(C=C1)C2C3=C(C=CC4=CC=CC=C43)OC5=CC6=C(C=C5)C7=NC8=C9C=CC1=CC9=C(N8)N=C3C4=C5C=CC(=C4)OC4=C(C(C8=C(C=CC9="
    "CC=CC=C98)OC8=CC9=C(C=C8)C8=NC9=NC9=C%10C=C(C=CC%10=C(N9)N=C9C%10=C(C=C(C=C%10)OC%10=C2C2=CC=CC=C2C=C%10)C(=N9)NC2"
    "=NC(=N8)C8=C2C=C(C=C8)OC2=C(C(C8=C(C=CC9=CC=CC=C98)OC8=CC9=C(C=C8)C(=NC5=N3)N=C9NC6=N7)C3=CC=C(C=C3)OC)C3=CC=CC=C3C"
    "=C2)OC2=C(C(C3=C(O1)C=CC1=CC=CC=C13)C1=CC=C(C=C1)OC)C1=CC=CC=C1C=C2)C1=CC=C(C=C1)OC)C1=CC=CC=C1C=C4"
)


def test_a_molecule_that_once_took_hours_is_answered_in_time() -> None:
    with RdkitChild() as child:
        started = time.monotonic()
        answer = child.canonical(HIGHLY_CYCLIC)
        assert time.monotonic() - started < 15
        assert answer.problem is None or "was stopped after 10 s" in answer.problem or "died" in answer.problem
        assert child.canonical("OCC").smiles == "CCO"


def v3000_of(atoms: int) -> str:
    """A mol block of single carbons: memory without end from few bytes."""
    lines = "".join(f"M  V30 {n} C 0 0 0 0\n" for n in range(1, atoms + 1))
    head = f"big\n\n\n  0  0  0     0  0            999 V3000\nM  V30 BEGIN CTAB\nM  V30 COUNTS {atoms} 0 0 0 0\n"
    return f"{head}M  V30 BEGIN ATOM\n{lines}M  V30 END ATOM\nM  V30 END CTAB\nM  END\n"


def test_a_molecule_over_its_time_is_stopped_and_the_next_is_read() -> None:
    slow = v3000_of(20_000)  # seconds, where one of a drug's size takes a thousandth
    with RdkitChild(seconds=0.25) as child:
        answer = child.canonical(slow)
        assert answer.problem == "RDKit was stopped after 0.25 s on this molecule"
        assert child._process is None
        child._seconds = 20.0
        assert child.canonical("OCC").smiles == "CCO"
        assert child.canonical(slow).problem is None, "the control: it is the time alone that stops it"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_a_molecule_over_its_memory_is_an_answer_and_the_next_is_read() -> None:
    with RdkitChild() as child:
        child.canonical("C")
        assert child._process is not None
        status = Path(f"/proc/{child._process.pid}/status").read_text()
        taken = int(status.split("VmSize:")[1].split()[0]) << 10
    with RdkitChild(seconds=60, memory=taken + (24 << 20)) as child:
        assert child.canonical("OCC").smiles == "CCO"
        answer = child.canonical(v3000_of(20_000))
        assert answer.problem is not None
        assert "ran out of memory" in answer.problem or "died on this molecule" in answer.problem
        assert child.canonical("OCC").smiles == "CCO"


def test_a_child_that_dies_is_an_answer_and_is_replaced() -> None:
    with RdkitChild() as child:
        child.canonical("C")
        assert child._process is not None
        first = child._process.pid
        os.kill(first, signal.SIGKILL)
        assert "RDKit died on this molecule" in (child.canonical("C").problem or "")
        assert child.canonical("OCC").smiles == "CCO"
        assert child._process is not None
        assert child._process.pid != first
        last = child._process
    assert last.poll() is not None, "no child outlives the reader"


def test_a_stopped_molecule_is_one_bad_record_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = RdkitChild.canonical

    def hang_on_propane(self: RdkitChild, structure: str) -> Answer:
        if structure == "CCC":
            assert self._process is not None
            os.kill(self._process.pid, signal.SIGSTOP)
            self._seconds = 0.1
        return ask(self, structure)

    monkeypatch.setattr(RdkitChild, "canonical", hang_on_propane)
    (tmp_path / "m.smi").write_text("a\tC\nslow\tCCC\n")
    found = read_molecules(tmp_path / "m.smi", "skip")
    assert [r.id for r in found.records] == ["a"]
    (problem,) = found.skipped
    assert str(problem) == f"{tmp_path}/m.smi:2: RDKit was stopped after 0.1 s on this molecule (record slow); " + (
        "correct it"
    )


@pytest.mark.skipif(os.name != "posix", reason="no sessions")
def test_the_child_has_a_session_of_its_own() -> None:
    """Ctrl-C at the terminal goes to the parent alone, which finishes the record at hand."""
    with RdkitChild() as child:
        child.canonical("C")
        assert child._process is not None
        assert os.getsid(child._process.pid) == child._process.pid


def test_a_folder_called_cache_beside_the_user_is_not_imported_by_the_child(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "__init__.py").write_text("raise SystemExit('the wrong cache')")
    (tmp_path / "rdkit.py").write_text("raise SystemExit('the wrong rdkit')")
    (tmp_path / "m.smi").write_text("a\tOCC\n")
    code = "import sys; sys.path.remove(''); from crossllm.cache.records.rdkit_child import RdkitChild as R\n"
    code += "with R() as c: print(c.canonical('OCC')[0])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "CCO\n", done.stderr
