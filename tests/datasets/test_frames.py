"""Tests of the datasets: correct samples, equal in every worker, and reported errors."""

import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import NewFolder, index_of
from phantoms import (
    true_affine,
    true_volume,
    write_multiframe,
    write_secondary_capture,
    write_segmentation_1bit,
    write_series,
)
from phantoms_multi import write_mosaic
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    RLELossless,
)
from torch.utils.data import ConcatDataset, DataLoader

import dicomdl
from dicomdl.datasets import sample_labels as sample_labels_module
from dicomdl.datasets.selection import LeftOutWarning
from dicomdl.errors import (
    DecodeError,
    DicomdlError,
    EmptySelection,
    IrregularStack,
    TruncatedPixels,
    UsageError,
)
from dicomdl.pixels import decoders as codecs
from dicomdl.volumes.blocks import voxels_of

OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)


@pytest.fixture(scope="module")
def ct(new_folder: NewFolder) -> dicomdl.Index:
    """Two regular CT stacks of two patients."""
    folder = new_folder()
    write_series(
        folder / "a",
        shape=(6, 10, 14),
        intercept=-1024,
        patient_id="A",
        spacing=(2, 0.5, 0.7),
        orientation=OBLIQUE,
    )
    write_series(folder / "b", shape=(4, 10, 14), intercept=-1000, patient_id="B")
    return index_of(folder)


def test_a_frame_sample_has_its_values_place_and_identifiers(ct: dicomdl.Index) -> None:
    stack = ct.select(patient_id="A").stacks[0]
    sample = dicomdl.FrameDataset(ct.select(patient_id="A"), intensity="modality")[4]
    assert sample["image"].shape == (1, 10, 14) and sample["image"].dtype == torch.float32
    assert np.array_equal(
        sample["image"][0].numpy(), true_volume((6, 10, 14), intercept=-1024)[4].astype(np.float32)
    )
    expected = true_affine((2, 0.5, 0.7), orientation=OBLIQUE)
    assert np.allclose(sample["affine"].numpy() @ [0, 3, 5, 1], expected @ [4, 3, 5, 1], atol=1e-6)
    assert np.allclose(sample["spacing"].numpy(), (2, 0.5, 0.7))
    assert (sample["units"], sample["modality"], sample["patient_id"], sample["row"]) == (
        "HU",
        "CT",
        "A",
        4,
    )
    assert sample["series_instance_uid"] == stack.series_instance_uid
    assert sample["sop_instance_uid"] == stack.frame(4).sop_instance_uid


def test_a_volume_sample_has_its_values_and_place(ct: dicomdl.Index) -> None:
    dataset = dicomdl.VolumeDataset(ct, intensity="modality")
    by_patient = {
        sample["patient_id"]: sample for sample in (dataset[i] for i in range(len(dataset)))
    }
    sample = by_patient["A"]
    assert np.array_equal(
        sample["image"][0].numpy(), true_volume((6, 10, 14), intercept=-1024).astype(np.float32)
    )
    assert np.allclose(
        sample["affine"].numpy(), true_affine((2, 0.5, 0.7), orientation=OBLIQUE), atol=1e-6
    )
    assert sample["verdict"] == "regular"


def test_frame_and_volume_map_a_value_alike_under_every_intensity(ct: dicomdl.Index) -> None:
    for intensity in ("auto", "ct.lung", (40, 400), dicomdl.Percentile(2, 98)):
        volumes = dicomdl.VolumeDataset(ct, intensity=intensity)
        frames = dicomdl.FrameDataset(ct, intensity=intensity)
        stacked = torch.cat([volumes[i]["image"][0] for i in range(len(volumes))])
        assert torch.equal(
            stacked, torch.stack([frames[i]["image"][0] for i in range(len(frames))])
        )


@pytest.mark.parametrize("method", [None, "fork", "spawn", "forkserver"])
def test_a_loader_gives_the_same_batches_with_every_start_method(
    ct: dicomdl.Index, method: str | None
) -> None:
    dataset = dicomdl.FrameDataset(ct, intensity="auto")
    # An interpreter takes seconds to start.
    workers = {None: 0, "spawn": 1}.get(method, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
        batches = list(
            DataLoader(dataset, batch_size=4, num_workers=workers, multiprocessing_context=method)
        )
    images = torch.cat([batch["image"] for batch in batches])
    assert torch.equal(images, torch.stack([dataset[i]["image"] for i in range(len(dataset))]))
    assert [uid for batch in batches for uid in batch["sop_instance_uid"]] == [
        dataset[i]["sop_instance_uid"] for i in range(len(dataset))
    ]


def test_a_dataset_pickles_as_a_few_hundred_bytes(ct: dicomdl.Index) -> None:
    for dataset in (dicomdl.FrameDataset(ct), dicomdl.VolumeDataset(ct)):
        block = pickle.dumps(dataset)
        assert len(block) <= 4096
        assert torch.equal(pickle.loads(block)[1]["image"], dataset[1]["image"])


def test_different_sizes_in_a_batch_raise_an_error_that_says_what_to_do(folder: Path) -> None:
    write_series(folder / "a", shape=(2, 10, 14), series_uid="1.2.3")
    write_series(folder / "b", shape=(2, 9, 14), series_uid="1.2.4")
    dataset = dicomdl.FrameDataset(index_of(folder))
    with pytest.raises(UsageError, match=r"size=.*collate"):
        next(iter(DataLoader(dataset, batch_size=4)))
    batch = next(iter(DataLoader(dataset, batch_size=4, collate_fn=dicomdl.collate)))
    assert [tuple(image.shape) for image in batch["image"]] in (
        [(1, 10, 14)] * 2 + [(1, 9, 14)] * 2,
        [(1, 9, 14)] * 2 + [(1, 10, 14)] * 2,
    )
    assert batch["affine"].shape == (4, 4, 4)
    sized = next(
        iter(DataLoader(dicomdl.FrameDataset(index_of(folder), size=(8, 8)), batch_size=4))
    )
    assert sized["image"].shape == (4, 1, 8, 8)


@pytest.mark.parametrize(
    "options",
    [{"size": (20, 7)}, {"spacing": (0.25, 1.4)}, {"spacing": (0.4, 0.9), "size": (12, 12)}],
)
def test_a_resized_frame_keeps_every_value_at_its_place(
    ct: dicomdl.Index, options: dict[str, object]
) -> None:
    plain = dicomdl.FrameDataset(ct.select(patient_id="A"), intensity="modality")[2]
    resized = dicomdl.FrameDataset(ct.select(patient_id="A"), intensity="modality", **options)[2]
    if "size" in options:
        assert tuple(resized["image"].shape[1:]) == options["size"]
    if "spacing" in options:
        assert np.allclose(resized["spacing"][1:], options["spacing"])
    to_plain = np.linalg.inv(plain["affine"].numpy()) @ resized["affine"].numpy()
    rows, columns = np.indices(resized["image"].shape[1:])
    places = to_plain @ np.stack(
        [np.zeros(rows.size), rows.ravel(), columns.ravel(), np.ones(rows.size)]
    )
    # Antialiasing averages over neighbours: away from the edges a ramp keeps its values to
    # about 1 % of a pixel.
    inner = (places[1] > 1.5) & (places[1] < 7.5) & (places[2] > 2.5) & (places[2] < 10.5)
    expected = 53 * 2 + 7 * places[1] + places[2] - 1024
    assert inner.sum() >= 20
    assert np.abs(resized["image"].numpy().ravel()[inner] - expected[inner]).max() < 0.1
    assert np.allclose(
        np.linalg.norm(resized["affine"].numpy()[:3, 1:3], axis=0), resized["spacing"][1:]
    )


def test_a_resized_volume_has_the_size_and_spacing_asked_for(ct: dicomdl.Index) -> None:
    sample = dicomdl.VolumeDataset(ct, spacing=(1, 1, 1), size=(8, 8, 8))[0]
    assert sample["image"].shape == (1, 8, 8, 8)
    assert np.allclose(sample["spacing"], 1)


def test_channels_repeat_grey_and_make_colour_grey(folder: Path) -> None:
    write_secondary_capture(folder / "c.dcm")
    write_series(folder / "g", shape=(1, 5, 7))
    index = index_of(folder)
    three = dicomdl.FrameDataset(index, channels=3)
    one = dicomdl.FrameDataset(index, channels=1)
    assert {tuple(three[i]["image"].shape) for i in range(2)} == {(3, 5, 7)}
    assert {tuple(one[i]["image"].shape) for i in range(2)} == {(1, 5, 7)}
    assert {dicomdl.FrameDataset(index)[i]["image"].shape[0] for i in range(2)} == {1, 3}
    colour = dicomdl.FrameDataset(index.select(samples_per_pixel=3))[0]["image"]
    assert colour.min() >= 0 and colour.max() <= 1


def test_what_is_unknown_is_nan_or_empty_and_collates(folder: Path) -> None:
    write_secondary_capture(folder / "c.dcm", frames=2)
    batch = next(iter(DataLoader(dicomdl.FrameDataset(index_of(folder)), batch_size=2)))
    assert torch.isnan(batch["affine"]).all() and torch.isnan(batch["spacing"][:, 0]).all()
    assert all(isinstance(value, str) for value in batch["units"])


def test_what_a_dataset_leaves_out_it_tells_once_as_a_table(folder: Path) -> None:
    write_series(folder / "whole", shape=(4, 5, 7), series_uid="1.2.3")
    write_series(folder / "hole", shape=(8, 5, 7), drop=(3,), series_uid="1.2.4")
    write_segmentation_1bit(folder / "s.dcm", shape=(4, 5, 7))
    index = index_of(folder)
    with pytest.warns(LeftOutWarning) as told:
        dataset = dicomdl.VolumeDataset(index)
    assert (
        len(told) == 1
        and "missing_slices" in str(told[0].message)
        and "content" in str(told[0].message)
    )
    assert [(row.reason, row.stacks, row.frames) for row in dataset.left_out] == [
        ("content other than image", 1, 4),
        ("missing_slices", 1, 7),
    ]
    assert len(dataset) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", LeftOutWarning)
        pickle.loads(pickle.dumps(dataset))
    assert len(dicomdl.VolumeDataset(index.select(content="image"), irregular="accept")) == 2


def test_resampling_takes_what_can_be_filled_and_leaves_out_the_rest_with_reasons(
    folder: Path,
) -> None:
    def lost(dataset: object, z: int) -> None:
        del dataset.ImagePositionPatient

    write_series(folder / "whole", shape=(9, 5, 7), series_uid="1.2.1")
    write_series(folder / "hole", shape=(10, 5, 7), drop=(3,), series_uid="1.2.2", intercept=-1024)
    uneven = [[0, 0, z] for z in (0, 3, 6, 9, 12, 17, 22, 27, 32)]
    write_series(folder / "uneven", shape=(9, 5, 7), positions=uneven, series_uid="1.2.3")
    moved = [[0.5 if z == 3 else 0, 0, 2 * z] for z in range(9)]
    write_series(folder / "moved", shape=(9, 5, 7), positions=moved, series_uid="1.2.4")
    write_series(folder / "lost", shape=(9, 5, 7), edit=lost, series_uid="1.2.5")
    index = index_of(folder)
    with pytest.warns(LeftOutWarning, match="moved in their plane"):
        dataset = dicomdl.VolumeDataset(index, intensity="modality", irregular="resample")
    assert [(row.reason, row.stacks, row.frames) for row in dataset.left_out] == [
        ("no_geometry", 1, 9),
        ("uneven_spacing, slices moved in their plane", 1, 9),
    ]
    samples = {
        sample["series_instance_uid"]: sample
        for sample in (dataset[i] for i in range(len(dataset)))
    }
    assert sorted(samples) == ["1.2.1", "1.2.2", "1.2.3"]
    assert np.array_equal(
        samples["1.2.2"]["image"][0].numpy(),
        true_volume((10, 5, 7), intercept=-1024).astype(np.float32),
    )
    assert np.allclose(samples["1.2.2"]["spacing"], (2, 1, 1)) and np.allclose(
        samples["1.2.3"]["spacing"], (4, 1, 1)
    )
    assert samples["1.2.2"]["verdict"] == "missing_slices"
    with pytest.raises(UsageError, match="resample"):
        dicomdl.VolumeDataset(index, irregular="guess")  # type: ignore[arg-type]


def write_time_points(folder: Path, short: tuple[int, ...] = ()) -> None:
    """Two echoes of one series; the second lacks some slices."""
    for t, echo_time in enumerate((4.9, 7.2)):

        def edit(dataset: object, z: int, t: int = t, echo_time: float = echo_time) -> None:
            dataset.EchoTime, dataset.InstanceNumber = echo_time, 2 * z + t + 1

        drop = short if t else ()
        write_series(
            folder,
            shape=(6, 5, 7),
            modality="MR",
            series_uid="1.2.3",
            seed=t,
            offset=500 * t,
            edit=edit,
            drop=drop,
        )


def test_volumes_of_a_group_come_one_by_one_and_say_which_they_are(folder: Path) -> None:
    write_time_points(folder)
    dataset = dicomdl.VolumeDataset(index_of(folder), intensity="modality")
    batch = next(iter(DataLoader(dataset, batch_size=2)))
    assert batch["dimension"] == ['{"echo_time": 4.9}', '{"echo_time": 7.2}']
    for t in range(2):
        assert np.array_equal(
            batch["image"][t, 0].numpy(), true_volume((6, 5, 7), offset=500 * t).astype(np.float32)
        )


@pytest.mark.parametrize("irregular", ["raise", "resample"])
def test_what_is_incomplete_in_its_group_is_left_out_unless_accepted(
    folder: Path, irregular: str
) -> None:
    write_time_points(folder, short=(4, 5))
    with pytest.warns(LeftOutWarning, match="incomplete in its group"):
        dataset = dicomdl.VolumeDataset(index_of(folder), irregular=irregular)
    assert [(row.reason, row.stacks, row.frames) for row in dataset.left_out] == [
        ("incomplete in its group", 1, 4)
    ]
    assert [dataset[i]["dimension"] for i in range(len(dataset))] == ['{"echo_time": 4.9}']
    assert len(dicomdl.VolumeDataset(index_of(folder), irregular="accept")) == 2


def test_an_equal_copy_is_left_out_without_a_warning(folder: Path) -> None:
    paths = write_series(folder, shape=(4, 5, 7))
    (folder / "again.dcm").write_bytes(paths[2].read_bytes())
    index = index_of(folder)
    assert len(index) == 5
    for kind, length in ((dicomdl.FrameDataset, 4), (dicomdl.VolumeDataset, 1)):
        with warnings.catch_warnings():
            warnings.simplefilter("error", LeftOutWarning)
            dataset = kind(index)
        assert len(dataset) == length
        assert [(row.reason, row.stacks, row.frames) for row in dataset.left_out] == [
            ("equal copy of another frame", 0, 1)
        ]
        assert all(isinstance(dataset[i]["image"], torch.Tensor) for i in range(length))
    assert len(dicomdl.FrameDataset(index, content=None)) == 4


def test_segmentations_come_when_asked_for(folder: Path) -> None:
    write_segmentation_1bit(folder / "s.dcm", shape=(4, 5, 7))
    index = index_of(folder)
    assert len(dicomdl.FrameDataset(index, content="segmentation")) == 4
    with pytest.raises(EmptySelection, match="content other than image"):
        dicomdl.FrameDataset(index)


def test_a_transform_gets_the_sample_and_its_result_is_delivered(ct: dicomdl.Index) -> None:
    dataset = dicomdl.FrameDataset(ct, transform=lambda sample: sample["image"].mean())
    assert dataset[0].ndim == 0


def test_a_frame_that_cannot_be_read_raises_a_typed_error_that_names_its_file_also_from_a_worker(
    folder: Path,
) -> None:
    paths = write_series(folder, shape=(3, 50, 70))
    index = index_of(folder)
    with open(paths[1], "r+b") as file:
        file.truncate(paths[1].stat().st_size - 4000)
    dataset = dicomdl.FrameDataset(index)
    with pytest.raises(DicomdlError) as caught:
        dataset[1]
    assert str(paths[1]) in "".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    delivered, failed = 0, 0
    loader = iter(DataLoader(dataset, batch_size=1, num_workers=1))
    while True:
        try:
            next(loader)
            delivered += 1
        except StopIteration:
            break
        except (DicomdlError, DecodeError, TruncatedPixels) as error:
            failed += 1
            alone = caught.value
            assert (
                type(error) is type(alone)
                and str(error) == str(alone)
                and vars(error).keys() == vars(alone).keys()
            )
            assert (
                str(paths[1]) in "".join(error.__notes__)
                and "Original Traceback" in error.__notes__[-1]
            )
    assert (delivered, failed) == (2, 1)


def test_a_number_outside_of_the_dataset_is_an_index_error(ct: dicomdl.Index) -> None:
    for dataset in (dicomdl.FrameDataset(ct), dicomdl.VolumeDataset(ct)):
        with pytest.raises(IndexError):
            dataset[len(dataset)]
        assert torch.equal(dataset[-1]["image"], dataset[len(dataset) - 1]["image"])


@pytest.mark.parametrize("wrong", [1.5, "a", None, slice(2), torch.tensor(1.0)])
def test_a_number_that_is_no_integer_is_a_usage_error(ct: dicomdl.Index, wrong: Any) -> None:
    for dataset in (dicomdl.FrameDataset(ct), dicomdl.PatchDataset(ct, (2, 2, 2))):
        with pytest.raises(UsageError, match=f"not a {type(wrong).__name__}"):
            dataset[wrong]
        with pytest.raises(UsageError, match="the number of a sample"):
            dataset.__getitems__([0, wrong])
    number: Any = torch.tensor(1)
    assert torch.equal(
        dicomdl.FrameDataset(ct)[number]["image"], dicomdl.FrameDataset(ct)[1]["image"]
    )


@pytest.mark.parametrize(
    "options",
    [
        {"size": (0, 5)},
        {"size": (1, 2, 3)},
        {"size": (2.5, 2)},
        {"spacing": "abc"},
        {"channels": 2},
        {"content": "foo"},
        {"intensity": "ct.lungs"},
    ],
)
def test_impossible_options_are_refused_when_the_dataset_is_made(
    ct: dicomdl.Index, options: dict[str, object]
) -> None:
    with pytest.raises(UsageError):
        dicomdl.FrameDataset(ct, **options)


def test_projection_images_of_one_series_have_each_its_own_window_and_monochrome1_is_inverted(
    folder: Path,
) -> None:
    def window(dataset: object, z: int) -> None:
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient"):
            dataset.pop(keyword, None)
        dataset.WindowCenter, dataset.WindowWidth = (100, 200) if z == 0 else (500, 1000)

    write_series(folder, shape=(2, 20, 30), modality="DX", photometric="MONOCHROME1", edit=window)
    index = index_of(folder)
    assert index.stacks[0].verdict == "no_geometry"
    dataset = dicomdl.FrameDataset(index)
    stored = true_volume((2, 20, 30))
    for i, (center, width) in enumerate(((100, 200), (500, 1000))):
        # LINEAR, PS3.3 C.11.2.1.2.1
        expected = 1 - np.clip(((stored[i] - (center - 0.5)) / (width - 1)) + 0.5, 0, 1)
        assert np.allclose(dataset[i]["image"][0].numpy(), expected, atol=1e-6)
    assert np.array_equal(dicomdl.read_frame(index.frame(0)), stored[0])


def test_label_maps_keep_their_labels_and_take_the_nearest_pixel(folder: Path) -> None:
    write_segmentation_1bit(folder / "s.dcm", shape=(4, 6, 8))
    dataset = dicomdl.FrameDataset(index_of(folder), content="segmentation", size=(12, 16))
    image = dataset[1]["image"]
    assert image.shape == (1, 12, 16) and set(image.unique().tolist()) <= {0.0, 1.0}
    volumes = dicomdl.VolumeDataset(index_of(folder), content="segmentation", size=(4, 12, 16))
    assert set(volumes[0]["image"].unique().tolist()) <= {0.0, 1.0}


def test_the_planes_of_a_dose_grid_lie_at_their_own_offsets(folder: Path) -> None:
    offsets = [0, 2, 4, 8, 10, 12]

    def dose(dataset: object, z: int) -> None:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = (
            "1.2.840.10008.5.1.4.1.1.481.2"
        )
        dataset.Modality, dataset.DoseGridScaling = "RTDOSE", "0.001"
        dataset.GridFrameOffsetVector = offsets
        dataset.ImagePositionPatient, dataset.ImageOrientationPatient = (
            [1, 2, 3],
            [1, 0, 0, 0, 1, 0],
        )
        dataset.PixelSpacing = [1, 1]
        for keyword in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
            dataset.pop(keyword, None)

    write_multiframe(folder / "d.dcm", shape=(6, 5, 7), edit=dose)
    index = index_of(folder)
    assert index.stacks[0].verdict in ("missing_slices", "uneven_spacing")
    dataset = dicomdl.FrameDataset(index, content="dose")
    assert [float(dataset[i]["affine"][2, 3]) for i in range(6)] == [
        3 + offset for offset in offsets
    ]


def test_volumes_are_interpolated_without_rounding_to_integers(ct: dicomdl.Index) -> None:
    sample = dicomdl.VolumeDataset(
        ct.select(patient_id="B"), intensity="modality", spacing=(1, 1, 1)
    )[0]
    assert (sample["image"] != sample["image"].round()).any()


def test_a_transform_that_raises_stop_iteration_does_not_end_the_epoch_without_a_word(
    ct: dicomdl.Index,
) -> None:
    def stop(sample: object) -> None:
        raise StopIteration

    with pytest.raises(RuntimeError, match="StopIteration"):
        list(DataLoader(dicomdl.FrameDataset(ct, transform=stop), batch_size=2))


def test_a_slice_without_rescale_never_joins_slices_with_one(folder: Path) -> None:
    def without(dataset: object, z: int) -> None:
        if z == 1:
            del dataset.RescaleSlope, dataset.RescaleIntercept

    write_series(folder, shape=(4, 5, 7), intercept=-1024, edit=without)
    assert sorted(stack.slices for stack in index_of(folder).stacks) == [1, 3]


@pytest.mark.parametrize("irregular", ["raise", "accept", "resample"])
def test_the_spacing_of_a_sample_is_that_of_its_affine_under_every_policy(
    folder: Path, irregular: Any
) -> None:
    write_series(folder / "whole", shape=(9, 5, 7), series_uid="1.2.1")
    write_series(folder / "hole", shape=(10, 5, 7), drop=(3,), series_uid="1.2.2")
    write_series(
        folder / "uneven", positions=[[0, 0, z] for z in (0, 3, 6, 9, 12, 17)], series_uid="1.2.3"
    )
    write_series(folder / "tilted", shape=(9, 5, 7), shear=(0, 0.5), series_uid="1.2.4")
    write_series(folder / "both", shape=(9, 5, 7), shear=(0, 0.5), drop=(4,), series_uid="1.2.5")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeftOutWarning)
        dataset = dicomdl.VolumeDataset(index_of(folder), intensity="modality", irregular=irregular)
    assert len(dataset) == {"raise": 2, "accept": 5, "resample": 5}[irregular]
    for sample in (dataset[i] for i in range(len(dataset))):
        assert np.allclose(sample["spacing"], np.linalg.norm(sample["affine"][:3, :3], axis=0))


def test_gaps_so_wide_that_most_slices_would_be_made_up_are_not_resampled(folder: Path) -> None:
    write_series(folder, positions=[[0, 0, z] for z in (0, 1, 2, 3, 4, 400)])
    index = index_of(folder)
    with pytest.raises(EmptySelection, match="made up"):
        dicomdl.VolumeDataset(index, irregular="resample")
    with pytest.raises(IrregularStack, match="made up"):
        dicomdl.read_volume(index.stacks[0], irregular="resample")


def test_a_label_map_is_padded_with_background(folder: Path) -> None:
    def all_ones(dataset: Any, _: int) -> None:
        dataset.PixelData = b"\xff" * len(dataset.PixelData)

    write_segmentation_1bit(folder / "seg.dcm", edit=all_ones)
    index = index_of(folder)
    stack = index.stacks[0]
    true = stack.slices * stack.value("rows") * stack.value("columns")
    frames = dicomdl.FrameDataset(
        index,
        content="segmentation",
        spacing=stack.spacing[1:],
        size=(30, 30),
        intensity="modality",
    )
    assert sum(int(frames[i]["image"].sum()) for i in range(len(frames))) == true
    volumes = dicomdl.VolumeDataset(
        index,
        content="segmentation",
        spacing=stack.spacing,
        size=(12, 30, 30),
        intensity="modality",
    )
    assert int(volumes[0]["image"].sum()) == true


# --- patches --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def patients(new_folder: NewFolder) -> dicomdl.Index:
    """CT, MR with padding, a fractional slope, JPEG-LS, and one that is shorter than the patch."""
    folder = new_folder()
    write_series(
        folder / "a",
        shape=(9, 20, 24),
        intercept=-1024,
        spacing=(2, 0.5, 0.7),
        orientation=OBLIQUE,
        origin=(9, -5, 3),
    )
    write_series(
        folder / "b",
        shape=(8, 20, 24),
        modality="MR",
        edit=lambda d, z: d.add_new("PixelPaddingValue", "US", 33),
    )
    write_series(folder / "c", shape=(7, 20, 24), modality="MR", slope=0.5, intercept=3)
    write_series(
        folder / "d", shape=(7, 18, 22), intercept=-1024, transfer_syntax="1.2.840.10008.1.2.4.80"
    )
    write_series(folder / "e", shape=(3, 5, 24), intercept=-1000)
    return index_of(folder)


@pytest.mark.quick(3)
@pytest.mark.parametrize("intensity", ["auto", "modality", "ct.lung", (100, 60)])
@pytest.mark.parametrize("sampler", ["uniform", "foreground", "grid"])
def test_a_patch_has_the_values_that_the_volume_has_there(
    patients: dicomdl.Index, intensity: Any, sampler: str
) -> None:
    volumes = dicomdl.VolumeDataset(patients, intensity)
    whole = {
        sample["series_instance_uid"]: sample
        for sample in (volumes[row] for row in range(len(volumes)))
    }
    patches = dicomdl.PatchDataset(
        patients, (4, 8, 9), per_stack=6, sampler=sampler, intensity=intensity
    )
    assert sampler == "grid" or len(patches) == 30
    for row in range(len(patches)):
        sample = patches[row]
        volume = whole[sample["series_instance_uid"]]
        z, y, x = sample["location"].tolist()
        assert sample["image"].shape == (1, 4, 8, 9) and tuple(sample["shape"].tolist()) == tuple(
            volume["image"].shape[1:]
        )
        padded = torch.nn.functional.pad(volume["image"], (20,) * 6, value=float("nan"))[
            0, z + 20 : z + 24, y + 20 : y + 28, x + 20 : x + 29
        ]
        inside = ~padded.isnan()
        assert torch.equal(sample["image"][0][inside], padded[inside])
        outside = sample["image"][0][~inside]
        if intensity != "modality":
            assert not len(outside) or (outside == 0).all()
        else:
            assert set(outside.tolist()) <= {-1024.0 if sample["units"] == "HU" else 0.0}
        assert torch.allclose(
            sample["affine"] @ torch.tensor([1.0, 2, 3, 1], dtype=torch.float64),
            volume["affine"] @ torch.tensor([z + 1.0, y + 2, x + 3, 1], dtype=torch.float64),
        )
        assert sample["units"] == volume["units"] and torch.equal(
            sample["spacing"], volume["spacing"]
        )


def test_grid_patches_of_a_dataset_stitch_back_to_the_volume(patients: dicomdl.Index) -> None:
    volumes = dicomdl.VolumeDataset(patients)
    patches = dicomdl.PatchDataset(patients, (4, 8, 9), sampler=dicomdl.Grid(overlap=0.5))
    for stack, (low, high) in enumerate(
        zip(patches.boundaries, patches.boundaries[1:], strict=False)
    ):
        samples = [patches[row] for row in range(low, high)]
        whole = dicomdl.stitch(
            [s["image"].numpy() for s in samples],
            [s["location"] for s in samples],
            tuple(samples[0]["shape"].tolist()),
        )
        assert np.allclose(whole, volumes[stack]["image"].numpy(), atol=1e-6)


@pytest.mark.slow
def test_patches_are_the_same_in_every_process_and_others_in_every_epoch(
    patients: dicomdl.Index,
) -> None:
    def places(workers: int, epoch: int, **options: Any) -> list[list[int]]:
        patches = dicomdl.PatchDataset(patients, (2, 5, 6), per_stack=5, seed=3)
        patches.set_epoch(epoch)
        return [
            place
            for batch in DataLoader(patches, batch_size=4, num_workers=workers, **options)
            for place in batch["location"].tolist()
        ]

    alone = places(0, 0)
    assert alone == places(2, 0) == places(1, 0, multiprocessing_context="spawn")
    assert alone != places(0, 1)
    assert len({tuple(place) for place in alone}) > 15


@pytest.mark.slow
def test_foreground_patches_see_the_body(folder: Path) -> None:
    stored = np.zeros((12, 40, 40), int)
    stored[5:8, 30:36, 4:9] = 1500
    write_series(folder, shape=stored.shape, stored=stored, intercept=-1024)
    patches = dicomdl.PatchDataset(
        index_of(folder), (2, 5, 5), per_stack=40, sampler="foreground", intensity="modality"
    )
    assert all(float(patches[row]["image"].max()) == 476 for row in range(40))
    assert (
        sum(
            float(
                dicomdl.PatchDataset(index_of(folder), (2, 5, 5), per_stack=40)[row]["image"].max()
            )
            > 0.3
            for row in range(40)
        )
        < 20
    )


def label_map(stack: dicomdl.Stack) -> np.ndarray:
    labels = np.zeros(stack.shape, np.uint8)
    labels[2, 3:5, 6] = 7
    return labels


@pytest.mark.slow
def test_balanced_patches_find_rare_labels_and_deliver_them(patients: dicomdl.Index) -> None:
    patches = dicomdl.PatchDataset(
        patients, (3, 3, 3), per_stack=40, sampler=dicomdl.Balanced({0: 1, 7: 1}), labels=label_map
    )
    samples = [patches[row] for row in range(len(patches))]
    share = np.mean([7 in sample["label"] for sample in samples])
    assert (
        0.35 < share < 0.75
        and samples[0]["label"].dtype == torch.uint8
        and samples[0]["label"].shape == (3, 3, 3)
    )
    for sample in samples[:40]:
        z, y, x = sample["location"].tolist()
        expected = np.zeros(tuple(sample["shape"].tolist()), int)
        expected[2, 3:5, 6] = 7
        assert np.array_equal(sample["label"].numpy(), expected[z : z + 3, y : y + 3, x : x + 3])
    with pytest.raises(UsageError, match="labels"):
        dicomdl.PatchDataset(patients, (3, 3, 3), sampler="labels")
    with pytest.raises(DicomdlError, match="labels give"):
        dicomdl.PatchDataset(
            patients, (3, 3, 3), sampler="labels", labels=lambda stack: np.zeros((1, 2, 3), int)
        )[0]


@pytest.mark.parametrize(
    ("dtype", "values", "kept"),
    [("i8", (0, 255), "u1"), ("i4", (-1, 7), "i2"), ("u2", (0, 256), "u2"), ("?", (0, 1), "?")],
)
def test_label_maps_are_kept_small_and_delivered_as_they_are(
    patients: dicomdl.Index, dtype: str, values: Any, kept: str
) -> None:
    def labels(stack: Any) -> Any:
        made = np.zeros(stack.shape, dtype)
        made[1], made[2] = values
        return made

    source = dicomdl.LabelSource(labels, label_dtype="int16")
    patches = dicomdl.PatchDataset(
        patients, (2, 4, 4), sampler="grid", labels=source, intensity="modality"
    )
    for row in (0, len(patches) - 1):
        z, y, x = (patches[row]["location"]).tolist()
        expected = labels(
            patches._stacks[int(np.searchsorted(patches.boundaries, row, side="right")) - 1]
        )
        label = patches[row]["label"]
        assert label.dtype == torch.int16 and np.array_equal(
            label.numpy(), expected[z : z + 2, y : y + 4, x : x + 4]
        )
    assert {
        sample_labels_module.label_map(stack, sample_labels_module.ByIdentity(labels)).dtype
        for stack in patches._stacks
    } == {np.dtype(kept)}


def test_a_patch_lies_around_each_point_of_a_table_and_the_rest_is_told(
    patients: dicomdl.Index,
) -> None:
    stack = patients.select(modality="CT", rows=20).stacks[0]
    world = stack.geometry.voxel_to_world([[4, 10, 12], [0, 0, 0], [400, 0, 0]])
    table = {
        "series_instance_uid": [stack.series_instance_uid] * 3,
        "x": world[:, 0],
        "y": world[:, 1],
        "z": world[:, 2],
    }
    with pytest.warns(LeftOutWarning, match="no point"):
        patches = dicomdl.PatchDataset(
            patients, (3, 5, 5), sampler=dicomdl.Centers.from_table(table), intensity="modality"
        )
    assert len(patches) == 2
    assert [patches[row]["point"] for row in range(2)] == [0, 1]
    assert patches[0]["location"].tolist() == [3, 8, 10] and patches[1]["location"].tolist() == [
        -1,
        -2,
        -2,
    ]
    assert (
        float(patches[0]["image"][0, 1, 2, 2])
        == true_volume((9, 20, 24), intercept=-1024)[4, 10, 12]
    )
    assert (patches[1]["image"][0, 0] == -1024).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": (0, 1, 1)},
        {"size": (1, 1)},
        {"size": None},
        {"per_stack": 0},
        {"sampler": "random"},
        {"irregular": "resample"},
    ],
)
def test_impossible_patches_are_refused_when_the_dataset_is_made(
    patients: dicomdl.Index, wrong: dict[str, Any]
) -> None:
    with pytest.raises(UsageError):
        dicomdl.PatchDataset(patients, **{"size": (2, 2, 2), **wrong})


def test_patches_of_colour_have_three_channels(folder: Path) -> None:
    write_secondary_capture(folder / "a.dcm")
    with pytest.raises(EmptySelection, match=r"(?s)no_geometry.*irregular='accept'"):
        dicomdl.PatchDataset(index_of(folder), (1, 2, 2))
    patches = dicomdl.PatchDataset(index_of(folder), (1, 2, 3), irregular="accept")
    assert patches[0]["image"].shape == (3, 1, 2, 3)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_cached_datasets_give_the_same_samples_in_every_process(
    folder: Path, tmp_path: Path, method: str
) -> None:
    for seed, syntax in enumerate(
        ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1")
    ):
        write_series(
            folder / str(seed),
            shape=(5, 12, 14),
            seed=seed,
            intercept=-1024,
            transfer_syntax=syntax,
        )
    index = index_of(folder)
    datasets: list[Any] = []
    expected = []
    for make in (
        lambda **o: dicomdl.FrameDataset(index, "ct.lung", **o),
        lambda **o: dicomdl.VolumeDataset(index, "ct.lung", spacing=(2, 0.7, 0.7), **o),
        lambda **o: dicomdl.PatchDataset(index, (2, 5, 6), intensity="ct.lung", **o),
    ):
        plain = make()
        plain.set_epoch(0)
        for cache in ("memory", tmp_path / "cache"):
            datasets.append(make(cache=cache))
            datasets[-1].set_epoch(0)
            assert len(pickle.dumps(datasets[-1])) <= 4096
            expected += [plain[row]["image"].flatten() for row in range(len(plain))]
    loaders = [
        DataLoader(dataset, batch_size=2, num_workers=2, multiprocessing_context="fork")
        for dataset in datasets
    ]
    if method == "spawn":  # an interpreter takes seconds to start, so one reads all
        loaders = [
            DataLoader(
                ConcatDataset(datasets),
                batch_size=None,
                num_workers=1,
                multiprocessing_context="spawn",
            )
        ]
    delivered = [
        image.flatten() for loader in loaders for batch in loader for image in batch["image"]
    ]
    assert torch.equal(torch.cat(delivered), torch.cat(expected))


def _subsampled(dataset: Dataset, z: int) -> None:
    """Set the pixels to uncompressed YBR_FULL_422: Y per pixel, Cb and Cr per two pixels."""
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    dataset.PixelData = bytes(range(dataset.Rows * dataset.Columns * 2))


STORED: dict[str, tuple[Callable[[Path], object], bool]] = {
    "little endian": (lambda path: write_series(path, shape=(3, 8, 10)), False),
    "big endian, 16 bits": (
        lambda path: write_series(path, shape=(3, 8, 10), transfer_syntax=ExplicitVRBigEndian),
        False,
    ),
    "big endian, 8 bits": (
        lambda path: write_series(
            path,
            shape=(3, 8, 10),
            transfer_syntax=ExplicitVRBigEndian,
            bits_allocated=8,
            stored=np.arange(240).reshape(3, 8, 10),
        ),
        False,
    ),
    "colour by planes": (
        lambda path: write_secondary_capture(
            path / "a", rows=8, columns=10, planar_configuration=1
        ),
        False,
    ),
    "subsampled colour": (
        lambda path: write_secondary_capture(path / "a", rows=8, columns=10, edit=_subsampled),
        False,
    ),
    "mosaic": (lambda path: write_mosaic(path / "a"), False),
    "deflated": (
        lambda path: write_series(
            path, shape=(3, 8, 10), transfer_syntax=DeflatedExplicitVRLittleEndian
        ),
        True,
    ),
    "RLE": (lambda path: write_series(path, shape=(3, 8, 10), transfer_syntax=RLELossless), True),
    "one slice of RLE among plain ones": (
        lambda path: [
            write_series(
                path,
                shape=(3, 8, 10),
                series_uid="1.2.3",
                drop=drop,
                transfer_syntax=syntax,
            )
            for drop, syntax in (((2,), ExplicitVRLittleEndian), ((0, 1), RLELossless))
        ],
        True,
    ),
}


@pytest.mark.quick(3)
@pytest.mark.parametrize("stored", STORED)
def test_all_datasets_keep_a_stack_in_a_cache_or_none_does(folder: Path, stored: str) -> None:
    write, is_kept = STORED[stored]
    write(folder)
    index, made = index_of(folder), []
    for make in (
        lambda cache: dicomdl.FrameDataset(index, "modality", cache=cache),
        lambda cache: dicomdl.FrameDataset(index, "modality", cache=cache, neighbours=1),
        lambda cache: dicomdl.VolumeDataset(index, "modality", irregular="accept", cache=cache),
        lambda cache: dicomdl.PatchDataset(
            index, (1, 4, 4), intensity="modality", irregular="accept", cache=cache
        ),
    ):
        cache = dicomdl.MemoryCache(2**20)
        dataset = make(cache)
        if "colour" in stored and getattr(dataset, "neighbours", 0):
            continue
        dataset[0]
        made.append(cache.stats().made)
    assert set(made) == {int(is_kept)}, made


def test_an_impossible_cache_is_refused_when_the_dataset_is_made(ct: dicomdl.Index) -> None:
    with pytest.raises(UsageError, match="cache"):
        dicomdl.FrameDataset(ct, cache="dsik")


@pytest.mark.parametrize("intensity_on", ["cpu", "device"])
def test_colour_patches_may_reach_beyond_the_border_or_lie_outside(
    folder: Path, intensity_on: Any
) -> None:
    write_secondary_capture(folder / "a.dcm", rows=9, columns=14, frames=4)
    index = index_of(folder)
    inside = dicomdl.PatchDataset(index, (1, 9, 14), irregular="accept", intensity_on=intensity_on)[
        0
    ]["image"]
    across = dicomdl.PatchDataset(
        index, (6, 16, 16), irregular="accept", intensity_on=intensity_on
    )[0]["image"]
    assert (
        across.shape == (3, 6, 16, 16)
        and across.dtype == inside.dtype
        and (across[:, 0] == 0).all()
        and across.max() > 0
    )

    class Outside(type(dicomdl.Uniform())):  # type: ignore[misc]
        def start(self, *arguments: Any) -> tuple[int, int, int]:
            return (-50, 0, 0)

    outside = dicomdl.PatchDataset(
        index, (2, 4, 4), irregular="accept", sampler=Outside(), intensity_on=intensity_on
    )[0]["image"]
    assert outside.shape == (3, 2, 4, 4) and outside.dtype == inside.dtype and not outside.any()


@pytest.mark.parametrize("cache", [None, "memory"])
def test_one_damaged_slice_loses_neither_its_stack_nor_the_cache(
    folder: Path, cache: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_series(
        folder, shape=(8, 12, 14), modality="MR", transfer_syntax="1.2.840.10008.1.2.5"
    )
    data = bytearray(paths[3].read_bytes())
    data[-200:-100] = bytes(100)
    paths[3].write_bytes(data)
    index = index_of(folder)
    decoded: list[int] = []
    original = codecs.decode
    monkeypatch.setattr(codecs, "decode", lambda *a, **o: (decoded.append(1), original(*a, **o))[1])
    frames = dicomdl.FrameDataset(index, cache=cache, on_error="skip")
    delivered = [row for batch in DataLoader(frames, batch_size=4) for row in batch["row"].tolist()]
    assert sorted(delivered) == [0, 1, 2, 4, 5, 6, 7] and [row.row for row in frames.skipped] == [3]
    assert len(decoded) < 40
    patches = dicomdl.PatchDataset(index, (1, 4, 4), sampler="grid", cache=cache, on_error="skip")
    delivered = sum(len(batch["row"]) for batch in DataLoader(patches, batch_size=13))
    assert (
        delivered == len(patches) - len(patches.skipped)
        and len(patches.skipped) == len(patches) // 8
    )


def test_a_cache_that_is_too_small_keeps_nothing_in_the_workers(folder: Path) -> None:
    write_series(folder, shape=(8, 64, 64), transfer_syntax="1.2.840.10008.1.2.5")
    index = index_of(folder)
    patches = dicomdl.PatchDataset(index, (2, 9, 9), intensity="modality", cache=4096)
    expected = dicomdl.read_volume(index.stacks[0]).array
    for row in range(4):
        sample = patches[row]
        z, y, x = sample["location"].tolist()
        assert np.array_equal(sample["image"][0].numpy(), expected[z : z + 2, y : y + 9, x : x + 9])
    reader = voxels_of(patches._stacks[0], "modality", patches.reading.cache)
    assert reader._cache is not None and reader._cache.block((0, 0, 0), (1, 1, 1)) is None


def test_blocks_of_mixed_rescales_are_those_of_the_volume_bit_by_bit(folder: Path) -> None:
    for seed, syntax in enumerate(("1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.80")):
        write_series(
            folder / str(seed),
            shape=(6, 9, 9),
            slope=[1001, 1001, 0.5, 1001, 1001, 1001],
            bits_stored=16,
            offset=9000,
            seed=seed,
            transfer_syntax=syntax,
        )
    for sample in (
        dicomdl.PatchDataset(index_of(folder), (2, 9, 9), sampler="grid", intensity="modality")[row]
        for row in range(6)
    ):
        volume = dicomdl.read_volume(index_of(folder).stacks[0]).array.astype(np.float32)
        z = int(sample["location"][0])
        assert np.array_equal(sample["image"][0].numpy(), volume[z : z + 2])


@pytest.mark.slow
def test_a_dataset_is_enough_for_torchs_default_collate_to_know_samples(folder: Path) -> None:
    write_series(folder / "a", shape=(1, 5, 6))
    write_series(folder / "b", shape=(1, 7, 8), seed=2)
    index = index_of(folder)
    code = (
        "import sys, dicomdl, torch\n"
        "frames = dicomdl.FrameDataset(dicomdl.open_index(sys.argv[1]))\n"
        "loader = torch.utils.data.DataLoader(frames, 2)\n"
        "try: next(iter(loader))\n"
        "except dicomdl.DicomdlError as error: print(error.shapes)\n"
    )
    command = [sys.executable, "-c", code, index.path]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[(1, 5, 6), (1, 7, 8)]"
