"""Phantoms: their files are those that pydicom writes."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import phantoms
import phantoms_writing
import pytest
from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless


def coloured(dataset: Dataset, z: int) -> None:
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = "Ä^Ö"


def ambiguous(dataset: Dataset, z: int) -> None:
    dataset.PixelPaddingValue = 7  # US or SS: the sign of the pixels decides (PS3.5 6.2)


def nested(dataset: Dataset, z: int) -> None:
    inner = phantoms.item(CodeValue="1", CodeMeaning=f"slice {z}", NumericValue=[z, 0.5])
    dataset.AnatomicRegionSequence = phantoms.item(ConceptCodeSequence=inner)
    dataset.AnatomicRegionSequence[0].is_undefined_length_sequence_item = z == 1


def odd_values(dataset: Dataset, z: int) -> None:
    dataset.ImageType[2] = "LOCALIZER" if z % 2 else "AXIAL"
    dataset.RealWorldValueIntercept = [0.1 + z, 1e300]
    dataset.AccessionNumber = None
    dataset.add_new(0x00091001, "UN", b"\1\2\3")
    dataset.add_new(0x00091002, "US", z)
    dataset.add_new(0x00091003, "OF", bytes(8))
    dataset.file_meta.SourceApplicationEntityTitle = f"SITE{z % 2}"


@pytest.mark.quick(9)
@pytest.mark.parametrize("syntax", [*phantoms.NATIVE_SYNTAXES, JPEG2000Lossless])
@pytest.mark.parametrize("edit", [None, coloured, ambiguous, nested, odd_values])
def test_the_bytes_are_those_of_pydicom(
    folder: Path,
    syntax: str,
    edit: Callable[[Dataset, int], None] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written, pairs = phantoms_writing.written, []

    def both(dataset: Dataset) -> bytes:
        expected = BytesIO()
        dcmwrite(expected, dataset, enforce_file_format=True)
        pairs.append((written(dataset), expected.getvalue()))
        return pairs[-1][0]

    monkeypatch.setattr(phantoms, "written", both)
    phantoms.write_series(folder / "series", transfer_syntax=syntax, shape=(3, 2, 4), edit=edit)
    if syntax == ExplicitVRLittleEndian:
        phantoms.write_multiframe(folder / "frames", edit=edit)
        phantoms.write_segmentation_1bit(folder / "segments", edit=edit)
    assert len(pairs) >= 3
    assert all(ours == theirs for ours, theirs in pairs)


def test_an_edit_of_one_slice_changes_no_other(folder: Path) -> None:
    phantoms.write_series(
        folder / "edited", edit=lambda dataset, z: z == 2 and dataset.ImageType.append("ODD")
    )
    phantoms.write_series(folder / "plain")
    names = sorted(path.name for path in (folder / "plain").iterdir())
    changed = [
        name
        for name in names
        if (folder / "edited" / name).read_bytes() != (folder / "plain" / name).read_bytes()
    ]
    assert len(changed) == 1
