"""Hashes of pixels that a scan keeps: their value, and what has none."""

from pathlib import Path

import numpy as np
import pytest
import xxhash
from phantoms import write_multiframe, write_series
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

import dicomdl
from dicomdl.jobs import engine


def scan(root: Path, **options: object) -> dicomdl.Index:
    out = root.parent / "index"
    return dicomdl.scan(root, out, progress=False, pixel_hash=True, **options)  # type: ignore[arg-type]


def test_a_hash_is_that_of_shape_and_stored_values(tmp_path: Path) -> None:
    write_series(tmp_path / "data", shape=(3, 5, 7))
    write_multiframe(tmp_path / "data" / "multi", shape=(4, 6, 5), modality="MR")
    index = scan(tmp_path / "data")
    for number in range(len(index)):
        values = dicomdl.read_frame(index.frame(number))
        expected = xxhash.xxh3_128(repr(values.shape).encode())
        expected.update(values.tobytes())
        assert index.value(number, "pixel_hash") == expected.hexdigest()
    assert len({index.value(number, "pixel_hash") for number in range(7)}) == 7


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless],
)
def test_another_transfer_syntax_has_the_same_hash(tmp_path: Path, syntax: str) -> None:
    write_series(tmp_path / "data" / "a", shape=(2, 5, 7), patient_id="A", seed=1)
    write_series(
        tmp_path / "data" / "b", shape=(2, 5, 7), patient_id="B", seed=2, transfer_syntax=syntax
    )
    found = scan(tmp_path / "data").duplicates()
    assert [each.across for each in found] == ["patient", "patient"]


def test_another_shape_of_the_same_bytes_is_another_image(tmp_path: Path) -> None:
    values = np.arange(12).reshape(1, 3, 4)
    write_series(tmp_path / "data" / "a", shape=(1, 3, 4), stored=values, seed=1)
    write_series(tmp_path / "data" / "b", shape=(1, 4, 3), stored=values.reshape(1, 4, 3), seed=2)
    assert len(scan(tmp_path / "data").duplicates()) == 0


def test_a_frame_that_cannot_be_decoded_has_no_hash(tmp_path: Path) -> None:
    (path,) = write_series(tmp_path / "data", shape=(1, 64, 64), transfer_syntax=RLELossless)
    data = bytearray(path.read_bytes())
    start = data.rindex(b"\xfe\xff\x00\xe0", 0, len(data) - 8)
    data[start + 8 : start + 12] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    index = scan(tmp_path / "data")
    assert [index.value(number, "pixel_hash") for number in range(len(index))] in ([""], [])


def test_a_repeated_scan_reads_only_new_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    write_series(root / "a", shape=(2, 5, 7), seed=1)
    before = scan(root)
    hashes = [before.value(number, "pixel_hash") for number in range(2)]
    read: list[int] = []
    original = engine.pixel_hashes

    def counted(frames, files, first):  # type: ignore[no-untyped-def]
        read.append(len(frames))
        return original(frames, files, first)

    monkeypatch.setattr(engine, "pixel_hashes", counted)
    write_series(root / "b", shape=(3, 5, 7), seed=2, offset=900)
    index = scan(root)
    assert read == [3] and len(index) == 5
    kept = {index.value(number, "pixel_hash") for number in range(5)}
    assert set(hashes) < kept and len(kept) == 5


@pytest.mark.slow
def test_worker_processes_hash_as_this_process_does(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_series(root / "a", shape=(8, 5, 7), seed=1)
    alone = scan(root)
    expected = [alone.value(number, "pixel_hash") for number in range(8)]
    original, engine.CHUNK_FILES = engine.CHUNK_FILES, 3  # type: ignore[misc]
    try:
        index = dicomdl.scan(root, tmp_path / "other", progress=False, workers=2, pixel_hash=True)
    finally:
        engine.CHUNK_FILES = original  # type: ignore[misc]
    assert [index.value(number, "pixel_hash") for number in range(8)] == expected
