"""Groups as samples: volumes along a leading axis, their facts, and groups that do not fit."""

import json
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import index_of
from phantoms import decimal, write_series
from phantoms_defects import MARK, clock, moved, series

import dicomdl
from dicomdl.datasets.selection import LeftOutWarning
from dicomdl.errors import EmptySelection, IncompleteGroup, IrregularStack, UsageError
from dicomdl.storage import pieces


def echo(n: int, z: int) -> Mapping[str, Any]:
    return {"EchoTime": decimal(5.0 * (n % 3 + 1))}


def three_echoes(folder: Path, **options: Any) -> dicomdl.Index:
    for n in range(3):
        series(folder, n, tell=echo, modality="MR", **options)
    return index_of(folder)


def test_a_group_is_one_sample_of_its_volumes(folder: Path) -> None:
    index = three_echoes(folder)
    volumes = dicomdl.VolumeDataset(index.groups, "modality")
    assert len(volumes) == 1 and repr(volumes) == "VolumeDataset(1 group, intensity='modality')"
    sample = volumes[0]
    expected = dicomdl.read_volume(index.groups[0])
    assert sample["image"].dtype == torch.float32
    assert np.array_equal(sample["image"].numpy(), expected.array)
    assert np.array_equal(sample["affine"].numpy(), expected.affine)
    assert json.loads(sample["dimension"]) == {"echo_time": [5.0, 10.0, 15.0]}
    assert sample["dimension_values"].tolist() == [[5.0], [10.0], [15.0]]
    assert sample["stacks"].tolist() == [stack.number for stack in index.groups[0]]
    assert sample["present"].tolist() == [True] * 3
    assert np.isnan(sample["time_step_s"]) and sample["times_s"].isnan().all()


def test_stacks_of_groups_are_a_sample_each(folder: Path) -> None:
    index = three_echoes(folder)
    for given in (index.of_stacks(index.groups), index.groups[0].stacks, list(index.stacks)):
        volumes = dicomdl.VolumeDataset(given, "modality")
        assert len(volumes) == 3
        assert volumes[1]["image"].shape == (1, 6, 5, 7)
        assert volumes[1]["dimension"] == '{"echo_time": 10.0}'
    with pytest.raises(UsageError, match="1 groups and 1 other views"):
        dicomdl.VolumeDataset([index.groups[0], index.stacks[0]])


def test_times_choose_volumes_with_their_facts(folder: Path) -> None:
    group = three_echoes(folder).groups[0]
    whole = dicomdl.VolumeDataset(group, "modality")[0]["image"]
    for times, expected in (
        (slice(1, None), [1, 2]),
        (slice(None, None, -1), [2, 1, 0]),
        ([2], [2]),
        ([-1, 0], [2, 0]),
        (np.array([1, 1]), [1, 1]),
    ):
        sample = dicomdl.VolumeDataset(group, "modality", times=times)[0]
        assert torch.equal(sample["image"], whole[expected])
        assert sample["dimension_values"][:, 0].tolist() == [5.0 * (t + 1) for t in expected]
        assert sample["stacks"].tolist() == [group[t].number for t in expected]


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "times", [3, "all", [], [0.5], [True, False], "1", dicomdl.RandomTimes, {1: 2}.get]
)
def test_other_choices_of_volumes_are_refused(folder: Path, times: Any) -> None:
    group = three_echoes(folder, shape=(2, 5, 7)).groups[0]
    with pytest.raises(UsageError, match=r"times=.*(expected|no volume)"):
        dicomdl.VolumeDataset(group, times=times)


@pytest.mark.slow
def test_random_volumes_depend_on_seed_epoch_and_row(folder: Path) -> None:
    for n in range(6):
        series(folder, n, tell=lambda n, z: {"TemporalPositionIdentifier": n}, shape=(2, 5, 7))
    group = index_of(folder).groups[0]
    draws = dicomdl.VolumeDataset(group, "modality", times=dicomdl.RandomTimes(3), seed=4)
    seen = set()
    for epoch in range(8):
        draws.set_epoch(epoch)
        stacks = draws[0]["stacks"].tolist()
        assert stacks == sorted(set(stacks)) and len(stacks) == 3
        assert stacks == draws[0]["stacks"].tolist()
        seen.add(tuple(stacks))
    assert len(seen) > 2
    runs = dicomdl.VolumeDataset(group, times=dicomdl.RandomTimes(3, consecutive=True))
    for epoch in range(4):
        runs.set_epoch(epoch)
        assert np.diff(runs[0]["dimension_values"][:, 0]).tolist() == [1, 1]
    assert dicomdl.VolumeDataset(group, times="random")[0]["image"].shape == (1, 2, 5, 7)


def test_one_intensity_serves_all_volumes(folder: Path) -> None:
    group = three_echoes(folder).groups[0]
    image = dicomdl.VolumeDataset(group, dicomdl.MinMax())[0]["image"].numpy()
    values = dicomdl.read_volume(group).array
    expected = (values - values.min()) / (values.max() - values.min())
    assert np.allclose(image, expected, atol=1e-3)
    one = dicomdl.VolumeDataset(group, dicomdl.MinMax(), times=[1])[0]["image"].numpy()
    assert np.array_equal(one[0], image[1])


def test_times_in_seconds_follow_a_clock_of_unequal_steps(folder: Path) -> None:
    starts = (0, 10, 20, 50)
    for n, start in enumerate(starts):
        series(folder, n, tell=lambda n, z: {"AcquisitionTime": clock(starts[n])}, shape=(2, 5, 7))
        del start
    sample = dicomdl.VolumeDataset(index_of(folder).groups, "modality")[0]
    assert sample["times_s"].tolist() == [0, 10, 20, 50]
    assert np.isnan(sample["time_step_s"])


def test_equal_steps_are_a_time_step_also_of_every_second_volume(folder: Path) -> None:
    for n in range(4):
        series(folder, n, tell=lambda n, z: {"AcquisitionTime": clock(7.0 * n)}, shape=(2, 5, 7))
    group = index_of(folder).groups[0]
    sample = dicomdl.VolumeDataset(group, "modality", times=slice(0, None, 2))[0]
    assert sample["time_step_s"] == 14.0 and sample["times_s"].tolist() == [0, 14]


def test_b_values_and_directions_are_those_of_the_volume(folder: Path) -> None:
    def tell(n: int, z: int) -> Mapping[str, Any]:
        direction = [0.0, 1.0, 0.0] if n else None
        return {"DiffusionBValue": 1000.0 * n, "DiffusionGradientOrientation": direction}

    for n in range(3):
        series(folder, n, tell=tell, modality="MR", shape=(2, 5, 7))
    group = index_of(folder).groups[0]
    sample, volume = dicomdl.VolumeDataset(group)[0], dicomdl.read_volume(group)
    assert sample["b_values"].tolist() == volume.b_values.tolist() == [0, 1000, 2000]
    assert np.array_equal(sample["b_vectors"], volume.b_vectors, equal_nan=True)


# --- patches --------------------------------------------------------------------------------------


def test_a_patch_of_a_group_is_the_same_place_of_each_volume(folder: Path) -> None:
    group = three_echoes(folder).groups[0]
    volume = dicomdl.read_volume(group)
    patches = dicomdl.PatchDataset(group, (2, 3, 4), sampler="grid", intensity="modality")
    assert len(patches) == 3 * 2 * 2
    for sample in patches:
        z, y, x = sample["location"].tolist()
        expected = volume.array[:, z : z + 2, y : y + 3, x : x + 4]
        assert np.array_equal(sample["image"].numpy(), expected)
        assert sample["dimension_values"][:, 0].tolist() == [5.0, 10.0, 15.0]
        assert np.allclose(sample["affine"][:3, 3], volume.affine[:3] @ [z, y, x, 1])


@pytest.mark.parametrize("options", [{}, {"intensity_on": "device"}, {"orientation": "RAS"}])
def test_patches_of_groups_are_those_of_their_stacks(folder: Path, options: Any) -> None:
    group = three_echoes(folder).groups[0]
    how = {"size": (8, 3, 4), "per_stack": 2, "intensity": "ct.lung", **options}
    together = dicomdl.PatchDataset(group, times=[2, 0], **how)
    alone = dicomdl.PatchDataset(group.stacks, **how)
    for row in range(2):
        sample, one = together[row], alone[row]
        assert torch.equal(sample["location"], one["location"])
        assert torch.equal(sample["image"][1], one["image"][0])
        assert torch.equal(sample["affine"], one["affine"])


def test_random_volumes_leave_the_places_of_patches_as_they_are(folder: Path) -> None:
    group = three_echoes(folder).groups[0]
    plain = dicomdl.PatchDataset(group, (2, 2, 2), per_stack=8, seed=1)
    random = dicomdl.PatchDataset(group, (2, 2, 2), per_stack=8, seed=1, times="random")
    places = [[each[row]["location"].tolist() for row in range(8)] for each in (plain, random)]
    assert places[0] == places[1]
    assert len({random[row]["stacks"].item() for row in range(8)}) > 1


def test_patches_of_a_group_read_only_their_own_rows(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = three_echoes(folder, shape=(6, 20, 10)).groups[0]
    patches = dicomdl.PatchDataset(
        group, (2, 5, 4), sampler="grid", intensity="modality", times=[0, 2]
    )
    assert patches[0]["image"].shape == (2, 2, 5, 4)
    read: list[int] = []
    original = pieces.fill_block

    def counted(places: Any, first: int, window: pieces.Window, *a: Any) -> tuple[int, int]:
        complete, found = original(places, first, window, *a)
        read.append(complete * window.rows * window.row_bytes)
        return complete, found

    monkeypatch.setattr(pieces, "fill_block", counted)
    image = patches[1]["image"]
    assert image.shape == (2, 2, 5, 4)
    assert sum(read) == 2 * 2 * 5 * 10 * 2


def test_points_of_a_table_lie_in_groups(folder: Path) -> None:
    group = three_echoes(folder).groups[0]
    uid, place = group[0].series_instance_uid, group[0].geometry.voxel_to_world([[2, 3, 4]])[0]
    patches = dicomdl.PatchDataset(
        group, (1, 1, 1), sampler=dicomdl.Centers([(uid, *place)]), intensity="modality"
    )
    assert len(patches) == 1
    expected = dicomdl.read_volume(group).array[:, 2, 3, 4]
    assert patches[0]["image"].ravel().tolist() == expected.tolist()
    assert patches[0]["point"] == 0


def test_labels_of_a_group_are_those_of_its_first_volume(folder: Path) -> None:
    group = three_echoes(folder).groups[0]
    asked: list[int] = []

    def labels(stack: dicomdl.Stack) -> Any:
        asked.append(stack.number)
        return np.ones(stack.shape, np.uint8)

    sample = dicomdl.PatchDataset(group, (2, 2, 2), labels=labels, times=[2])[0]
    assert asked == [group[0].number] and sample["label"].sum() == 8
    assert dicomdl.VolumeDataset(group, labels=labels, times=[2])[0]["label"].all()
    assert asked == [group[0].number]


# --- batches --------------------------------------------------------------------------------------


def test_collate_pads_groups_of_different_lengths(folder: Path) -> None:
    group = three_echoes(folder).groups[0]
    volumes = dicomdl.VolumeDataset([group, group.only(group[:2])], "modality")
    batch = dicomdl.collate([volumes[0], volumes[1]])
    assert batch["image"].shape == (2, 3, 6, 5, 7)
    assert batch["present"].tolist() == [[True, True, True], [True, True, False]]
    assert torch.equal(batch["image"][1, :2], volumes[1]["image"])
    assert (batch["image"][1, 2] == 0).all()
    assert batch["dimension_values"].shape == (2, 3, 1)
    assert batch["affine"].shape == (2, 4, 4)
    rgb = dicomdl.VolumeDataset([group, group.only(group[:2])], channels=3)
    assert dicomdl.collate([rgb[0], rgb[1]])["image"].shape == (2, 3, 3, 6, 5, 7)
    with pytest.raises(UsageError, match=r"dicomdl\.collate"):
        torch.utils.data.default_collate([volumes[0], volumes[1]])


# --- groups that do not fit -----------------------------------------------------------------------


def with_a_short_volume(folder: Path) -> dicomdl.Group:
    """Write three echoes; the last one lacks two slices."""
    for n in range(3):
        series(folder, n, tell=echo, modality="MR", drop=[4, 5] if n == 2 else [])
    return index_of(folder).groups[0]


def test_incomplete_groups_are_left_out_taken_in_part_or_raised(folder: Path) -> None:
    group = with_a_short_volume(folder)
    with pytest.raises(EmptySelection, match=r"in a group whose stacks lack slices +3 +16"):
        dicomdl.VolumeDataset(group)
    with pytest.warns(LeftOutWarning, match=r"lack slices +1 +4"):
        readable = dicomdl.VolumeDataset(group, "modality", incomplete="readable")
    sample = readable[0]
    assert sample["image"].shape == (2, 6, 5, 7)
    assert sample["dimension_values"][:, 0].tolist() == [5.0, 10.0]
    with pytest.raises(IncompleteGroup, match="lack 2 slices in all"):
        dicomdl.VolumeDataset(group, incomplete="raise")
    # What the user chose is complete.
    assert len(dicomdl.VolumeDataset(group.readable)) == 1


def test_a_group_with_a_damaged_volume_goes_by_the_same_option(folder: Path) -> None:
    tell = lambda n, z: {"TemporalPositionIdentifier": n % 4 + 1}
    for n in range(4):
        series(folder, n, tell=tell)
    series(folder, 4, tell=tell, drop=[0, 1, 4, 5])
    group = index_of(folder).groups[0]
    with pytest.raises(EmptySelection, match=r"with a stack that is duplicates +4 "):
        dicomdl.VolumeDataset(group)
    with pytest.warns(LeftOutWarning, match=r"duplicates +1 "):
        volumes = dicomdl.VolumeDataset(group, "modality", incomplete="readable")
    assert volumes[0]["image"][:, 0, 0, 0].tolist() == [MARK, 2 * MARK, 3 * MARK]
    with pytest.raises(IrregularStack, match="stack 0 of the 4"):
        dicomdl.VolumeDataset(group, incomplete="raise")


def test_groups_with_too_few_volumes_or_slices_are_left_out(folder: Path) -> None:
    group = three_echoes(folder).groups[0]
    for times in ([3], slice(3, None), dicomdl.RandomTimes(4)):
        with pytest.raises(EmptySelection, match="too few volumes for times="):
            dicomdl.VolumeDataset(group, times=times)
    with pytest.raises(EmptySelection, match="fewer than 7 slices"):
        dicomdl.VolumeDataset(group, min_slices=7)


def test_moved_volumes_are_left_out_or_resampled_to_the_first_grid(folder: Path) -> None:
    moved(folder, lambda n, z: {"AcquisitionNumber": n + 1})
    group = index_of(folder).groups[0]
    with pytest.raises(UsageError, match="as they are"):
        dicomdl.PatchDataset(group, (2, 2, 2), moved="resample")
    with pytest.raises(EmptySelection, match=r"in a group whose stacks moved +5 +30"):
        dicomdl.VolumeDataset(group)
    sample = dicomdl.VolumeDataset(group, "modality", moved="resample")[0]
    assert np.allclose(sample["affine"], group[0].affine)
    image = sample["image"].numpy()
    for t in (1, 4):
        expected = dicomdl.read_volume(group[t], values="modality").resample_to(group[0].geometry)
        inside = (slice(1, -1), slice(1, -1), slice(1, -1))
        assert np.abs(image[t][inside] - expected.array[inside]).max() <= 0.51
    # The grid is that of the group, whichever volumes are taken.
    last = dicomdl.VolumeDataset(group, "modality", moved="resample", times=[-1])[0]
    assert np.allclose(last["affine"], group[0].affine)
    assert np.allclose(last["image"][0].numpy(), image[-1])


def test_beyond_a_moved_volume_lies_air(folder: Path) -> None:
    for n in range(2):
        write_series(
            folder / str(n),
            shape=(4, 8, 10),
            series_uid="2.25.7",
            origin=(3.0 * n, 0, 0),
            intercept=200,
            seed=n,
            edit=lambda file, z, n=n: setattr(file, "TemporalPositionIdentifier", n + 1),
        )
    first, second = dicomdl.VolumeDataset(index_of(folder).groups, "modality", moved="resample")[0][
        "image"
    ]
    assert first.min() == 200
    assert (second[..., :2] == -1024).all() and second[..., 3:].min() >= 200


def test_a_group_of_two_units_is_listed_and_its_parts_are_taken(folder: Path) -> None:
    def tell(n: int, z: int) -> Mapping[str, Any]:
        kind, unit = ("P", "milliradials") if n >= 2 else ("M", "normalized")
        return {
            "EchoTime": decimal(5.0 + 5 * (n % 2)),
            "ImageType": ["ORIGINAL", "PRIMARY", kind, "ND"],
            "RescaleType": unit,
        }

    for n in range(4):
        series(folder, n, tell=tell, modality="MR")
    group = index_of(folder).groups[0]
    with pytest.raises(EmptySelection, match="several units"):
        dicomdl.VolumeDataset(group, "modality")
    parts = dicomdl.VolumeDataset(list(group.parts), "modality")
    assert [parts[n]["image"][:, 0, 0, 0].tolist() for n in range(2)] == [
        [0, MARK],
        [2 * MARK, 3 * MARK],
    ]
    again = pickle.loads(pickle.dumps(parts))
    assert torch.equal(again[1]["image"], parts[1]["image"])


def test_options_of_groups_need_groups(folder: Path) -> None:
    write_series(folder)
    for options in ({"times": [0]}, {"incomplete": "readable"}, {"moved": "resample"}):
        with pytest.raises(UsageError, match=r"options of groups: pass index.groups"):
            dicomdl.VolumeDataset(index_of(folder), **options)
    for options in ({"incomplete": "skip"}, {"moved": "accept"}):
        with pytest.raises(UsageError, match="expected one of 'leave_out'"):
            dicomdl.VolumeDataset(index_of(folder).stacks[0].group, **options)


def test_size_spacing_and_channels_hold_for_groups(folder: Path) -> None:
    group = three_echoes(folder).groups[0]
    sample = dicomdl.VolumeDataset(group, "modality", size=(3, 10, 14))[0]
    assert sample["image"].shape == (3, 3, 10, 14)
    one = dicomdl.VolumeDataset(group.stacks, "modality", size=(3, 10, 14))[1]
    assert torch.equal(sample["image"][1], one["image"][0])
    assert torch.equal(sample["affine"], one["affine"])
    rgb = dicomdl.VolumeDataset(group, "modality", channels=3)[0]["image"]
    assert rgb.shape == (3, 3, 6, 5, 7) and torch.equal(rgb[0], rgb[2])
    device = dicomdl.VolumeDataset(group, "ct.lung", intensity_on="device")[0]
    assert device["image"].dtype == torch.int16
    mapped = dicomdl.apply_intensity(device)["image"]
    assert torch.allclose(mapped, dicomdl.VolumeDataset(group, "ct.lung")[0]["image"], atol=1e-6)


@pytest.mark.slow
def test_workers_give_the_same_groups(folder: Path) -> None:
    group = three_echoes(folder, shape=(4, 64, 64)).groups[0]
    volumes = dicomdl.VolumeDataset([*[group] * 1, group.only(group[:2])], times="random")
    sampler = dicomdl.RowSampler(volumes, seed=3)
    alone = [volumes[row]["image"] for row in sampler]
    sampler.set_epoch(0)
    loader = torch.utils.data.DataLoader(volumes, sampler=sampler, num_workers=2)
    for expected, batch in zip(alone, loader, strict=True):
        assert torch.equal(batch["image"][0], expected)


def test_groups_of_the_corpus_equal_read_volume(corpus: Path, tmp_path: Path) -> None:
    index = dicomdl.scan(corpus / "neurolabusc+dcm_qa_me", tmp_path / "index", progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeftOutWarning)
        volumes = dicomdl.VolumeDataset(index.groups, "modality")
    assert len(volumes) == len(index.groups) == 2
    for group, sample in zip(index.groups, volumes, strict=True):
        assert np.array_equal(sample["image"].numpy(), dicomdl.read_volume(group).array)
