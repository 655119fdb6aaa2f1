"""The NIfTI references of the corpus equal our volumes, and the oracle detects errors."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phantoms import uid, write_series

import dicomdl

nib = pytest.importorskip("nibabel", reason="needs nibabel (extra `test`)")

from oracles import dcm2niix_volumes  # noqa: E402
from oracles.nifti_references import RAS_TO_LPS, Reference, Row, find, references  # noqa: E402  (it imports nibabel)

pytestmark = pytest.mark.slow

OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)
SHAPE = (4, 5, 7)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One series of two time points on an oblique grid."""
    made = tmp_path / "dicom"

    for t in (1, 2):

        def stamp(dataset: Any, z: int, t: int = t) -> None:
            dataset.TemporalPositionIdentifier = t

        write_series(
            made,
            shape=SHAPE,
            spacing=(2.5, 1.5, 1.25),
            origin=(10, -20, 30),
            orientation=OBLIQUE,
            modality="MR",
            offset=1000 * t,
            series_uid=uid("two times"),
            instance_numbers=range(1 + 4 * (t - 1), 5 + 4 * (t - 1)),
            edit=stamp,
        )
    return made


@pytest.fixture
def index(folder: Path, tmp_path: Path) -> dicomdl.Index:
    return dicomdl.scan(folder, tmp_path / "index", progress=False)


def saved(volume: dicomdl.Volume, path: Path) -> Any:
    """A volume as a NIfTI image, written by SimpleITK, independent of nibabel."""
    volume.save(path)
    return nib.load(path)


def found(image: Any, index: dicomdl.Index, path: Path) -> Row:
    nib.save(image, path)
    return find(Reference.load(path), index)


def test_a_volume_that_was_saved_is_found_again(index: dicomdl.Index, tmp_path: Path) -> None:
    for number, stack in enumerate(index.stacks):
        row = found(
            saved(dicomdl.read_volume(stack), tmp_path / "a.nii"),
            index,
            tmp_path / f"{number}.nii.gz",
        )
        assert row.outcome == "matched"
        assert f"temporal_position_identifier={number + 1}" in row.ours
        assert row.error_mm < 1e-4
        assert row.difference == 0


@pytest.mark.parametrize("axes", ["RAS", "LPI", "SAR", "PIR"])
def test_axes_in_any_order_and_direction_are_the_same_image(
    index: dicomdl.Index, tmp_path: Path, axes: str
) -> None:
    image = saved(dicomdl.read_volume(index.stacks[0]), tmp_path / "a.nii")
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(axes)
    )
    assert found(image.as_reoriented(turn), index, tmp_path / "b.nii").outcome == "matched"


def test_a_reference_three_hundredths_of_a_millimetre_off_is_another_place(
    index: dicomdl.Index, tmp_path: Path
) -> None:
    image = saved(dicomdl.read_volume(index.stacks[0]), tmp_path / "a.nii")
    affine = image.affine.copy()
    affine[0, 3] += 0.03
    row = found(nib.Nifti1Image(np.asarray(image.dataobj), affine), index, tmp_path / "b.nii")
    assert (row.outcome, row.remark) == ("NOT MATCHED", "another place")
    assert row.error_mm == pytest.approx(0.03, abs=1e-4)


def test_one_other_value_is_no_match(index: dicomdl.Index, tmp_path: Path) -> None:
    image = saved(dicomdl.read_volume(index.stacks[0]), tmp_path / "a.nii")
    values = np.asarray(image.dataobj).copy()
    values[3, 2, 1] += 1
    row = found(nib.Nifti1Image(values, image.affine), index, tmp_path / "b.nii")
    assert row.outcome == "NOT MATCHED"
    assert row.difference == 1
    assert "1 voxels" in row.remark


def test_values_mirrored_within_the_same_place_are_no_match(
    index: dicomdl.Index, tmp_path: Path
) -> None:
    image = saved(dicomdl.read_volume(index.stacks[0]), tmp_path / "a.nii")
    row = found(
        nib.Nifti1Image(np.asarray(image.dataobj)[:, :, ::-1], image.affine),
        index,
        tmp_path / "b.nii",
    )
    assert row.outcome == "NOT MATCHED"


def four_dimensional(index: dicomdl.Index, times: list[int]) -> Any:
    volume = dicomdl.read_volume(index.groups[0])
    affine = RAS_TO_LPS @ volume.affine[:, [2, 1, 0, 3]]
    return nib.Nifti1Image(volume.array[times].transpose(3, 2, 1, 0), affine)


def test_a_group_is_a_four_dimensional_reference(index: dicomdl.Index, tmp_path: Path) -> None:
    row = found(four_dimensional(index, [0, 1]), index, tmp_path / "b.nii")
    assert row.outcome == "matched"
    assert row.ours.startswith("2 x 4 x 5 x 7")


def test_another_order_in_time_is_told(index: dicomdl.Index, tmp_path: Path) -> None:
    row = found(four_dimensional(index, [1, 0]), index, tmp_path / "b.nii")
    assert row.outcome == "NOT MATCHED"
    assert "another order: ours are their [1, 0]" in row.remark


@pytest.mark.corpus
def test_every_nifti_reference_of_the_corpus_is_one_of_our_volumes(corpus: Path) -> None:
    script = Path(__file__).parent / "oracles" / "nifti_references.py"
    ran = subprocess.run(
        [sys.executable, str(script), str(corpus)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, (
        "\n".join(line for line in ran.stdout.splitlines() if "NOT MATCHED" in line)
        + ran.stderr[-2000:]
    )
    matched, total, listed, _ = ran.stdout.splitlines()[-1].replace("/", " ").split()
    assert int(matched) + int(listed) == int(total) == len(references(corpus))
    assert int(matched) >= 75


@pytest.mark.timeout(900)
def test_every_volume_of_dcm2niix_is_ours_or_has_a_reason_that_holds(corpus: Path) -> None:
    if shutil.which("dcm2niix") is None:
        pytest.skip("needs dcm2niix (pip install dcm2niix)")
    script = Path(dcm2niix_volumes.__file__)
    ran = subprocess.run(
        [sys.executable, str(script), str(corpus)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    assert "UNEXPLAINED" not in ran.stdout
    equal = re.search(r"(\d+) of \d+ volumes equal", ran.stdout)
    assert equal
    assert int(equal[1]) >= 170


def test_the_oracle_of_dcm2niix_does_not_explain_errors(folder: Path, tmp_path: Path) -> None:
    made = dcm2niix_volumes.ours(folder, tmp_path)
    ((uid, own),) = made.images.items()
    assert {dcm2niix_volumes.outcome(each, uid, made) for each in own} == {"equal"}
    first, moved = own[0], own[0].affine.copy()
    moved[0, 3] += 1
    damaged = first.values.copy()
    damaged[0, 0, 0] += 1
    wrong = [
        dcm2niix_volumes.Image("flipped", first.values[::-1], first.affine),
        dcm2niix_volumes.Image("moved", first.values, moved),
        dcm2niix_volumes.Image("damaged", damaged, first.affine),
        dcm2niix_volumes.Image("scaled", first.values * 2, first.affine),
    ]
    found = {each.name: dcm2niix_volumes.outcome(each, uid, made) for each in wrong}
    assert found == {"flipped": "", "moved": "", "damaged": "", "scaled": ""}
