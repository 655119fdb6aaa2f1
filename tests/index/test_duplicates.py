"""duplicates: sets of frames with equal pixels."""

from pathlib import Path

import numpy as np
import pytest
from phantoms import uid, write_segmentation_1bit, write_series
from pydicom.uid import RLELossless

import dicomdl
from dicomdl.errors import UsageError
from dicomdl.index.index import Index


def scan(root: Path) -> Index:
    out = root.parent / "index"
    return dicomdl.scan(root, out, progress=False, pixel_hash=True)


def write(root: Path, name: str, offset: int, **options: object) -> None:
    given = {"patient_id": name, "study_uid": uid("study", name), "series_uid": uid(name)}
    write_series(root / name, shape=(2, 3, 4), offset=offset, **{**given, **options})  # type: ignore[arg-type]


def test_equal_frames_are_found_across_patients_studies_and_series(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write(root, "a", 0)
    write(root, "b", 0, frame_of_reference=uid("b"))
    write(root, "c", 900)
    write(root, "d", 900, patient_id="c", transfer_syntax=RLELossless)
    write(root, "e", 2000)
    write(root, "f", 2000, patient_id="e", study_uid=uid("study", "e"))
    write(root, "g", 4000)
    index = scan(root)
    found = index.duplicates()
    assert [each.across for each in found] == ["patient"] * 2 + ["study"] * 2 + ["series"] * 2
    for each in found:
        assert len(each.frames) == len(each.stacks) == 2
        one, two = (dicomdl.read_frame(index.frame(number)) for number in each.frames)
        assert np.array_equal(one, two)
        assert {index.frame(number).pixel_hash for number in each.frames} == {each.pixel_hash}
        stacks = tuple(index.stack_of(number).number for number in each.frames)
        assert stacks == each.stacks
    assert found.without_hash == 0
    text = repr(found)
    assert "6 sets of equal pixels, 12 frames; 0 not compared" in text
    assert "across patients" in text and "across studies" in text and "across series" in text
    assert "<table" in found._repr_html_()
    alone = index.select(patient_id=["a", "c"]).duplicates()
    assert [each.across for each in alone] == ["study", "study"]
    assert all(max(each.frames) < 6 for each in alone)
    assert len(found[:2]) == 2 and found[-1].across == "series"
    with pytest.raises(IndexError):
        found[6]


def test_images_of_one_value_and_segmentations_are_not_compared(tmp_path: Path) -> None:
    root = tmp_path / "data"
    black = np.zeros((2, 3, 4), np.int64)
    write(root, "a", 0, stored=black)
    write(root, "b", 0, stored=black)
    write_segmentation_1bit(root / "seg.dcm")
    index = scan(root)
    found = index.duplicates()
    assert len(found) == 0 and found.without_hash == len(index)
    assert repr(found).startswith("Duplicates: 0 sets of equal pixels, 0 frames")
    assert index.split((0.5, 0.5))[0].counts["patients"] >= 1


def test_an_index_without_hashes_says_how_to_get_them(tmp_path: Path) -> None:
    write(tmp_path / "data", "a", 0)
    index = dicomdl.scan(tmp_path / "data", tmp_path / "plain", progress=False)
    assert index.value(0, "pixel_hash") == ""
    with pytest.raises(UsageError, match="pixel_hash=True"):
        index.duplicates()
