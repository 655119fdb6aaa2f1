"""access: paths of an index that is not read on its word."""

import itertools
import os

import pytest

from dicomdl.index.access import Access
from dicomdl.storage.paths import RootedPath

ACCESSES = {
    "a root": Access((), ("/data",), is_own=False),
    "the root of the system": Access((), ("/",), is_own=False),
    "a root within a root": Access((), ("/data/ct", "/data"), is_own=False),
    "a file": Access((), ("/data/ct/a.dcm",), is_own=False),
    "a moved root": Access(((b"/old", b"/data"),), ("/data",), is_own=False),
    "a moved file": Access(
        ((b"/old/ct/a.dcm", b"/data/ct/b.dcm"),), ("/data/ct/b.dcm",), is_own=False
    ),
    "a moved root and a file of it": Access(
        ((b"/old/ct/a.dcm", b"/data/x.dcm"), (b"/old", b"/data")), ("/data",), is_own=False
    ),
    "an archive": Access((), ("/data/case.zip",), is_own=False),
    "a store": Access((), ("s3://bucket/set",), is_own=False),
    "any file": Access((), None, is_own=False),
}
FOLDERS = (b"/data", b"/data/ct", b"/old", b"/old/ct", b"/other", b"/data/../other", b"/", b"")
PLACES = (*FOLDERS, b"/data/case.zip/", b"/data/case.zip//in", b"s3://bucket/set", b"s3://bucket")
NAMES = (b"a.dcm", b"b.dcm", b"..", b"...", b"", b"n\0", b"\xff\xe4", "ü".encode(), b"ct", b"set")


@pytest.mark.skipif(
    os.sep != "/", reason="folders are looked at once where names have no other sep"
)
@pytest.mark.parametrize("access", ACCESSES.values(), ids=ACCESSES)
def test_a_path_of_a_known_folder_is_as_believed_as_one_looked_at_alone(access: Access) -> None:
    stored = [place + b"/" + name for place, name in itertools.product(PLACES, NAMES)]
    # In both orders, so that each name teaches the folder once.
    for order in (stored, stored[::-1]):
        paths = access.paths()
        for data in [*order, *order]:
            expected, found = access.path(data), paths(data)
            assert (type(found), found) == (type(expected), expected), data
            if isinstance(expected, RootedPath):
                assert isinstance(found, RootedPath)
                assert found.root == expected.root
                assert found.folder in ("", os.path.dirname(expected))
