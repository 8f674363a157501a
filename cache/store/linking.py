"""A segment taken into another cache by hard links: no byte is copied, and either cache may let go of it."""

from __future__ import annotations

from pathlib import Path

from crossllm.cache.files import fsio
from crossllm.cache.remote.by_path import mirror_of
from crossllm.cache.store import writer_marker
from crossllm.cache.store.commit import publish_commit
from crossllm.cache.store.recipe import Recipe, write_recipe
from crossllm.cache.store.segment import Segment


def link_segment(into: Path, recipe: Recipe, segment: Segment) -> bool:
    """Commit a segment of another cache in this one, its files linked; False, and nothing done, where they cannot be.

    A segment is immutable, so sharing its bytes is safe.  The caller has checked its records.
    """
    if mirror_of(into) is not None or mirror_of(segment.path.parent) is not None:
        return False  # copies of objects are written again and thrown away
    folder = write_recipe(into, recipe)
    name = fsio.new_name()
    path = folder / "segments" / name
    try:
        writer_marker.mark(folder, name)
        fsio.make_new_dir(path)
        inner = {parent for file in segment.commit.files for parent in Path(file).parents}
        folders = sorted(inner, key=lambda one: len(one.parts))
        for one in folders[1:]:
            fsio.make_new_dir(path / one)
        for file in segment.commit.files:
            fsio.link_file(segment.path / file, path / file)
    except OSError:  # another file system, one that knows no links, or a file of somebody else's
        fsio.remove_tree(path)
        writer_marker.unmark(folder, name)
        return False
    except BaseException:
        fsio.remove_tree(path)
        writer_marker.unmark(folder, name)
        raise
    for one in reversed(folders):
        fsio.sync_dir(path / one)
    fsio.sync_dir(path.parent)
    publish_commit(folder, segment.commit._replace(segment=name, supersedes=()))
    writer_marker.unmark(folder, name)
    return True
