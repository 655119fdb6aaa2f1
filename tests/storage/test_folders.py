"""folders: a walk lists every file once, whether or not it looks the files up."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from dicomdl.storage import folders
from dicomdl.storage.folders import NO_STATE, Walk, walk

posix_only = pytest.mark.skipif(os.name != "posix", reason="links and names are those of POSIX")
FACTS = (
    "paths",
    "hidden_folders",
    "linked_folders",
    "outside_links",
    "special_files",
    "unreadable",
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Folders with files, a name that is no UTF-8, a FIFO, links, and a hidden folder."""
    root = tmp_path / "root"
    for folder in ("b", "a/c", ".hidden"):
        (root / folder).mkdir(parents=True)
    for name in ("b/2", "b/10", "a/c/1", "a/z", "file", ".hidden/3"):
        (root / name).write_bytes(name.encode())
    Path(os.fsdecode(os.fsencode(root / "a") + b"/\xff")).write_bytes(b"odd")
    os.mkfifo(root / "a" / "fifo")
    (root / "dangling").symlink_to(root / "nowhere")
    (root / "folder").symlink_to(root / "a")
    return root


def both(roots: Sequence[Path], *, follow_links: bool = False) -> tuple[Walk, Walk]:
    """Walk with and without a look at each file, and compare what both find."""
    given = [os.fsencode(root) for root in roots]
    looked, listed = (
        walk(given, follow_links=follow_links, looks_up=looks_up) for looks_up in (True, False)
    )
    for name in FACTS:
        assert getattr(listed, name) == getattr(looked, name), name
    return looked, listed


@posix_only
def test_a_walk_without_a_look_at_each_file_lists_the_same_in_the_same_order(tree: Path) -> None:
    looked, listed = both([tree])
    assert [os.path.basename(path) for path in listed.paths] == [
        *(b"file", b"z", b"\xff", b"1", b"10", b"2")
    ]
    assert set(listed.states) == {NO_STATE} and not any(listed.keys)
    assert NO_STATE not in looked.states and all(looked.keys)


@posix_only
@pytest.mark.parametrize("link", ["hard", "soft", "roots", "follow"])
def test_a_file_of_several_paths_is_listed_once_by_both_kinds_of_walk(
    tree: Path, link: str
) -> None:
    if link == "hard":
        os.link(tree / "b" / "10", tree / "a" / "0")
    if link == "soft":
        (tree / "a" / "0").symlink_to(tree / "b" / "10")
    roots = [tree, tree / "b"] if link == "roots" else [tree]
    looked, listed = both(roots, follow_links=link == "follow")
    assert len(listed.paths) == 6
    if link != "follow":
        assert listed.states == looked.states and listed.keys == looked.keys


@posix_only
def test_a_hard_link_out_of_the_roots_changes_nothing(tree: Path, tmp_path: Path) -> None:
    before = both([tree])[1].paths
    os.link(tree / "b" / "10", tmp_path / "outside")
    assert both([tree])[1].paths == before


@posix_only
def test_files_of_a_folder_that_may_only_be_listed_are_unreadable(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stands in for a folder of mode 0444: root may search every folder."""
    stat = os.stat

    def refused(path: bytes, **options: bool) -> os.stat_result:
        if path == os.path.join(os.fsencode(tree / "b"), b"."):
            raise PermissionError(13, "Permission denied")
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", refused)
    listed = walk([os.fsencode(tree)], looks_up=False)
    states = dict(zip(map(os.path.basename, listed.paths), listed.states, strict=True))
    assert states[b"10"] != NO_STATE and states[b"z"] == NO_STATE


@posix_only
def test_a_file_that_is_gone_when_repeats_are_searched_is_left_out(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.link(tree / "b" / "10", tree / "a" / "0")
    identity = folders.identity_of

    def gone(path: bytes) -> tuple[tuple[int, int], folders.State]:
        if os.path.basename(path) == b"2":
            raise FileNotFoundError(2, "No such file or directory")
        return identity(path)

    monkeypatch.setattr(folders, "identity_of", gone)
    names = [os.path.basename(path) for path in walk([os.fsencode(tree)], looks_up=False).paths]
    assert b"2" not in names and len(names) == 5
