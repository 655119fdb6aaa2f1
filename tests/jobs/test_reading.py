"""The public read_volume: of a stack or a group, or of whatever holds only one of them."""

from pathlib import Path

import numpy as np
import pytest
from conftest import index_of
from phantoms import true_volume, write_multiframe, write_series
from phantoms_labels import write_seg

import dicomdl
from dicomdl.errors import UsageError


def test_a_folder_a_file_and_an_index_of_one_volume_are_read(folder: Path) -> None:
    write_series(folder, shape=(4, 5, 7))
    expected, before = true_volume((4, 5, 7)), sorted(folder.rglob("*"))
    index = dicomdl.scan(folder, progress=False)
    for given in (folder, str(folder), index, index.path, index.series[0], list(index.stacks)):
        assert np.array_equal(dicomdl.read_volume(given).array, expected)
    assert sorted(folder.rglob("*")) == before


def test_a_folder_is_read_as_it_is_now(folder: Path) -> None:
    write_series(folder, shape=(3, 5, 7))
    assert dicomdl.read_volume(folder).shape == (3, 5, 7)
    for path in folder.iterdir():
        path.unlink()
    write_series(folder, shape=(6, 5, 7))
    assert dicomdl.read_volume(folder).shape == (6, 5, 7)


@pytest.mark.slow
def test_a_segmentation_is_no_second_volume_beside_its_image(folder: Path) -> None:
    image = write_series(folder / "ct", shape=(3, 5, 7))[0]
    write_seg(folder / "seg.dcm", image, [(1, (0, 0, 0), np.eye(5, 7, dtype=np.uint8))])
    assert np.array_equal(dicomdl.read_volume(folder).array, true_volume((3, 5, 7)))
    assert dicomdl.read_volume(folder / "seg.dcm").shape == (1, 5, 7)


def test_a_multi_frame_file_is_read(folder: Path) -> None:
    path = write_multiframe(folder / "m.dcm", shape=(4, 5, 7))
    assert dicomdl.read_volume(path).shape == (4, 5, 7)


def test_the_only_group_is_read_with_its_axis(folder: Path) -> None:
    for number, echo in enumerate((5, 20)):
        write_series(
            folder / str(echo),
            shape=(3, 5, 7),
            modality="MR",
            seed=number,
            offset=1000 * number,
            study_uid="1.2.3",
            series_uid="1.2.3.4",
            frame_of_reference="1.2.3.5",
            edit=lambda header, z, echo=echo: setattr(header, "EchoTime", echo),
        )
    assert dicomdl.read_volume(folder).shape == (2, 3, 5, 7)
    index = index_of(folder)
    assert dicomdl.read_volume(index.select(echo_time=5)).shape == (3, 5, 7)


def test_several_volumes_are_listed_without_the_patient(folder: Path) -> None:
    for number, slices in enumerate((2, 4)):
        write_series(
            folder / str(number),
            shape=(slices, 5, 7),
            seed=number,
            edit=lambda header, z: setattr(header, "PatientID", "SECRET"),
        )
    with pytest.raises(UsageError, match="there are 2 volumes") as caught:
        dicomdl.read_volume(folder)
    text = str(caught.value)
    assert "2 x 5 x 7" in text and "4 x 5 x 7" in text and "SECRET" not in text
    index = dicomdl.open_index(folder)
    assert [len(index.stack(number)) for number in sorted(caught.value.stacks)] == [
        len(stack) for stack in index.stacks
    ]


def test_what_holds_no_volume_is_an_error_with_counts(folder: Path) -> None:
    (folder / "notes.txt").write_text("no image")
    with pytest.raises(UsageError, match="1 file = 0 with images"):
        dicomdl.read_volume(folder)
    with pytest.raises(UsageError, match="no complete stack is selected"):
        dicomdl.read_volume(dicomdl.scan(folder, progress=False).select(modality="CT"))
    with pytest.raises(UsageError, match="does not exist"):
        dicomdl.read_volume(folder / "nowhere")
    with pytest.raises(UsageError, match="not a ndarray"):
        dicomdl.read_volume(np.zeros(3))  # type: ignore[arg-type]
