"""What users pass for an index: paths, stacks, Series and groups; anything else says what to do."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import index_of
from phantoms import write_series

import dicomdl
from dicomdl.errors import IndexFolderError, UsageError
from dicomdl.index.given import as_index


@pytest.fixture
def index(folder: Path) -> dicomdl.Index:
    for number, slices in enumerate((2, 3, 4)):
        write_series(folder / str(number), shape=(slices, 5, 7), seed=number)
    return index_of(folder)


def test_a_path_and_views_stand_for_an_index(index: dicomdl.Index, folder: Path) -> None:
    stacks = index.stacks
    given = {
        "index": index,
        "path": index.path,
        "Path": Path(index.path),
        "stacks": stacks,
        "list": list(stacks),
        "reversed": stacks[::-1],
        "series": index.series,
        "studies": index.studies,
        "groups": [stack.group for stack in stacks],
    }
    for name, each in given.items():
        found = as_index(each, "FrameDataset")
        assert (len(found), found.path) == (len(index), index.path), name
    assert as_index(stacks[1], "FrameDataset").stacks.numbers.tolist() == [1]
    assert as_index(stacks[:0], "FrameDataset").stacks.numbers.tolist() == []
    scanned = dicomdl.scan(folder, progress=False)
    assert as_index(folder, "FrameDataset").path == scanned.path


@pytest.mark.slow
def test_anything_else_is_refused_with_what_to_pass(index: dicomdl.Index, tmp_path: Path) -> None:
    pytest.importorskip("torch")

    class DataFrame:
        """A class named as the one of pandas."""

    given: dict[str, Any] = {
        "list of paths": ["a.dcm", "b.dcm"],
        "not 2": index.split((0.5, 0.5)),
        "not a table": DataFrame(),
        "dataset.index": dicomdl.FrameDataset(index),
        "not a ndarray": np.zeros(3),
        "not a NoneType": None,
        "comes first": (96, 96, 96),
        "an empty list": [],
        "not a Frame": index.frame(0),
    }
    for words, each in given.items():
        with pytest.raises(UsageError, match=words):
            as_index(each, "FrameDataset")
    with pytest.raises(UsageError, match="the index comes first"):
        as_index("ct.lung", "FrameDataset", [index])
    other = tmp_path / "other"
    write_series(other, shape=(2, 5, 7))
    with pytest.raises(UsageError, match="ConcatDataset"):
        as_index([index.stacks[0], dicomdl.scan(other, progress=False).stacks[0]], "FrameDataset")


def test_a_path_without_an_index_says_why(folder: Path) -> None:
    (path,) = write_series(folder, shape=(1, 5, 7))
    for given, words in {
        folder: "never scanned",
        path: "is a file",
        "no": "not exist",
    }.items():
        with pytest.raises(IndexFolderError, match=words):
            as_index(given, "FrameDataset")
    for url in ("s3://bucket/lidc", Path("https://example.org/lidc")):
        with pytest.raises(UsageError, match="is a URL"):
            as_index(url, "FrameDataset")


def test_a_link_to_a_scanned_folder_finds_its_index(folder: Path, tmp_path: Path) -> None:
    write_series(folder, shape=(2, 5, 7))
    write_series(tmp_path / "other", shape=(3, 5, 7))
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    index = dicomdl.scan(folder, progress=False)
    assert dicomdl.open_index(tmp_path / "link").path == index.path
    assert as_index(tmp_path / "link", "FrameDataset").path == index.path
    own = dicomdl.scan(tmp_path / "link", progress=False)
    later = dicomdl.scan(folder, progress=False)
    assert own.path != later.path == index.path
    assert dicomdl.open_index(tmp_path / "link").path == own.path
    assert dicomdl.open_index(folder).path == index.path


def test_one_of_several_roots_does_not_bring_the_files_of_the_others(
    folder: Path, tmp_path: Path
) -> None:
    write_series(folder, shape=(2, 5, 7))
    write_series(tmp_path / "other", shape=(3, 5, 7))
    dicomdl.scan([folder, tmp_path / "other"], progress=False)
    with pytest.raises(IndexFolderError, match="never scanned"):
        as_index(folder, "FrameDataset")
