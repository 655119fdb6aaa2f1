"""Odd folders: the scan ends, reads each file once and nothing outside, and counts what it passes.

Files that vanish or may not be read are tests of the scan (tests/jobs/test_scan.py).
"""

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from faults.sizes import sizes
from faults.trees import GOOD, TREES, Tree, flatten, many

import dicomdl
from dicomdl.headers import reader

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="links, pipes and devices of POSIX"),
    pytest.mark.timeout(60),  # a pipe would be waited for without end
]
BY_NAME = {tree.name: tree for tree in TREES}


def scan(tree: Tree, tmp_path: Path) -> dicomdl.Index:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.dcm").write_bytes(GOOD)
    tree.build(root)
    return dicomdl.scan(
        root, tmp_path / "index", progress=False, workers=1, follow_links=tree.follow_links
    )


@pytest.mark.quick(3)
@pytest.mark.parametrize("name", BY_NAME)
def test_a_tree_has_its_outcome(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[int, int]] = []
    original = reader.open_path

    def noted(path: Any) -> Any:
        status = os.stat(path)
        opened.append((status.st_dev, status.st_ino))
        return original(path)

    monkeypatch.setattr(reader, "open_path", noted)
    monkeypatch.setattr(reader.HeaderReader, "read_ordinary", lambda *_: None)
    tree = BY_NAME[name]
    index = scan(tree, tmp_path)
    assert (index.ledger["image"], index.ledger["files"]) == (tree.images, tree.files)
    passed = index.manifest["passed_over"]
    assert {key: count for key, count in passed.items() if count} == tree.passed
    # Each file is opened once, whatever it is called.
    assert len(set(opened)) == len(opened) == tree.files
    repr(index), repr(index.check())
    flatten(tmp_path / "root")


@sizes("files", smoke=200, full=100_000)
def test_many_empty_files_are_counted(files: int, tmp_path: Path) -> None:
    index = scan(Tree("", many(files)), tmp_path)
    assert index.ledger["files"] == files + 1
    assert index.ledger["not_dicom"] == files


def test_a_file_that_grows_during_the_scan_is_an_image_or_a_problem(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    done = threading.Event()

    def grow() -> None:
        with open(root / "a.dcm", "ab", buffering=0) as file:
            while not done.is_set():
                file.write(bytes(1000))
            file.write(bytes(1000))  # also where the scan left this thread no time

    (root / "a.dcm").write_bytes(GOOD)
    writer = threading.Thread(target=grow)
    writer.start()
    try:
        index = dicomdl.scan(root, tmp_path / "index", progress=False, workers=1)
    finally:
        done.set()
        writer.join()
    assert index.ledger["files"] == 1
    for number in range(len(index)):
        with pytest.raises(dicomdl.DicomdlError, match="scanned"):
            dicomdl.read_frame(index.frame(number))
