"""locations: files, members and objects are told apart by their path, at the cost of one search."""

import os
from pathlib import Path

import pytest

from dicomdl.storage import locations


@pytest.mark.parametrize(
    ("path", "kind", "whole", "members"),
    [
        ("/abs/file.dcm", "file", "/abs/file.dcm", ()),
        # POSIX keeps two slashes at the start.
        ("//abs/file.dcm", "file", "//abs/file.dcm", ()),
        ("C:\\data\\case.zip//a.dcm", "member", "C:\\data\\case.zip", ("a.dcm",)),
        ("/abs/case.zip//s1/a.dcm", "member", "/abs/case.zip", ("s1/a.dcm",)),
        ("/abs/a.zip//b.zip//c.dcm", "member", "/abs/a.zip", ("b.zip", "c.dcm")),
        ("s3://bucket/key", "object", "s3://bucket/key", ()),
        ("https://host/x.dcm", "object", "https://host/x.dcm", ()),
        ("s3://bucket/a.zip//b.dcm", "member", "s3://bucket/a.zip", ("b.dcm",)),
    ],
)
def test_a_location_has_one_kind_and_comes_back_from_its_parts(
    path: str, kind: str, whole: str, members: tuple[str, ...]
) -> None:
    location = locations.split(path)
    assert (location.kind, location.whole, location.members) == (kind, whole, members)
    for member in members:
        whole = locations.joined(whole, member)
    assert whole == path
    assert locations.is_url(path) == path.startswith(("s3:", "https:"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("s1/a.dcm", "s1/a.dcm"),
        ("./s1//a.dcm", "s1/a.dcm"),
        ("a..b/c", "a..b/c"),
        ("s1\\a.dcm", "s1\\a.dcm"),
        *((name, None) for name in ("/etc/passwd", "../a", "s/../../a", "..\\a", "s\\..\\a", "..")),
        *(
            (name, None)
            for name in ("C:\\a", "c:a", "\\\\host\\a", "\\a", "a\0b", "", "./", "\ud800")
        ),
    ],
)
def test_a_member_has_a_plain_name_or_none(name: str, expected: str | None) -> None:
    assert locations.member_name(name) == expected


def test_a_key_of_a_member_or_object_has_its_name() -> None:
    assert locations.inside("/abs/a.dcm") == ""
    assert locations.inside("/abs/a.zip//b/c.dcm") == "b/c.dcm"
    assert locations.inside("/other/a.zip//b.zip//c.dcm") == "b.zip//c.dcm"
    assert locations.inside("s3://bucket/key") == "s3://bucket/key"


def test_absolute_keeps_members_and_objects_and_merges_slashes_of_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "case.zip").write_bytes(b"")
    (tmp_path / "data").mkdir()
    assert locations.absolute("case.zip//s1/a.dcm") == f"{tmp_path}/case.zip//s1/a.dcm"
    assert locations.absolute("data//a.dcm") == f"{tmp_path}/data/a.dcm"
    assert locations.absolute("s3://bucket/a//b") == "s3://bucket/a//b"
    assert locations.absolute(f"/{tmp_path}/data") == f"{tmp_path}/data"
    assert locations.absolute("~") == os.path.expanduser("~")


@pytest.mark.parametrize(
    ("paths", "folder"),
    [
        (["/d/a.dcm"], "/d"),
        (["/d/s/a", "/d/t/b"], "/d"),
        (["/d/c.zip//a", "/d/c.zip//b"], "/d/c.zip"),
        (["/d/c.zip//s/a"], "/d/c.zip//s"),
        (["/d/c.zip//s/t/a", "/d/c.zip//s/u/b"], "/d/c.zip//s"),
        (["/d/c.zip//s/a", "/d/c.zip//t/b"], "/d/c.zip"),
        (["/d/c.zip//s/a", "/d/e.zip//s/a"], "/d"),
        (["s3://b/x/1", "s3://b/y/2"], "s3://b"),
    ],
)
def test_the_common_folder_of_locations(paths: list[str], folder: str) -> None:
    assert locations.common_folder(paths) == folder
