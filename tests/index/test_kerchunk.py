"""kerchunk: other programs read the stored values of a stack in the DICOM files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phantoms import (
    ramp,
    true_affine,
    true_rgb,
    write_multiframe,
    write_secondary_capture,
    write_series,
)
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

import dicomdl
from dicomdl.errors import UsageError

zarr = pytest.importorskip("zarr")
pytest.importorskip("fsspec")


def opened(index: dicomdl.Index, path: Path, **options: Any) -> Any:
    """Write a reference file and open it with zarr, a reader that knows nothing of DICOM."""
    index.to_kerchunk(path, **options)
    storage = {"fo": str(path), "remote_protocol": "file"}
    return zarr.open_group("reference://", mode="r", storage_options=storage, zarr_format=2)


def scanned(folder: Path) -> dicomdl.Index:
    return dicomdl.scan(folder, folder.with_name("index"), progress=False)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("signed", [False, True])
def test_zarr_reads_the_stored_values_of_a_series_in_slice_order(
    tmp_path: Path, syntax: str, signed: bool
) -> None:
    offset = -100 if signed else 0
    write_series(tmp_path / "in", transfer_syntax=syntax, signed=signed, offset=offset)
    group = opened(scanned(tmp_path / "in"), tmp_path / "stack.json")["stack-0"]
    assert np.array_equal(group["pixels"][...], ramp((6, 5, 7)) + offset)
    assert group["pixels"].attrs["_ARRAY_DIMENSIONS"] == ["slice", "row", "column"]
    affine = true_affine((2.0, 1.0, 1.0))
    assert np.allclose(group.attrs["affine_lps_mm"], affine)


def test_frames_of_one_file_are_chunks_at_their_offsets(tmp_path: Path) -> None:
    write_multiframe(tmp_path / "in")
    index = scanned(tmp_path / "in")
    group = opened(index, tmp_path / "stack.json")["stack-0"]
    volume = np.stack([dicomdl.read_frame(source) for source in index.stacks[0].sources])
    assert np.array_equal(group["pixels"][...], volume)


def test_colour_has_an_axis_of_samples(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_secondary_capture(tmp_path / "in" / "colour.dcm")
    index = scanned(tmp_path / "in")
    pixels = opened(index, tmp_path / "stack.json")["stack-0"]["pixels"]
    axes = pixels.attrs["_ARRAY_DIMENSIONS"]
    values = np.moveaxis(pixels[...], axes.index("sample"), -1)
    assert np.array_equal(values, true_rgb(*values.shape[:3]))


def test_one_rescale_is_that_of_cf_and_several_are_arrays(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "one", slope=2, intercept=-1024)
    slopes = [1, 2, 3, 4, 5, 6]
    write_series(tmp_path / "in" / "several", slope=slopes, modality="PT", seed=1)
    index = scanned(tmp_path / "in")
    groups = opened(index, tmp_path / "stack.json")
    by_modality = {s.modality: groups[f"stack-{s.number}"] for s in index.stacks}
    attributes = by_modality["CT"]["pixels"].attrs
    assert (attributes["scale_factor"], attributes["add_offset"]) == (2, -1024)
    assert by_modality["PT"]["rescale_slope"][...].tolist() == slopes
    assert by_modality["PT"]["rescale_intercept"][...].tolist() == [0] * 6
    assert "scale_factor" not in by_modality["PT"]["pixels"].attrs


def test_bits_outside_of_bits_stored_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "in", signed=True, offset=-100, unused_bits="zero")
    with pytest.raises(UsageError, match="bits outside of BitsStored"):
        scanned(tmp_path / "in").to_kerchunk(tmp_path / "stack.json")


def test_compressed_stacks_are_refused_or_skipped(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "a", transfer_syntax=RLELossless)
    write_series(tmp_path / "in" / "b", seed=1)
    index = scanned(tmp_path / "in")
    path = tmp_path / "stack.json"
    with pytest.raises(UsageError, match="is compressed") as error:
        index.to_kerchunk(path)
    assert error.value.refused == 1  # type: ignore[attr-defined]
    assert not path.exists()
    plain = [s.number for s in index.stacks if s.value("transfer_syntax_uid") != RLELossless]
    assert index.to_kerchunk(path, on_unsupported="skip") == plain
    with pytest.raises(UsageError, match="on_unsupported"):
        index.to_kerchunk(path, on_unsupported="no")  # type: ignore[arg-type]


def test_a_selection_without_a_whole_stack_has_nothing_to_reference(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    index = scanned(tmp_path / "in")
    with pytest.raises(UsageError, match="no complete stack"):
        index.of_frames([0]).to_kerchunk(tmp_path / "stack.json")


def test_the_file_is_of_its_owner_and_names_no_patient(tmp_path: Path) -> None:
    write_series(tmp_path / "in", patient_id="MRN-4711")
    path = tmp_path / "stack.json"
    scanned(tmp_path / "in").to_kerchunk(path)
    assert "MRN-4711" not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    assert json.loads(path.read_text())["version"] == 1
