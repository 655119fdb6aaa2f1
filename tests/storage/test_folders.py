"""folders: a walk lists every file once, whether or not it looks the files up."""

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicomdl._kernels import both as both_of
from dicomdl.storage import folders
from dicomdl.storage.folders import NO_STATE, Walk, pure_look_up_files, walk
from dicomdl.storage.sources import state_of

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
        assert list(listed.states) == list(looked.states) and listed.keys == looked.keys


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


def before_the_look(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    """Change a folder between its listing and the look at its files."""
    look_up_files = folders.look_up_files

    def changed(paths: tuple[bytes, ...]) -> bytes:
        change()
        return look_up_files(paths)

    monkeypatch.setattr(folders, "look_up_files", changed)


@posix_only
@pytest.mark.parametrize("looks_up", [True, False])
def test_a_file_that_is_gone_when_it_is_looked_at_is_left_out(
    tree: Path, monkeypatch: pytest.MonkeyPatch, looks_up: bool
) -> None:
    os.link(tree / "b" / "10", tree / "a" / "0")
    before_the_look(monkeypatch, (tree / "b" / "2").unlink)
    found = walk([os.fsencode(tree)], looks_up=looks_up)
    names = [os.path.basename(path) for path in found.paths]
    assert b"2" not in names and len(names) == len(found.states) == len(found.keys) == 5
    assert not found.unreadable and found.special_files == 2


@posix_only
def test_a_file_of_which_its_server_tells_nothing_for_now_is_unreadable_and_not_gone(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, look = os.fsencode(tree / "b" / "2"), os.stat

    def failing(name: Any, **options: Any) -> os.stat_result:
        if name == path:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), name)
        return look(name, **options)

    before_the_look(monkeypatch, (tree / "b" / "2").unlink)
    monkeypatch.setattr(os, "stat", failing)
    assert walk([os.fsencode(tree)]).unreadable == [os.fsdecode(path)]


@posix_only
def test_a_file_that_became_a_fifo_since_the_listing_counts_as_one(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace() -> None:
        (tree / "b" / "2").unlink()
        os.mkfifo(tree / "b" / "2")

    before_the_look(monkeypatch, replace)
    found = walk([os.fsencode(tree)])
    assert os.fsencode(tree / "b" / "2") not in found.paths and found.special_files == 3


@posix_only
def test_a_file_that_became_a_link_to_a_file_since_the_listing_has_the_state_of_that_file(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace() -> None:
        (tree / "b" / "2").unlink()
        (tree / "b" / "2").symlink_to(tree / "b" / "10")

    before_the_look(monkeypatch, replace)
    found = walk([os.fsencode(tree)])
    state = found.states[found.paths.index(os.fsencode(tree / "b" / "2"))]
    assert state == state_of(os.stat(tree / "b" / "10"))


@posix_only
@pytest.mark.parametrize("at_once", [1, 3, 7, 100])
def test_files_that_are_looked_up_many_at_a_time_have_their_own_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(folders, "_AT_ONCE", at_once)
    for number in range(23):
        path = tmp_path / "root" / f"{number % 4}" / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(number))
        os.utime(path, ns=(0, 10**18 + number))
    (tmp_path / "root" / "1" / "link").symlink_to(tmp_path / "root" / "2" / "2")
    found = walk([os.fsencode(tmp_path / "root")])
    assert len(found.paths) == 23
    for path, state, key in zip(found.paths, found.states, found.keys, strict=True):
        status = os.stat(path)
        assert state == state_of(status) and key == (status.st_dev, status.st_ino)


@posix_only
def test_both_loops_look_up_the_same(tree: Path) -> None:
    deep = tree / ("d" * 60) / ("e" * 200) / ("f" * 200)
    deep.mkdir(parents=True)
    names = ["b/2", "b/10", "a/z", "a/c/1", "b/none", "a/fifo", "folder", "dangling", "a", "b/2/x"]
    (deep / "file").write_bytes(b"deep")
    os.utime(deep / "file", ns=(0, 2**63 + 5 * 10**9))
    paths = [os.fsencode(tree / name) for name in names] * 2
    paths += [os.fsencode(deep / "file"), b"", b"/", b"no\0thing", paths[0] + b"\0", b"relative"]
    paths += [b"/" + b"x" * 5000, os.fsencode(tree / "a") + b"/\xff"]
    numbers = [loop(tuple(paths)) for loop in both_of(pure_look_up_files) or ()]
    assert len(set(numbers)) <= 1
    rows = np.frombuffer(pure_look_up_files(tuple(paths)), np.int64).reshape(-1, 6)
    found = [b"/".join(paths[row].split(b"/")[-2:]) for row in np.flatnonzero(rows[:, -1])]
    assert found == [b"b/2", b"b/10", b"a/z", b"c/1"] * 2 + [b"f" * 200 + b"/file", b"a/\xff"]
    assert not rows[rows[:, -1] == 0].any()
