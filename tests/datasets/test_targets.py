"""Tests of targets: classes, several labels, numbers; the same in samples and without pixels."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import index_of
from phantoms import write_series
from torch.utils.data import DataLoader

import dicomdl
from dicomdl import FrameDataset, Index, PatchDataset, RowSampler, Target, VolumeDataset
from dicomdl.errors import UsageError

PATIENTS = ("A", "B", "C", "D")


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Four patients of 3, 4, 5 and 6 slices."""
    folder = tmp_path_factory.mktemp("targets") / "dicom"
    for number, patient in enumerate(PATIENTS):
        write_series(
            folder / patient,
            shape=(3 + number, 6, 8),
            patient_id=patient,
            seed=number,
            study_uid=f"1.2.{number + 1}",
            series_uid=f"1.2.{number + 1}.1",
        )
    return index_of(folder)


@pytest.fixture
def index(scanned: Index, cache_folder: Path) -> Index:
    """The index with a table of patients and one of frames."""
    del cache_folder
    patients = {
        "id": list(PATIENTS),
        "grade": ["low", "high", "", "low"],
        "birads": [3, 0, 2, None],
        "age": [50.5, None, 70, 61],
        "any": [1, 0, 1, None],
        "rare": [0, 0, 0, 1],
        "flag": [True, False, True, True],
        "left": ["mild", "severe", "mild", "mild"],
        "right": ["normal", None, "mild", "severe"],
    }
    index = scanned.join(patients, on={"patient_id": "id"}, level="patient")
    rows = [f"{each}/{k}" for n, each in enumerate(PATIENTS) for k in range(3 + n)]
    frames = {"key": rows, "bleeding": [int(row[-1]) % 2 for row in rows]}
    return index.join(frames, on={"{patient_id}/{position_in_stack}": "key"}, level="frame")


def one_per_patient(dataset: Any) -> list[Any]:
    """The targets of samples that are read."""
    return [dataset[row]["target"] for row in range(len(dataset))]


CASES: list[tuple[Any, str, list[Any]]] = [
    ("grade", "int64", [1, 0, -1, 1]),
    (Target("grade", classes=["low", "high"]), "int64", [0, 1, -1, 0]),
    (Target("grade", classes=["low", "high"], unknown=2), "int64", [0, 1, 2, 0]),
    (Target("grade", dtype="float32"), "float32", [1, 0, np.nan, 1]),
    ("birads", "int64", [3, 0, 2, -1]),
    (Target("birads", classes=[3, 2, 0]), "int64", [0, 2, 1, -1]),
    ("age", "float32", [50.5, np.nan, 70, 61]),
    ("flag", "int64", [1, 0, 1, 1]),
    (["any", "rare"], "float32", [[1, 0], [0, 0], [1, 0], [np.nan, 1]]),
    (["any", "age"], "float32", [[1, 50.5], [0, np.nan], [1, 70], [np.nan, 61]]),
    (Target(["any", "rare"], dtype="int64"), "int64", [[1, 0], [0, 0], [1, 0], [-1, 1]]),
    (["left", "right"], "int64", [[0, 1], [2, -1], [0, 0], [0, 2]]),
    (
        Target(["left", "right"], classes=["normal", "mild", "severe"]),
        "int64",
        [[1, 0], [2, -1], [1, 1], [1, 2]],
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("target", "dtype", "wanted"), CASES)
def test_targets_are_what_the_table_says(
    index: Index, target: Any, dtype: str, wanted: list[Any]
) -> None:
    volumes = VolumeDataset(index, "modality", target=target)
    assert volumes.targets.dtype == dtype
    assert np.array_equal(volumes.targets, np.array(wanted), equal_nan=True)
    for dataset, counts in (
        (volumes, [1, 1, 1, 1]),
        (FrameDataset(index, "modality", target=target), [3, 4, 5, 6]),
        (FrameDataset(index, "modality", target=target, plane="coronal"), [6, 6, 6, 6]),
        (PatchDataset(index, 3, per_stack=2, intensity="modality", target=target), [2, 2, 2, 2]),
        (FrameDataset(index, "modality", target=target, by="patient"), [1, 1, 1, 1]),
        (VolumeDataset(index, "modality", target=target, by="study"), [1, 1, 1, 1]),
    ):
        repeated = np.repeat(np.array(wanted), counts, axis=0)
        assert np.array_equal(dataset.targets, repeated, equal_nan=True)
        found = torch.stack(one_per_patient(dataset)).numpy()
        assert found.dtype == dtype and np.array_equal(found, repeated, equal_nan=True)


def test_targets_of_frames_are_those_of_members_in_a_bag(index: Index) -> None:
    frames = FrameDataset(index, "modality", target="bleeding")
    assert [int(each) for each in one_per_patient(frames)] == frames.targets.tolist()
    assert 0 < frames.targets.sum() < len(frames)
    bags = FrameDataset(index, "modality", target="bleeding", by="patient")
    assert torch.cat([bags[row]["target"] for row in range(4)]).tolist() == frames.targets.tolist()
    with pytest.raises(UsageError, match="joined by frame, and bags by patient have several"):
        _ = bags.targets
    for wrong in (
        lambda: VolumeDataset(index, "modality", target="bleeding"),
        lambda: PatchDataset(index, 2, target=["any", "bleeding"]),
        lambda: FrameDataset(index, target="bleeding", plane="coronal"),
    ):
        with pytest.raises(UsageError, match=r"joined by frame, and .* have several of these"):
            wrong()


def test_parts_of_an_index_have_the_classes_of_the_whole(index: Index) -> None:
    part = VolumeDataset(index.select(patient_id="B"), "modality", target="grade")
    assert part.targets.tolist() == [0] and part.target_classes == ("high", "low")
    assert VolumeDataset(index, target=["any", "rare"]).target_classes == ("any", "rare")
    assert VolumeDataset(index, target="birads").target_classes == ()


@pytest.mark.parametrize("method", [None, "fork", "spawn"])
def test_targets_are_the_same_in_workers(index: Index, method: str | None) -> None:
    frames = FrameDataset(index, "modality", target=["any", "age"], size=(6, 8))
    assert len(pickle.dumps(frames)) < 5000
    # An interpreter takes seconds to start.
    workers = {None: 0, "fork": 2, "spawn": 1}[method]
    loader = DataLoader(frames, batch_size=4, num_workers=workers, multiprocessing_context=method)
    found = torch.cat([batch["target"] for batch in loader]).numpy()
    assert np.array_equal(found, frames.targets, equal_nan=True) and found.dtype == np.float32


def test_class_weights_balance_the_classes(index: Index) -> None:
    frames = FrameDataset(index, "modality", target="grade")
    weights = frames.class_weights()
    assert weights.dtype == torch.float32 and weights.shape == (2,)
    known = frames.targets[frames.targets >= 0]
    assert np.isclose(weights[known].mean(), 1)
    assert np.allclose(np.bincount(known) * weights.numpy(), len(known) / 2)
    labels = FrameDataset(index, "modality", target=["any", "rare"])
    # 8 frames of patients A and C have the label, 4 of B have not; that of D is unknown.
    assert np.allclose(labels.class_weights(), [4 / 8, 12 / 6])
    only = VolumeDataset(index.select(patient_id="B"), target="grade")
    assert only.class_weights().tolist() == [1, 0]
    with pytest.raises(UsageError, match="fractions"):
        FrameDataset(index, target="age").class_weights()
    with pytest.raises(UsageError, match="pass target="):
        FrameDataset(index).class_weights()


@pytest.mark.parametrize(
    "target",
    [Target("grade", classes=["low", "high"], unknown=0), Target("any", unknown=0)],
)
def test_an_unknown_target_of_the_number_of_a_class_is_of_this_class(
    index: Index, target: Target
) -> None:
    frames = FrameDataset(index, "modality", target=target)
    assert np.array_equal(frames.class_numbers(), frames.targets)
    counts = np.bincount(frames.targets)
    assert np.allclose(frames.class_weights().numpy() * counts, len(frames) / 2) and counts.all()
    assert {int(frames.targets[row]) for row in RowSampler(frames, weights="target")} == {0, 1}
    beyond = FrameDataset(index, "modality", target=Target(target.columns, unknown=255))
    assert (beyond.class_numbers() == np.where(beyond.targets == 255, -1, beyond.targets)).all()


def test_targets_that_do_not_fit_are_errors(index: Index) -> None:
    lists = index.join(
        {"id": ["A", "A"], "reader": ["x", "y"]},
        on={"patient_id": "id"},
        lists=True,
        on_unmatched="keep",
        level="patient",
    )
    for option, words in (
        ("grades", "grades"),
        (Target("grade", classes=["low"]), r"'high', which is not among the classes"),
        (Target("age", dtype="int64"), "fractions: expected dtype='float32'"),
        (["any", "grade"], "'grade' holds text"),
        (["grade", "any"], "'any' holds integer"),
        ("reader", "holds a list per key"),
        (Target("any", unknown=0.5), "expected a whole number"),
    ):
        with pytest.raises(UsageError, match=words):
            VolumeDataset(lists, target=option)
    for options, words in (
        ({"columns": []}, "names of joined columns"),
        ({"columns": "a", "classes": ["x", "x"]}, "distinct"),
        ({"columns": "a", "classes": "low"}, "distinct values in a list"),
        ({"columns": "a", "dtype": "int8"}, "dtype='int8'"),
        ({"columns": "a", "unknown": "x"}, "unknown='x'"),
    ):
        with pytest.raises(UsageError, match=words):
            Target(**options)
    assert hash(Target(["a", "b"], classes=["x", "y"])) == hash(
        Target(["a", "b"], classes=["x", "y"])
    )
    with pytest.raises(UsageError, match="joined are grade"):
        FrameDataset(index.of_frames([0]), target="nothing")


def test_weights_of_a_sampler_balance_the_classes_in_every_epoch(index: Index) -> None:
    frames = FrameDataset(index, "modality", target="grade")
    sampler = RowSampler(frames, weights="target", seed=3)
    numbers = frames.class_numbers()
    epochs = [sampler.order(epoch) for epoch in range(50)]
    for order in epochs:
        counts = np.bincount(numbers[order], minlength=2)
        # Rows of unknown class are not drawn; classes differ by at most one row.
        assert len(order) == len(frames) and counts.sum() == len(order)
        assert abs(int(counts[0]) - int(counts[1])) <= 1
    drawn = np.bincount(np.concatenate(epochs), minlength=len(frames))
    assert (drawn[numbers >= 0] > 0).all() and len({tuple(order) for order in epochs}) == 50
    assert np.array_equal(sampler.order(7), RowSampler(frames, weights="target", seed=3).order(7))


@pytest.mark.slow
def test_weights_are_proportions_of_rows_over_ranks() -> None:
    weights = [1, 0, 2, 5]
    orders = [
        np.concatenate(
            [
                RowSampler(4, weights=weights, rank=rank, world_size=2, seed=1).order(epoch)
                for rank in range(2)
            ]
        )
        for epoch in range(400)
    ]
    share = np.bincount(np.concatenate(orders), minlength=4) / (400 * 4)
    assert np.allclose(share, np.array(weights) / 8, atol=0.02) and share[1] == 0


def test_a_sampler_with_weights_resumes_and_tells_other_weights() -> None:
    sampler = RowSampler(10, weights=np.arange(10), seed=1)
    rows = iter(sampler)
    taken = [next(rows) for _ in range(4)]
    state = pickle.loads(pickle.dumps(sampler.state_dict()))
    other = RowSampler(10, weights=np.arange(10), seed=1)
    other.load_state_dict(state)
    assert [*taken, *other] == list(RowSampler(10, weights=np.arange(10), seed=1))
    with pytest.raises(UsageError):
        RowSampler(10, weights=np.arange(10)[::-1], seed=1).load_state_dict(state)
    with pytest.raises(UsageError):
        RowSampler(10, seed=1).load_state_dict(state)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1, 2], "2 weights for 3 rows"),
        ([1, -1, 1], "finite"),
        ([1, np.nan, 1], "finite"),
        ([0, 0, 0], "not all 0"),
        ("labels", "weights='labels'"),
        ("target", "target="),
    ],
)
def test_weights_that_do_not_fit_are_errors(weights: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        RowSampler(3, weights=weights)
    with pytest.raises(UsageError, match="shuffle="):
        RowSampler(3, weights=[1, 1, 1], shuffle=False)


def test_targets_of_a_million_frames_are_one_look_up(index: Index) -> None:
    # The rows of all samples go through the accessor at once: the number of calls does not grow.
    frames = FrameDataset(index, target="grade")
    many = np.tile(frames.index.rows(), 60_000)
    values = frames._target.values(index.joined, many)
    assert len(values) == 60_000 * 18 and np.array_equal(values[:18], frames.targets)


def test_batches_collate_targets_of_groups_and_volumes(index: Index) -> None:
    volumes = VolumeDataset(index, "modality", target="birads")
    batch = dicomdl.collate([volumes[0], volumes[1]])
    assert batch["target"].tolist() == [3, 0] and batch["target"].dtype == torch.int64
