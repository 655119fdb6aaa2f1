"""paths: what the class of a path says of the index that names it."""

import os
import pickle  # our own bytes, made a line before
from pathlib import Path

import pytest

from dicomdl.errors import UntrustedRoot
from dicomdl.storage.handles import MovedPath
from dicomdl.storage.paths import (
    MovedRootedPath,
    RootedPath,
    UnacceptedPath,
    is_inside,
    require_accepted,
)
from dicomdl.storage.sources import Source, kept_open, look_up, opened


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a file, and a file beside the root."""
    (tmp_path / "root" / "inner").mkdir(parents=True)
    (tmp_path / "root" / "inner" / "file").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(b"secret")
    return tmp_path / "root"


def reads(path: str) -> bool:
    """Whether every door reads a path; it is the same answer at each of them."""
    answers = set()
    for door in (look_up, lambda source: opened(source).__enter__().close()):
        try:
            door(Source(path))
            answers.add(True)
        except UntrustedRoot:
            answers.add(False)
    (answer,) = answers
    return answer


def test_a_file_below_its_root_is_read(root: Path) -> None:
    assert reads(RootedPath(str(root / "inner" / "file"), str(root)))
    assert reads(RootedPath(str(root / "inner" / "file"), str(root / "inner" / "file")))


def test_a_path_that_was_not_accepted_is_never_opened(root: Path) -> None:
    assert not reads(UnacceptedPath(str(root / "inner" / "file")))


@pytest.mark.parametrize("where", ["file", "folder", "relative", "chain"])
def test_a_link_that_leads_out_of_the_root_is_refused(where: str, root: Path) -> None:
    path = root / "inner" / "link"
    if where == "file":
        path.symlink_to(root.parent / "secret")
    elif where == "folder":
        path.symlink_to(root.parent)
        path /= "secret"
    elif where == "relative":
        path.symlink_to("../../secret")
    else:
        (root / "first").symlink_to(root.parent / "secret")
        path.symlink_to(root / "first")
    with pytest.raises(UntrustedRoot, match=r"a link leads out of the root .*trust=True"):
        require_accepted(RootedPath(str(path), str(root)))
    assert not reads(RootedPath(str(path), str(root)))


def test_a_file_of_a_known_folder_is_opened_without_a_look_at_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link that replaces the file in the meantime is not followed out of the root."""
    path = root / "inner" / "file"
    known = RootedPath(str(path), str(root), str(path.parent))
    with opened(Source(known)) as handle, monkeypatch.context() as patched:
        assert handle.read_at(0, 6) == b"inside"
        patched.setattr(os.path, "islink", lambda _: pytest.fail("looked at"))
        if hasattr(os, "O_NOFOLLOW"):
            assert reads(known)
    path.unlink()
    path.symlink_to(root.parent / "secret")
    assert not reads(known)
    path.unlink()
    (root / "other").write_bytes(b"another")
    path.symlink_to(root / "other")
    with opened(Source(known)) as handle:
        assert handle.read_at(0, 7) == b"another"


def test_a_link_within_the_root_and_a_link_to_the_root_are_followed(root: Path) -> None:
    (root / "link").symlink_to(root / "inner")
    (root / "inner" / "other").symlink_to("file")
    assert reads(RootedPath(str(root / "link" / "other"), str(root)))
    (root.parent / "current").symlink_to(root)
    assert reads(RootedPath(str(root.parent / "current" / "inner" / "file"), str(root)))


def test_a_link_to_an_archive_that_leads_out_of_the_root_is_refused(root: Path) -> None:
    (root / "case.zip").symlink_to(root.parent / "secret")
    with pytest.raises(UntrustedRoot):
        require_accepted(RootedPath(f"{root}/case.zip//name", str(root)))
    # The archive that the user names may be a link.
    require_accepted(RootedPath(f"{root}/case.zip//name", f"{root}/case.zip"))
    require_accepted(RootedPath(f"{root}/inner/file//name", str(root)))
    require_accepted(RootedPath("s3://bucket/set/key", "s3://bucket/set"))


def test_a_file_that_another_index_holds_open_is_refused_all_the_same(root: Path) -> None:
    path = str(root / "inner" / "file")
    with kept_open():
        with opened(Source(path)) as handle:
            assert handle.read_at(0, 6) == b"inside"
        with pytest.raises(UntrustedRoot), opened(Source(UnacceptedPath(path))):
            pass


@pytest.mark.parametrize("kind", [RootedPath, MovedRootedPath])
def test_a_path_pickles_with_its_root(kind: type[RootedPath]) -> None:
    again = pickle.loads(pickle.dumps(kind("/root/file", "/root")))
    assert (type(again), again, again.root) == (kind, "/root/file", "/root")
    assert isinstance(again, MovedPath) == (kind is MovedRootedPath)


@pytest.mark.parametrize(
    ("path", "root", "answer"),
    [
        ("/data", "/data", True),
        ("/data/a", "/data", True),
        ("/data2/a", "/data", False),
        ("/dat", "/data", False),
        ("/a", "/", True),
        ("/data/case.zip//name/in", "/data/case.zip", True),
        ("/data/case.zip2//name/in", "/data/case.zip", False),
        ("s3://bucket/set/key", "s3://bucket/set", True),
        ("s3://bucket/settings", "s3://bucket/set", False),
    ],
)
def test_a_root_is_a_folder_an_archive_or_a_store(path: str, root: str, answer: bool) -> None:
    assert is_inside(path, root) == answer
