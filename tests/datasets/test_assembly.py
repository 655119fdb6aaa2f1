"""Tests of the code around one sample: errors, epochs, batches, intensities applied later."""

import gc
import itertools
import math
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import index_of
from descriptors import HAS_PROC, open_below
from phantoms import ramp, write_series
from pydicom.uid import JPEG2000Lossless
from torch.utils.data import DataLoader

import dicomdl
from dicomdl.datasets import worker
from dicomdl.datasets._options import Policy
from dicomdl.datasets.base import SampleDataset
from dicomdl.datasets.device.intensity import apply_intensity
from dicomdl.datasets.sample import Sample
from dicomdl.errors import DicomdlError, FileChanged, UsageError
from dicomdl.storage import pieces
from dicomdl.storage.system import CAN_SHARE
from dicomdl.values.windows import Limits, Percentile, Window

SHAPE = (5, 12, 14)


@pytest.fixture
def damaged(folder: Path) -> tuple[dicomdl.Index, set[int]]:
    """20 frames of four stacks, and the rows of five whose files are missing or changed."""
    paths = [
        path
        for seed in range(4)
        for path in write_series(folder / str(seed), shape=SHAPE, seed=seed, patient_id=f"P{seed}")
    ]
    index = index_of(folder)
    broken = {os.fsdecode(paths[k]) for k in (1, 6, 7, 13, 19)}
    for number, path in enumerate(sorted(broken)):
        if number % 2:
            os.unlink(path)
        else:
            os.utime(path, ns=(1, 1))
    return index, {
        row for row in range(len(index)) if os.fsdecode(index.source(row).path) in broken
    }


class Raising(SampleDataset):
    """A dataset that raises a given error for one row."""

    def __init__(self, error: BaseException, **options: Any) -> None:
        super().__init__(None, Policy(options.get("on_error", "raise")))
        self.error = error

    @property
    def boundaries(self) -> Any:
        return np.array([0, 4, 8])

    def _make(self, row: int, epoch: int) -> Sample:
        if row == 3:
            raise self.error
        return Sample(image=torch.full((1, 2, 2), float(row)), row=row)


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.quick(1)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_skipping_loses_nothing_but_what_cannot_be_read_and_tells_all_of_it(
    damaged: Any, workers: int, batch_size: int
) -> None:
    index, bad = damaged
    frames = dicomdl.FrameDataset(index, "modality", on_error="skip")
    delivered: list[int] = []
    for batch in DataLoader(frames, batch_size=batch_size, num_workers=workers):
        delivered += batch["row"].tolist()
    assert {row.row for row in frames.skipped} == bad
    if batch_size > 1:
        assert sorted(delivered) == sorted(set(range(20)) - bad)
        assert {row.action for row in frames.skipped} == {"skip"}
    else:
        # A batch of one unreadable sample would be empty.
        assert len(delivered) == 20 and not set(delivered) & bad
        assert {row.action for row in frames.skipped} == {"replace"}
    assert all("FileChanged" in row.error and "file: " in row.error for row in frames.skipped)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_replacing_delivers_a_full_epoch_that_is_the_same_in_every_process(
    damaged: Any, method: str
) -> None:
    index, bad = damaged
    frames = dicomdl.FrameDataset(index, "modality", on_error="replace", seed=5)
    alone = [frames[row]["row"] for row in range(20)]
    # An interpreter takes seconds to start.
    workers = 1 if method == "spawn" else 2
    loader = DataLoader(frames, batch_size=4, num_workers=workers, multiprocessing_context=method)
    together = [row for batch in loader for row in batch["row"].tolist()]
    assert alone == together and not set(alone) & bad
    assert all(alone[row] == row for row in set(range(20)) - bad)
    assert len(frames.skipped) == 2 * len(bad) and {row.action for row in frames.skipped} == {
        "replace"
    }
    other = dicomdl.FrameDataset(index, "modality", on_error="replace", seed=6)
    assert [other[row]["row"] for row in range(20)] != alone
    frames.set_epoch(1)
    assert [frames[row]["row"] for row in range(20)] != alone


@pytest.mark.parametrize("workers", [0, 1])
def test_raising_names_the_file_and_crosses_the_processes(damaged: Any, workers: int) -> None:
    index, _ = damaged
    frames = dicomdl.FrameDataset(index, "modality")
    loader = iter(DataLoader(frames, batch_size=4, num_workers=workers))
    with pytest.raises(FileChanged) as caught:
        list(loader)
    if workers:
        loader._shutdown_workers()  # type: ignore[attr-defined]
    assert "dicom" in str(caught.value) + "".join(getattr(caught.value, "__notes__", []))
    assert frames.skipped == []


def test_volumes_and_patches_follow_the_same_policies(damaged: Any) -> None:
    index, _ = damaged
    volumes = dicomdl.VolumeDataset(index, "modality", on_error="skip")
    with pytest.raises(FileChanged):  # each of them lacks a file
        list(DataLoader(volumes, batch_size=4))
    assert {row.action for row in volumes.skipped} == {"replace"}
    patches = dicomdl.PatchDataset(
        index, (1, 4, 4), per_stack=8, intensity="modality", on_error="replace"
    )
    assert len([patches[row] for row in range(len(patches))]) == 32
    assert patches.skipped


@pytest.mark.parametrize("on_error", ["skip", "replace"])
def test_when_nothing_can_be_read_the_reason_is_raised_and_nothing_hangs(
    folder: Path, on_error: Any
) -> None:
    for path in write_series(folder, shape=SHAPE):
        index = index_of(folder) if path.exists() else None
    index = index_of(folder)
    for path in list(folder.iterdir()):
        path.unlink()
    with pytest.raises(FileChanged):
        list(DataLoader(dicomdl.FrameDataset(index, "modality", on_error=on_error), batch_size=2))


@pytest.mark.parametrize("batch_size", [None, 1, 4])
@pytest.mark.parametrize(
    "error",
    [
        StopIteration(),
        KeyError("x"),
        MemoryError(),
        OSError(5, "io"),
        DicomdlError("bad", number=3),
    ],
)
def test_no_error_ends_an_epoch_without_a_word(
    error: BaseException, batch_size: int | None
) -> None:
    with pytest.raises(Exception):  # noqa: B017  # whatever it is, it is raised
        list(
            DataLoader(
                Raising(error),
                batch_size=batch_size,
                collate_fn=dicomdl.collate if batch_size else None,
            )
        )


def test_no_error_ends_the_epoch_of_a_worker_without_a_word() -> None:
    loader = iter(
        DataLoader(
            Raising(StopIteration()), batch_size=4, num_workers=1, collate_fn=dicomdl.collate
        )
    )
    with pytest.raises(RuntimeError, match="StopIteration"):
        next(loader)
    # Otherwise torch waits for the workers when the error, which references the loader, is freed.
    loader._shutdown_workers()  # type: ignore[attr-defined]


def test_only_what_reading_raises_is_skipped(folder: Path) -> None:
    write_series(folder, shape=SHAPE)

    def transform(sample: Any) -> Any:
        raise ValueError("the caller's own")

    frames = dicomdl.FrameDataset(index_of(folder), "modality", transform, on_error="skip")
    with pytest.raises(ValueError, match="own"):
        frames.__getitems__([0, 1])
    with pytest.raises(RuntimeError, match="StopIteration"):
        Raising(StopIteration(), on_error="skip")[3]
    with pytest.raises(UsageError, match="on_error"):
        dicomdl.FrameDataset(index_of(folder), on_error="ignore")  # type: ignore[arg-type]


# --- batches and rows -----------------------------------------------------------------------------


def test_a_batch_comes_in_the_order_asked_for_and_opens_each_file_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(folder, shape=SHAPE)
    patches = dicomdl.PatchDataset(index_of(folder), (3, 4, 4), per_stack=9, intensity="modality")
    patches.set_epoch(0)
    rows = [7, 0, 3, 3, 8]
    alone = [patches[row] for row in rows]
    opened: list[str] = []
    original = os.open
    monkeypatch.setattr(
        os, "open", lambda path, *a, **k: (opened.append(path), original(path, *a, **k))[1]
    )
    batch = patches.__getitems__(rows)
    assert [sample["row"] for sample in batch] == rows
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(alone, batch, strict=True))
    assert len(opened) == len(set(opened)) <= 5


def test_files_stay_open_from_sample_to_sample_and_close_with_the_dataset(folder: Path) -> None:
    paths = write_series(folder, shape=SHAPE)
    patches = dicomdl.PatchDataset(index_of(folder), (5, 4, 4), per_stack=4, intensity="modality")
    assert open_below(folder) == 0
    first = [patches[row]["image"].shape for row in range(4)]
    kept = open_below(folder)
    assert kept == (len(paths) if HAS_PROC and CAN_SHARE else 0)
    assert [patches[row]["image"].shape for row in range(4)] == first
    assert open_below(folder) == kept
    copied = pickle.loads(pickle.dumps(patches))
    paths[2].unlink()
    del patches
    assert open_below(folder) == 0
    with pytest.raises(FileChanged, match="gone"):
        copied[0]


def test_a_large_patch_is_the_same_in_one_thread_and_in_several(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(folder, shape=(9, 40, 30))
    index, found = index_of(folder), []
    monkeypatch.setattr(pieces, "_THREAD_BYTES", 1000)
    for cores in (1, 2, 4):
        monkeypatch.setattr(worker, "available_cores", lambda cores=cores: cores)
        patches = dicomdl.PatchDataset(index, (8, 20, 10), per_stack=5, intensity=Window(50, 90))
        patches.set_epoch(0)
        found.append(torch.stack([patches[row]["image"] for row in range(5)]))
        assert torch.equal(found[0], found[-1])
    assert found[0].unique().numel() > 50


def test_a_row_may_carry_its_epoch(folder: Path) -> None:
    class Row(int):
        epoch = 7

    write_series(folder, shape=SHAPE)
    patches = dicomdl.PatchDataset(index_of(folder), (2, 3, 3), per_stack=30, intensity="modality")
    carried = [patches[Row(row)]["location"].tolist() for row in range(30)]
    batch = [
        sample["location"].tolist()
        for sample in patches.__getitems__([Row(row) for row in range(30)])
    ]
    patches.set_epoch(7)
    assert carried == batch == [patches[row]["location"].tolist() for row in range(30)]
    patches.set_epoch(0)
    assert carried != [patches[row]["location"].tolist() for row in range(30)]


@pytest.mark.parametrize("kind", ["frames", "volumes", "patches"])
def test_rows_between_two_boundaries_are_of_one_stack_and_a_dataset_pickles_small(
    folder: Path, kind: str
) -> None:
    for seed in range(3):
        write_series(folder / str(seed), shape=(3 + seed, 12, 14), seed=seed)
    index = index_of(folder)
    made: dict[str, SampleDataset] = {
        "frames": dicomdl.FrameDataset(index.select(min_instance_number=2), "modality"),
        "volumes": dicomdl.VolumeDataset(index, "modality"),
        "patches": dicomdl.PatchDataset(index, (2, 3, 3), sampler="grid", intensity="modality"),
    }
    dataset = made[kind]
    bounds = dataset.boundaries
    assert (
        bounds[0] == 0
        and bounds[-1] == len(dataset)
        and (np.diff(bounds) > 0).all()
        and len(bounds) == 4
    )
    series = [dataset[row]["series_instance_uid"] for row in range(len(dataset))]
    for stack, (low, high) in enumerate(itertools.pairwise(bounds)):
        assert len(set(series[low:high])) == 1 and series.count(series[low]) == high - low, stack
    data = pickle.dumps(dataset)
    assert len(data) <= 4096
    again = pickle.loads(data)
    assert torch.equal(again[len(dataset) - 1]["image"], dataset[len(dataset) - 1]["image"])


# --- intensities that are applied later -----------------------------------------------------------


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "intensity",
    [
        "ct.lung",
        "modality",
        (40, 400),
        Window(40, 400, "SIGMOID"),
        Window(40, 1, "LINEAR"),
        Percentile(1, 99, clip=False),
        Limits(3, 3),
    ],
)
@pytest.mark.parametrize(
    "kind",
    [{"intercept": -1024}, {"slope": 0.37, "intercept": -3}, {"bits_allocated": 32}],
    ids=["int", "float", "wide"],
)
def test_intensities_applied_on_a_device_give_what_the_cpu_gives(
    folder: Path, intensity: Any, kind: dict[str, Any]
) -> None:
    def edit(dataset: Any, z: int) -> None:
        dataset.add_new("PixelPaddingValue", "US", 40)

    write_series(folder, shape=SHAPE, edit=edit, **kind)
    index = index_of(folder)
    for make in (
        lambda **o: dicomdl.FrameDataset(index, intensity, **o),
        lambda **o: dicomdl.VolumeDataset(index, intensity, **o),
        lambda **o: dicomdl.PatchDataset(index, (3, 20, 8), intensity=intensity, **o),
    ):
        first, second = make(), make(intensity_on="device")
        for dataset in (first, second):
            dataset.set_epoch(0)
        expected = next(iter(DataLoader(first, batch_size=2)))
        later = next(iter(DataLoader(second, batch_size=2)))
        if kind == {"intercept": -1024}:
            assert later["image"].dtype == torch.int16
        mapped = apply_intensity(later, "cpu")
        assert "intensity" not in mapped and mapped["image"].dtype == torch.float32
        assert torch.allclose(
            mapped["image"], expected["image"], rtol=3e-7, atol=3e-7, equal_nan=True
        )
    single = apply_intensity(dicomdl.FrameDataset(index, intensity, intensity_on="device")[1])
    assert torch.allclose(
        single["image"], dicomdl.FrameDataset(index, intensity)[1]["image"], rtol=3e-7, atol=3e-7
    )


def test_the_first_tensor_of_a_batch_has_its_length_and_nothing_else_follows(folder: Path) -> None:
    for number, shape in enumerate([(2, 12, 14), (1, 9, 8)]):
        write_series(folder / str(number), shape=shape, seed=number)
    index = index_of(folder)
    frames = dicomdl.FrameDataset(index, "modality")
    batch = next(iter(DataLoader(dicomdl.FrameDataset(index.select(rows=12)), batch_size=2)))
    kinds = [isinstance(value, torch.Tensor) for value in batch.values()]
    assert kinds == sorted(kinds) and {len(batch[key]) for key in batch} == {2}
    several = next(iter(DataLoader(frames, batch_size=3, collate_fn=dicomdl.collate)))
    assert list(several)[-1] == "image" and isinstance(several["image"], list)


def test_inverted_projections_and_mixed_integers_collate_and_map(folder: Path) -> None:
    write_series(folder / "a", shape=(1, 12, 14), modality="DX", photometric="MONOCHROME1", seed=1)
    write_series(
        folder / "b",
        shape=(1, 12, 14),
        modality="DX",
        bits_allocated=32,
        stored=ramp((1, 12, 14)) * 1000,
        seed=2,
    )
    index = index_of(folder)
    later = next(iter(DataLoader(dicomdl.FrameDataset(index, intensity_on="device"), batch_size=2)))
    assert later["image"].dtype == torch.int32 and later["intensity"].shape == (2, 7)
    assert torch.allclose(
        apply_intensity(later)["image"],
        next(iter(DataLoader(dicomdl.FrameDataset(index), batch_size=2)))["image"],
        atol=1e-6,
    )


def test_what_no_numbers_can_say_is_refused_for_a_device(folder: Path) -> None:
    write_series(folder, shape=SHAPE)
    with pytest.raises(UsageError, match="device"):
        dicomdl.FrameDataset(index_of(folder), np.sqrt, intensity_on="device")[0]
    with pytest.raises(UsageError, match="intensity_on"):
        dicomdl.FrameDataset(index_of(folder), intensity_on="gpu")  # type: ignore[arg-type]


# --- 2.5D -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [None, JPEG2000Lossless])
def test_neighbours_are_channels_in_slice_order_and_padding_beyond_the_ends(
    folder: Path, syntax: Any
) -> None:
    write_series(
        folder, shape=SHAPE, intercept=-1024, **({"transfer_syntax": syntax} if syntax else {})
    )
    index = index_of(folder)
    whole = dicomdl.VolumeDataset(index, (-1000, 200))[0]["image"][0]
    frames = dicomdl.FrameDataset(index, (-1000, 200), neighbours=2)
    for z in range(5):
        image = frames[z]["image"]
        assert image.shape == (5, 12, 14)
        for channel, place in enumerate(range(z - 2, z + 3)):
            assert torch.equal(
                image[channel], whole[place] if 0 <= place < 5 else torch.zeros(12, 14)
            )
    small = dicomdl.FrameDataset(index, (-1000, 200), neighbours=1, size=(6, 7))[2]
    assert small["image"].shape == (3, 6, 7) and math.isclose(float(small["spacing"][1]), 2)
    for wrong in (
        {"neighbours": -1},
        {"neighbours": 1, "reduce": 1},
        {"neighbours": 1, "channels": 3},
    ):
        with pytest.raises(UsageError, match="neighbours"):
            dicomdl.FrameDataset(index, **wrong)  # type: ignore[arg-type]


# --- streams --------------------------------------------------------------------------------------


@pytest.mark.quick(2)
@pytest.mark.parametrize("read_ahead", [0, 8])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_a_stream_skips_what_cannot_be_read_once_and_reads_nothing_twice(
    damaged: Any, batch_size: int | None, read_ahead: int
) -> None:
    index, bad = damaged
    frames = dicomdl.FrameDataset(index, "modality", on_error="skip")
    stream = dicomdl.StackStream(frames, seed=1, shuffle_buffer=4, read_ahead=read_ahead)
    rows: list[int] = []
    for batch in DataLoader(stream, batch_size=batch_size):
        rows += [batch["row"]] if batch_size is None else batch["row"].tolist()
    assert sorted(rows) == sorted(set(range(20)) - bad)
    assert sorted(row.row for row in frames.skipped) == sorted(bad)


def test_usage_errors_are_raised_whatever_the_policy(folder: Path) -> None:
    class Asking:
        def count(self, shape: Any, size: Any, per_stack: int) -> int:
            return per_stack

        def start(self, view: Any, *rest: Any) -> Any:
            return view.labelled()

    write_series(folder, shape=SHAPE)
    with pytest.raises(UsageError, match="labels"):
        dicomdl.PatchDataset(index_of(folder), (2, 2, 2), sampler=Asking(), on_error="skip")[0]  # type: ignore[arg-type]
    for wrong in ({"seed": -1}, {"seed": "x"}, {"per_stack": 2.5}):
        with pytest.raises(UsageError):
            dicomdl.PatchDataset(index_of(folder), (2, 2, 2), **wrong)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_list_of_what_was_skipped_goes_with_its_dataset(damaged: Any) -> None:
    index, _ = damaged
    frames = dicomdl.FrameDataset(index, "modality", on_error="skip")
    list(DataLoader(frames, batch_size=10))
    log = frames._log.path
    assert os.path.exists(log)
    copy = pickle.loads(pickle.dumps(frames))
    del copy
    assert frames.skipped
    del frames
    # A loader and its dataset may form a cycle.
    gc.collect()
    assert not os.path.exists(log)


def test_samples_of_several_dtypes_and_sizes_map_as_they_would_alone(folder: Path) -> None:
    write_series(
        folder / "a",
        shape=(1, 12, 14),
        bits_allocated=32,
        stored=ramp((1, 12, 14)) + 2**30,
        modality="MR",
        seed=1,
    )
    write_series(folder / "b", shape=(1, 12, 14), slope=0.5, modality="MR", seed=2)
    write_series(folder / "c", shape=(1, 9, 14), modality="MR", seed=3)
    index = index_of(folder)
    later, now = (
        dicomdl.FrameDataset(index, Limits(2**30, 2**30 + 100), intensity_on=where)
        for where in ("device", "cpu")
    )
    rows = [row for row in range(3) if later[row]["image"].shape[1] == 12]
    mapped = apply_intensity(
        next(iter(DataLoader(torch.utils.data.Subset(later, rows), batch_size=2)))
    )["image"]
    assert all(
        torch.allclose(image, now[row]["image"], atol=1e-6)
        for image, row in zip(mapped, rows, strict=True)
    )
    sizes = next(iter(DataLoader(later, batch_size=3, collate_fn=dicomdl.collate)))
    assert all(
        torch.allclose(a, now[row]["image"], atol=1e-6)
        for row, a in enumerate(apply_intensity(sizes)["image"])
    )
