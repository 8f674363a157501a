"""RDKit in a child process: one molecule in, its canonical SMILES out, stopped when it takes too long or too much.

Run as a program (`python -m crossllm.cache.records.rdkit_child`) it answers JSON lines on standard output;
`RdkitChild` is the parent's end.  Anything outside this file sees `Answer`s only.
"""

from __future__ import annotations

import io
import json
import queue
import re
import subprocess
import sys
import threading
from contextlib import redirect_stderr, suppress
from types import TracebackType
from typing import Any, NamedTuple, Self

from crossllm.cache.console.child_process import bound_memory, end_child, start_child
from crossllm.cache.errors import one_line

SECONDS = 10.0
"""Wall time a molecule may take."""
MEMORY = 2 << 30
"""Bytes of address space the child may take."""
_START_SECONDS = 120.0
_ROUNDS = 8
_STAMP = re.compile(r"^\[[0-9:]+\] ")
_BANNER = re.compile(r"\*+|.* (Violation|Error)")
"""What stands above the reason of a failed check in RDKit's log."""


class Answer(NamedTuple):
    """What became of one molecule."""

    smiles: str
    """Canonical; empty where there is a problem."""
    atoms: int
    problem: str | None
    """What RDKit said, or that it was stopped."""
    notes: tuple[str, ...]
    """What a reader of the file should know, to be counted."""


class RdkitChild:
    """The parent's end; a child that is stopped or dies is replaced at the next question."""

    def __init__(self, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        self._seconds, self._memory = seconds, memory
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.Queue[bytes | None] = queue.Queue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self._stop()

    def canonical(self, structure: str) -> Answer:
        """The canonical form of a SMILES or a mol block (known by its newlines)."""
        process = self._process or self._start()
        assert process.stdin is not None  # Popen was given a pipe
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(structure).encode() + b"\n")
            process.stdin.flush()
        try:
            line = self._answers.get(timeout=self._seconds)
        except queue.Empty:
            self._stop()
            return Answer("", 0, f"RDKit was stopped after {self._seconds:g} s on this molecule", ())
        if line is None:
            self._stop()
            return Answer("", 0, f"RDKit died on this molecule, of more than {self._memory >> 20} MiB or a crash", ())
        smiles, atoms, problem, notes = json.loads(line)
        return Answer(smiles, atoms, problem, tuple(notes))

    def _start(self) -> subprocess.Popen[bytes]:
        process = start_child("crossllm.cache.records.rdkit_child", str(self._memory))
        self._process, self._answers = process, queue.Queue()
        threading.Thread(target=_listen, args=(process, self._answers), daemon=True).start()
        try:
            ready = self._answers.get(timeout=_START_SECONDS)
        except queue.Empty:
            ready = None
        if ready is None:
            self._stop()
            raise RuntimeError("the RDKit child did not start; is rdkit installed? (`python -c 'import rdkit'`)")
        return process

    def _stop(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        end_child(process)


def _listen(process: subprocess.Popen[bytes], answers: queue.Queue[bytes | None]) -> None:
    assert process.stdout is not None  # Popen was given a pipe
    with suppress(ValueError):  # closed by _stop
        for line in process.stdout:
            answers.put(line)
    answers.put(None)


def canonical(structure: str) -> Answer:
    """The canonical form of a SMILES or a mol block, in this process.

    Canonical SMILES are not always their own canonical form, so they are read and written again until they are; if
    they run in a circle, the first of the circle in ASCII order is taken.
    """
    from rdkit import Chem, rdBase

    rdBase.LogToPythonStderr()
    log = io.StringIO()
    with redirect_stderr(log):
        molecule, notes = _parse(structure)
        if isinstance(molecule, str):
            return Answer("", 0, _said(log.getvalue()) or molecule, ())
        seen = [Chem.MolToSmiles(molecule)]
        for _ in range(_ROUNDS):
            again: Any = Chem.MolFromSmiles(seen[-1])
            if again is None:
                return Answer("", 0, f"RDKit cannot read its own canonical SMILES '{seen[-1][:60]}'", ())
            smiles = Chem.MolToSmiles(again)
            if smiles in seen:
                break
            seen.append(smiles)
        else:
            return Answer("", 0, "its canonical SMILES does not settle", ())
        smiles = min(seen[seen.index(smiles) :])
        atoms = Chem.MolFromSmiles(smiles).GetNumAtoms()
    return Answer(smiles, atoms, None, (*notes, *_notes(smiles)))


def _parse(structure: str) -> tuple[Any, tuple[str, ...]]:  # rdkit's own types say less than the truth
    """An RDKit molecule without atom-map numbers, or what is wrong; then what was left out of it."""
    from rdkit import Chem

    options: Any = Chem.SmilesParserParams()
    options.sanitize = options.removeHs = options.allowCXSMILES = False
    try:
        if "\n" in structure:  # its stereochemistry is in coordinates and wedges, which only the whole reader perceives
            found: Any = Chem.MolFromMolBlock(structure)
            if found is None:
                return "RDKit cannot read this mol block", ()
            return found, _clear_maps(found)
        molecule: Any = Chem.MolFromSmiles(structure, options)
        if molecule is None:
            return "RDKit cannot read this structure", ()
        notes = _clear_maps(molecule)  # first: a numbered hydrogen would stay an atom
        Chem.SanitizeMol(molecule)
        Chem.AssignStereochemistry(molecule, cleanIt=True)
        return Chem.RemoveHs(molecule), notes
    except (ValueError, RuntimeError) as error:  # AtomValenceException, KekulizeException, …
        return f"RDKit: {one_line(error)}", ()


def _clear_maps(molecule: Any) -> tuple[str, ...]:
    """Take off what numbers the atoms of a reaction: it is no part of the molecule, and would be part of its key."""
    numbered = [atom for atom in molecule.GetAtoms() if atom.GetAtomMapNum()]
    for atom in numbered:
        atom.SetAtomMapNum(0)
    return ("with atom-map numbers, left out",) if numbered else ()


def _said(log: str) -> str:
    """The first line of RDKit's log, without its time stamp and without the structure."""
    for line in log.splitlines():
        text = _STAMP.sub("", line).removeprefix("SMILES Parse Error: ").split(" for input")[0].strip()
        if text and not _BANNER.fullmatch(text):
            return "RDKit: " + text
    return ""


def _notes(smiles: str) -> tuple[str, ...]:
    found = []
    if "." in smiles:
        found.append("several fragments (a salt or a mixture), kept whole")
    if "*" in smiles:
        found.append("with wildcard atoms, kept as unknown")
    if "~" in smiles:
        found.append("with bonds of any kind ('~', as SMARTS have), kept as unknown")
    return tuple(found)


def main() -> None:
    """The child: a JSON string a line in, an `Answer` a line out."""
    from rdkit import Chem  # noqa: F401  (before the bound, and before the first molecule's clock starts)

    bound_memory(int(sys.argv[1]))
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            answer = canonical(json.loads(line))
        except MemoryError:
            answer = Answer("", 0, "RDKit ran out of memory on this molecule", ())
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
