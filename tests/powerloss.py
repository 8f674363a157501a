"""What a disk may hold after a power loss, from the log of operations up to it: harsher than any file system is.

A file's bytes are safe once the file was synced; until then each may be lost, cut off, zero or torn, in any mixture.
A name in a folder is safe once that folder was synced; until then any subset of the folder's changes may have been
kept, each whole: a created name, a link, a rename, an unlink.  The folder `root` itself is safe from the start.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from faultio import Op

SECTOR = 512
"""What is torn at: a real disk's pages are larger."""
Tree = dict[str, bytes | None]
"""Path below the root → bytes of the file; None: a folder."""


class _File:
    """Bytes on disk, and as the running system sees them."""

    def __init__(self) -> None:
        self.durable, self.seen, self.end = b"", b"", 0

    def write(self, data: bytes, at: int) -> None:
        at = self.end if at < 0 else at
        self.end = at + len(data)
        grown = self.seen.ljust(at, b"\0")
        self.seen = grown[:at] + data + grown[self.end :]

    def after_loss(self, rng: np.random.Generator, how: str) -> bytes:
        """One of the contents that the disk may hold."""
        if self.seen == self.durable or how == "kept":
            return self.seen
        if how == "mixed":
            how = str(rng.choice(["kept", "lost", "cut", "zero", "torn"]))
            return self.after_loss(rng, how)
        if how == "lost":
            return self.durable
        size = int(rng.integers(min(len(self.durable), len(self.seen)), max(len(self.durable), len(self.seen)) + 1))
        if how == "cut":
            return self.seen[:size].ljust(size, b"\0")
        if how == "zero":
            return self.durable.ljust(len(self.seen), b"\0")
        sectors = range(0, max(len(self.seen), len(self.durable)), SECTOR)
        sources = [self.seen, self.durable, b""]
        whole = [sources[int(rng.integers(3))][at : at + SECTOR].ljust(SECTOR, b"\0") for at in sectors]
        return b"".join(whole)[:size] if rng.integers(2) else b"".join(whole)[: len(self.seen)]


class _Folder:
    """Names on disk, those that the running system sees, and the changes in between."""

    def __init__(self) -> None:
        self.durable: dict[str, _File | _Folder] = {}
        self.seen: dict[str, _File | _Folder] = {}
        self.pending: list[tuple[str, str, _File | _Folder | None]] = []
        """Name taken away or empty, name given or empty, and to what."""

    def change(self, gone: str, name: str, node: _File | _Folder | None) -> None:
        self.pending.append((gone, name, node))
        _apply(self.seen, gone, name, node)

    def sync(self) -> None:
        self.durable, self.pending = dict(self.seen), []

    def after_loss(self, rng: np.random.Generator, share: float) -> dict[str, _File | _Folder]:
        names = dict(self.durable)
        for change in self.pending:
            if rng.random() < share:
                _apply(names, *change)
        return names


def _apply(names: dict[str, _File | _Folder], gone: str, name: str, node: _File | _Folder | None) -> None:
    names.pop(gone, None)
    if name:
        assert node is not None
        names[name] = node


class Disk:
    """Replays a log, operation by operation, and draws what a power loss would leave."""

    def __init__(self, root: Path) -> None:
        self._prefix = str(root) + "/"
        self._root = _Folder()

    def _split(self, path: str) -> tuple[_Folder, str]:
        """The parent of a path, and its name there."""
        *parents, name = path.removeprefix(self._prefix).split("/")
        folder = self._root
        for parent in parents:
            inner = folder.seen[parent]
            assert isinstance(inner, _Folder)
            folder = inner
        return folder, name

    def do(self, op: Op) -> None:
        """One operation of the log."""
        if op.kind in ("ack", "close", "open"):
            return
        if op.kind == "fsync dir" and not (op.path + "/").startswith(self._prefix):
            return  # a folder above the root
        if op.path + "/" == self._prefix:
            self._root.sync()
            return
        folder, name = self._split(op.path)
        node = folder.seen.get(name)
        match op.kind:
            case "create" if node is not None and op.at == 0:
                assert isinstance(node, _File)
                node.seen, node.end = b"", 0
            case "create":
                folder.change("", name, _File())
            case "mkdir":
                folder.change("", name, _Folder())
            case "unlink" | "rmdir":
                folder.change(name, "", None)
            case "link":
                to, new = self._split(op.to)
                to.change("", new, node)
            case "rename":
                to, new = self._split(op.to)
                assert to is folder, "a rename into another folder is two changes: teach it to this model first"
                folder.change(name, new, node)
            case "write":
                assert isinstance(node, _File)
                node.write(op.data, op.at)
            case "truncate":
                assert isinstance(node, _File)
                node.seen = node.seen[: op.at].ljust(op.at, b"\0")
            case "fsync":
                assert isinstance(node, _File)
                node.durable = node.seen
            case "fsync dir":
                assert isinstance(node, _Folder)
                node.sync()

    def after_loss(self, rng: np.random.Generator) -> Tree:
        """One of the trees that the disk may hold if the power fails now."""
        share = float(rng.choice([0, 0.1, 0.5, 0.9, 1, 1]))
        how = str(rng.choice(["lost", "kept", "cut", "zero", "torn", "mixed", "mixed"]))
        tree: Tree = {}
        chosen: dict[int, bytes] = {}  # a file of two names has the same bytes under both
        waiting: list[tuple[str, _Folder]] = [("", self._root)]
        while waiting:
            path, folder = waiting.pop()
            for name, node in folder.after_loss(rng, share).items():
                if isinstance(node, _Folder):
                    tree[path + name] = None
                    waiting.append((f"{path}{name}/", node))
                else:
                    if id(node) not in chosen:
                        chosen[id(node)] = node.after_loss(rng, how)
                    tree[path + name] = chosen[id(node)]
        return tree


def states(log: Sequence[Op], root: Path, count: int, rng: np.random.Generator) -> Iterator[tuple[int, Tree]]:
    """`count` trees with the number of operations before the loss.

    Half are anywhere in the log, half just after an ack or after a commit record was unlinked.
    """
    weighty = [
        n
        for n, op in enumerate(log, 1)
        if op.kind == "ack" or (op.kind == "unlink" and "/commits/" in op.path and "/." not in op.path)
    ]
    anywhere = rng.integers(0, len(log) + 1, count - count // 2)
    disk, at = Disk(root), 0
    for done in sorted([*anywhere.tolist(), *rng.choice(weighty or [len(log)], count // 2).tolist()]):
        for op in log[at:done]:
            disk.do(op)
        at = done
        yield done, disk.after_loss(rng)


def materialise(tree: Tree, folder: Path) -> None:
    """Write a tree into an empty folder."""
    for path, data in sorted(tree.items()):
        if data is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(data)
