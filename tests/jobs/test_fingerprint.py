"""fingerprint: statistics of a small sample of the stacks that are given, and of no others."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import index_of
from phantoms import ramp, write_multiframe, write_secondary_capture, write_series

import dicomdl
import dicomdl.jobs.fingerprint as fingerprint_module
from dicomdl.datasets.selection import LeftOutWarning
from dicomdl.errors import GeometryError, IntensityError, PixelError, UsageError
from dicomdl.storage.handles import LocalFile

SHAPE = (12, 20, 24)


def noisy(number: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Stored values of a body in air: a ramp along the slices, and noise of its own."""
    generator = np.random.default_rng(number)
    body = 1000 + 10 * np.arange(shape[0])[:, None, None] + generator.normal(0, 80, shape)
    body[:, :4] = 24
    return body.clip(0, 4095).astype(np.uint16)


def write_set(folder: Path, stacks: int, shape: tuple[int, int, int] = SHAPE, **how: Any) -> None:
    for number in range(stacks):
        write_series(
            folder / str(number),
            shape=shape,
            stored=noisy(number, shape),
            spacing=(2.0 + number % 3, 0.5, 0.5),
            intercept=-1024,
            patient_id=f"P{number}",
            seed=number,
            **how,
        )


def body_of(index: dicomdl.Index) -> np.ndarray:
    """Return all values of the foreground, float64."""
    values = np.concatenate([dicomdl.read_volume(each).array.ravel() for each in index.stacks])
    return values[values > -500].astype(np.float64)


def test_a_small_set_is_read_whole(folder: Path) -> None:
    write_set(folder, 3)
    index = index_of(folder)
    found = dicomdl.fingerprint(index)
    body = body_of(index)
    assert (found.modality, found.units, found.frames) == ("CT", "HU", 36)
    assert found.spacings == ((2, 0.5, 0.5), (3, 0.5, 0.5), (4, 0.5, 0.5))
    assert found.sizes == (SHAPE,) * 3 and found.target_spacing == (3, 0.5, 0.5)
    assert found.voxels == body.size and found.unreadable == 0
    assert (found.mean, found.deviation) == pytest.approx((body.mean(), body.std()))
    assert (found.lower, found.median, found.upper) == pytest.approx(
        tuple(np.percentile(body, (0.5, 50, 99.5)))
    )
    assert (found.minimum, found.maximum) == (body.min(), body.max())


@pytest.mark.slow
def test_many_stacks_cost_one_per_cent_of_their_bytes_and_agree_with_all_voxels(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As 1,000 stacks, with fewer files: values rise by 53 from slice to slice.
    monkeypatch.setattr(fingerprint_module, "MANY_STACKS", 30)
    for number in range(30):
        path = folder / f"{number}.dcm"
        write_multiframe(path, shape=(100, 24, 24), bits_stored=16, intercept=-1024, seed=number)
    index = index_of(folder)
    body = body_of(index)
    read: list[int] = []
    for name in ("read_at", "read_into"):
        original = getattr(LocalFile, name)

        def counted(self: Any, *args: Any, original: Any = original) -> Any:
            result = original(self, *args)
            read.append(result if isinstance(result, int) else len(result))
            return result

        monkeypatch.setattr(LocalFile, name, counted)
    found = dicomdl.fingerprint(index)
    assert found.frames == 30
    assert sum(read) <= 0.01 * sum(path.stat().st_size for path in folder.rglob("*.dcm"))
    truth = [*np.percentile(body, (0.5, 50, 99.5)), body.mean(), body.std()]
    mine = [found.lower, found.median, found.upper, found.mean, found.deviation]
    assert np.abs(np.array(mine) - truth).max() <= 0.01 * np.ptp(body)


def test_the_sample_is_spread_evenly_and_not_at_one_slice_of_each_stack() -> None:
    chosen = fingerprint_module._sampled_frames([100] * 3000)
    counts = np.array([len(each) for each in chosen])
    numbers = np.concatenate(chosen)
    assert counts.sum() == 3000 and counts.max() <= 2
    # Uniform over the slices: each tenth of a stack gets a tenth of the frames.
    tenths = np.histogram(numbers, 10, (0, 100))[0]
    assert abs(tenths - 300).max() <= 3
    for slices in ([1], [3, 1, 2], [1] * 2500, [7] * 999):
        small = fingerprint_module._sampled_frames(slices)
        assert sum(map(len, small)) <= sum(slices)
        assert all(((each >= 0) & (each < n)).all() for each, n in zip(small, slices, strict=True))
    assert [len(each) for each in fingerprint_module._sampled_frames([3, 1, 2])] == [3, 1, 2]


def test_only_the_stacks_that_are_given_enter_it(folder: Path) -> None:
    write_set(folder, 4)
    index = index_of(folder)
    train = index.select(patient_id=["P0", "P2"])
    before = dicomdl.fingerprint(train)
    for number in (1, 3):
        shutil.rmtree(folder / str(number))
    assert dicomdl.fingerprint(train) == before == dicomdl.fingerprint(list(train.stacks))
    assert len(before.sizes) == 2


def test_it_maps_a_data_set_as_nnu_net_does_on_every_path(folder: Path) -> None:
    write_set(folder, 2)
    index = index_of(folder)
    found = dicomdl.fingerprint(index)
    volume = dicomdl.read_volume(index.stacks[1])
    values = volume.array.astype(np.float64)
    expected = (np.clip(values, found.lower, found.upper) - found.mean) / found.deviation
    mapped = volume.window(found).array
    assert np.allclose(mapped, expected, atol=1e-5)
    assert np.array_equal(dicomdl.VolumeDataset(index, found)[1]["image"][0], mapped)
    patches = dicomdl.PatchDataset(index, SHAPE, intensity=found, sampler="grid")
    assert np.array_equal(patches[1]["image"][0], mapped)
    assert np.array_equal(dicomdl.FrameDataset(index, found)[12]["image"][0], mapped[0])
    whole = dicomdl.VolumeDataset(index, found, spacing=found.target_spacing)[0]
    assert whole["spacing"].tolist() == list(found.target_spacing)


@pytest.mark.slow
def test_labels_are_the_foreground_where_they_are_given(folder: Path) -> None:
    write_set(folder, 2)
    index = index_of(folder)

    def labels(stack: dicomdl.Stack) -> np.ndarray:
        return (ramp(stack.shape) % 5 == 0).astype(np.uint8)

    found = dicomdl.fingerprint(index, labels=labels)
    inside = np.concatenate(
        [dicomdl.read_volume(each).array[labels(each) > 0] for each in index.stacks]
    )
    assert found.voxels == inside.size and found.mean == pytest.approx(inside.mean())
    empty = dicomdl.fingerprint(index, labels=lambda stack: np.zeros(stack.shape, np.uint8))
    assert empty.voxels == 2 * np.prod(SHAPE)
    with pytest.raises(GeometryError, match="shape"):
        dicomdl.fingerprint(index, labels=lambda stack: np.zeros(3))


def test_padding_does_not_count(folder: Path) -> None:
    stored = ramp(SHAPE) + 1000
    stored[:, :, :5] = 4000

    def edit(dataset: Any, z: int) -> None:
        dataset.add_new("PixelPaddingValue", "US", 4000)

    write_series(folder, shape=SHAPE, stored=stored, intercept=-1024, edit=edit)
    found = dicomdl.fingerprint(index_of(folder))
    assert found.maximum == stored[:, :, 5:].max() - 1024
    assert found.voxels == stored[:, :, 5:].size


def test_the_message_about_two_units_of_one_modality_selects_what_is_left(folder: Path) -> None:
    write_set(folder / "hu", 2)
    write_series(folder / "z_eff", shape=SHAPE, seed=9, edit=_with_other_units)
    index = index_of(folder)
    with pytest.raises(IntensityError) as caught:
        dicomdl.fingerprint(index)
    found = re.search(r"select\(not_series_instance_uid='([\d.]+)'\)", str(caught.value))
    assert found is not None
    assert len(dicomdl.fingerprint(index.select(not_series_instance_uid=found[1])).spacings) == 2


def _with_other_units(dataset: Any, number: int) -> None:
    dataset.RescaleType = "Z_EFF"


def test_several_modalities_or_units_are_refused_with_their_numbers(folder: Path) -> None:
    write_set(folder / "ct", 2)
    write_series(folder / "mr", shape=SHAPE, modality="MR")
    index = index_of(folder)
    with pytest.raises(IntensityError, match="select") as caught:
        dicomdl.fingerprint(index)
    assert caught.value.kinds == {("CT", "HU"): 2, ("MR", ""): 1}  # type: ignore[attr-defined]
    of_ct = dicomdl.fingerprint(index.select(modality="CT"))
    of_mr = dicomdl.fingerprint(index.select(modality="MR"))
    for found, other in ((of_ct, "MR"), (of_mr, "CT")):
        with pytest.raises(IntensityError, match="fingerprint is of") as refused:
            dicomdl.VolumeDataset(index.select(modality=other), found)[0]
        assert refused.value.modality == other  # type: ignore[attr-defined]
    windowed = dicomdl.read_volume(index.select(modality="CT").stacks[0]).window("ct.lung")
    for option in (of_ct, (of_ct, dicomdl.Clip(-1, 1))):
        with pytest.raises(UsageError, match="modality values"):
            windowed.window(option)


def test_colour_labels_and_nothing_are_refused(folder: Path) -> None:
    write_set(folder / "ct", 1)
    write_secondary_capture(folder / "a.dcm")
    index = index_of(folder)
    with pytest.raises(UsageError, match="fingerprint: nothing is left"):
        dicomdl.fingerprint(index.select(modality="OT"))
    with pytest.warns(LeftOutWarning):
        assert len(dicomdl.fingerprint(index).sizes) == 1


def test_a_frame_that_cannot_be_read_costs_itself_alone(folder: Path) -> None:
    write_set(folder, 2)
    index = index_of(folder)
    lost = [index.stacks[0].source(number).path for number in (2, 5)]
    for path in lost:
        Path(path).unlink()
    found = dicomdl.fingerprint(index)
    assert (found.frames, found.unreadable) == (22, 2)
    shutil.rmtree(folder)
    with pytest.raises(PixelError):
        dicomdl.fingerprint(index)


def test_a_constant_set_and_a_set_of_air_give_no_nan(folder: Path) -> None:
    write_series(folder / "a", shape=SHAPE, stored=np.full(SHAPE, 24), intercept=-1024)
    index = index_of(folder)
    found = dicomdl.fingerprint(index)
    assert (found.mean, found.deviation, found.voxels) == (-1000, 0, np.prod(SHAPE))
    assert (dicomdl.VolumeDataset(index, found)[0]["image"] == 0).all()


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_real_files_agree_with_all_of_their_voxels(corpus: Path, modality: str) -> None:
    index = index_of_corpus(corpus, modality)
    if not len(index.stacks):
        pytest.skip("no such stacks")
    found = dicomdl.fingerprint(index)
    values = []
    for stack in index.stacks:
        volume = dicomdl.read_volume(stack)
        image = np.isfinite(volume.array)
        if volume.padding is not None:
            image &= ~volume.padding
        inside = volume.array[image]
        values.append(inside[inside > fingerprint_module.threshold(found.units, inside)])
    body = np.concatenate(values).astype(np.float64)
    spread = np.ptp(np.percentile(body, (0.5, 99.5)))
    truth = np.percentile(body, (0.5, 50, 99.5))
    mine = (found.lower, found.median, found.upper)
    assert np.abs(truth - mine).max() <= 0.01 * spread
    assert abs(found.mean - body.mean()) <= 0.01 * spread
    assert abs(found.deviation - body.std()) <= 0.01 * body.std()


def index_of_corpus(corpus: Path, modality: str) -> dicomdl.Index:
    """The regular grey stacks of a modality with the most common units."""
    index = dicomdl.scan(corpus, progress=False).select(
        modality=modality, content="image", verdict="regular"
    )
    units: dict[str, list[int]] = {}
    for stack in index.stacks:
        try:
            if not fingerprint_module.is_colour(stack) and "missing_in_group" not in stack.detail:
                dicomdl.read_volume(stack)
                kind = fingerprint_module.quantity_units(stack, "modality")
                units.setdefault(kind, []).append(stack.number)
        except dicomdl.DicomdlError:
            continue
    most = max(units.values(), key=len, default=[])
    return index.of_stacks(most) if most else index.select(modality="none")
