"""Whatever changes a cache goes through `cache.files.fsio`, where tests can log it, kill it and make it fail."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
from conftest import ROOT

WATCHED = [
    *(path for path in (ROOT / "cache").rglob("*.py") if (path.parent / "__init__.py").exists()),
    *(ROOT / "embed" / "run").glob("*.py"),
    ROOT / "embed" / "foreign" / "importing.py",
]
CHANGING = frozenset(
    {"mkdir", "makedirs", "rename", "renames", "link", "symlink", "unlink", "remove", "removedirs", "rmdir", "touch"}
    | {"truncate", "ftruncate", "utime", "chmod", "chown", "fsync", "fdatasync", "pwrite", "writev", "symlink_to"}
    | {"write_text", "write_bytes", "hardlink_to", "rmtree", "copy", "copy2", "copyfile", "copytree", "move", "tofile"}
    | {"save", "savez", "memmap", "open_memmap", "mkstemp", "mkdtemp", "NamedTemporaryFile", "TemporaryFile"}
    | {"TemporaryDirectory", "create_array", "create_group"}
)
"""Names of calls that change files, whoever they belong to: `os`, `Path`, `shutil`, numpy, zarr."""
WRITE_MODE = re.compile(r"[wax][bt]?\+?[bt]?|r[bt]?\+[bt]?")
ALLOWED = {
    ("cache/files/fsio.py", "*"): "fsio itself",
    ("embed/run/ack.py", "write"): "to a descriptor of the caller's, no file of a cache",
    ("cache/remote/local.py", "*"): "copies of what lies in an object store",
    ("cache/cluster/opening.py", "TemporaryDirectory"): "scratch of Dask's workers, nothing of a cache",
    ("cache/store/hdf5_writer.py", "File"): "in memory: the bytes go to the disk by fsio",
}


def changes(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of every call that may change a file and is not one of `fsio`'s."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        if isinstance(owner, ast.Name) and owner.id in ("fsio", "local", "self"):
            continue
        texts = [a.value for a in (*node.args, *(k.value for k in node.keywords)) if isinstance(a, ast.Constant)]
        opens = name in ("open", "fdopen", "File", "open_group", "open_array")
        of_os = isinstance(owner, ast.Name) and owner.id == "os" and name in ("replace", "write")
        of_path = (
            name == "replace" and len(node.args) == 1 and not node.keywords
        )  # a text's takes two, a record's names
        if (
            name in CHANGING
            or of_os
            or of_path
            or (opens and any(isinstance(t, str) and WRITE_MODE.fullmatch(t) for t in texts))
        ):
            yield node.lineno, name


def test_every_change_to_a_cache_goes_through_fsio() -> None:
    found = []
    for path in WATCHED:
        where = path.relative_to(ROOT).as_posix()
        for line, name in changes(ast.parse(path.read_text())):
            if (where, "*") not in ALLOWED and (where, name) not in ALLOWED:
                found.append(f"{where}:{line}: {name}")
    assert not found, "all of these belong into cache/files/fsio.py, where tests can make them fail"


@pytest.mark.parametrize(
    "code",
    [
        "os.unlink(p)", "p.unlink(missing_ok=True)", "p.replace(q)", "os.replace(p, q)", "open(p, 'wb')", "p.open('a')",
        "shutil.rmtree(p)", "h5py.File(p, 'w')", "np.save(p, a)", "p.write_bytes(b'')", "tempfile.mkstemp()",
    ],
)  # fmt: skip
def test_the_rule_sees(code: str) -> None:
    assert list(changes(ast.parse(code)))
    assert not list(changes(ast.parse("text.replace('a', 'b'); fsio.replace(p, b''); open(p, 'rb'); p.open()")))
