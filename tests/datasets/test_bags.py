"""Bags: the frames or stacks of a study or patient as one sample, in a stable order."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import index_of
from phantoms import write_secondary_capture, write_series
from torch.utils.data import DataLoader

import dicomdl
from dicomdl.errors import PixelError, UsageError

VIEWS = (("R", "MLO"), ("L", "MLO"), ("R", "CC"), ("L", "CC"))


def write_study(
    folder: Path, study: str, views: Sequence[tuple[str, str]] = VIEWS, shape: Any = (1, 8, 6)
) -> None:
    """Write mammograms of one study, a Series each; values grow from view to view."""
    for number, (side, view) in enumerate(views):

        def tell(dataset: Any, z: int, side: str = side, view: str = view, n: int = number) -> None:
            dataset.ImageLaterality, dataset.ViewPosition = side, view
            dataset.SeriesNumber = n + 1

        write_series(
            folder / study / str(number),
            shape=shape,
            modality="MG",
            study_uid=f"1.2.{study}",
            series_uid=f"1.2.{study}.{number}",
            patient_id=f"P{study[0]}",
            offset=100 * number,
            edit=tell,
        )


def views_of(sample: Any) -> list[str]:
    return [f"{a} {b}" for a, b in zip(sample["laterality"], sample["view_position"], strict=True)]


def test_the_views_of_a_study_are_one_sample_in_the_order_of_side_and_view(folder: Path) -> None:
    write_study(folder, "1")
    write_study(folder, "2", VIEWS[:3])
    frames = dicomdl.FrameDataset(index_of(folder), "modality", by="study", size=(8, 6))
    assert repr(frames) == "FrameDataset(7 frames of 2 studies, intensity='modality')"
    assert len(frames) == 2 and frames.boundaries.tolist() == [0, 1, 2]
    samples = {len(sample["present"]): sample for sample in (frames[0], frames[1])}
    assert views_of(samples[4]) == ["L CC", "L MLO", "R CC", "R MLO"]
    assert views_of(samples[3]) == ["L MLO", "R CC", "R MLO"]
    assert samples[4]["image"].shape == (4, 1, 8, 6)
    assert samples[4]["image"][:, 0, 0, 0].tolist() == [300, 100, 200, 0]
    assert samples[4]["study_instance_uid"] == "1.2.1" and samples[4]["patient_id"] == "P1"
    assert samples[4]["series_instance_uid"] == [f"1.2.1.{n}" for n in (3, 1, 2, 0)]
    assert samples[4]["frame_number"].tolist() == [1] * 4
    assert torch.utils.data.default_collate([samples[3]])["image"].shape == (1, 3, 1, 8, 6)


def test_bags_of_different_lengths_are_padded_and_say_so(folder: Path) -> None:
    write_study(folder, "1")
    write_study(folder, "2", VIEWS[:3])
    frames = dicomdl.FrameDataset(index_of(folder), "modality", by="study")
    assert isinstance(frames[0]["image"], list) and frames[0]["image"][0].shape == (1, 8, 6)
    (batch,) = DataLoader(frames, batch_size=2, collate_fn=dicomdl.collate)
    assert batch["image"].shape == (2, 4, 1, 8, 6) and batch["affine"].shape == (2, 4, 4, 4)
    assert sorted(batch["present"].sum(dim=1).tolist()) == [3, 4]
    short = int(batch["present"].sum(dim=1).argmin())
    assert (batch["image"][short, 3] == 0).all()
    assert len(batch["view_position"][short]) == 3
    with pytest.raises(UsageError, match=r"\[3, 4\] members: .*dicomdl\.collate"):
        torch.utils.data.default_collate([frames[0], frames[1]])


def test_members_of_several_sizes_are_listed(folder: Path) -> None:
    write_study(folder, "1", VIEWS[:2])
    write_study(folder, "2", VIEWS[:1], shape=(1, 4, 4))
    frames = dicomdl.FrameDataset(index_of(folder), "modality", by="study")
    batch = dicomdl.collate([frames[0], frames[1]])
    sizes = [[tuple(image.shape) for image in images] for images in batch["image"]]
    assert sorted(sizes) == [[(1, 4, 4)], [(1, 8, 6), (1, 8, 6)]]
    assert batch["present"].shape == (2, 2)


def test_a_bag_of_a_patient_has_the_stacks_of_all_its_studies(folder: Path) -> None:
    for number, study in enumerate(("1a", "1b", "2a")):
        write_series(
            folder / study,
            shape=(number + 2, 5, 7),
            study_uid=f"1.2.{number}",
            series_uid=f"1.2.{number}.1",
            patient_id=f"P{study[0]}",
        )
    index = index_of(folder)
    volumes = dicomdl.VolumeDataset(index, "modality", by="patient")
    assert repr(volumes) == "VolumeDataset(3 volumes of 2 patients, intensity='modality')"
    sizes = {sample["patient_id"]: [len(i[0]) for i in sample["image"]] for sample in volumes}
    assert {name: sorted(each) for name, each in sizes.items()} == {"P1": [2, 3], "P2": [4]}
    assert len(dicomdl.VolumeDataset(index, by="study")) == 3
    sized = dicomdl.VolumeDataset(index, "modality", by="patient", size=(4, 5, 7))
    first = next(sample for sample in sized if sample["patient_id"] == "P1")
    assert first["image"].shape == (2, 1, 4, 5, 7)
    assert first["affine"].shape == (2, 4, 4) and first["filled"].tolist() == [0, 0]
    for stack, image in zip(first["stack"].tolist(), first["image"], strict=True):
        alone = dicomdl.VolumeDataset(index.stack(stack), "modality", size=(4, 5, 7))[0]
        assert torch.equal(alone["image"], image)


def test_series_numbers_order_the_stacks_of_a_study(folder: Path) -> None:
    for number in (10, 9, None, 2):

        def tell(dataset: Any, z: int, number: int | None = number) -> None:
            dataset.SeriesNumber = number

        series = f"1.2.3.{number or 1}"
        write_series(folder / series, study_uid="1.2.3", series_uid=series, edit=tell)
    (sample,) = dicomdl.VolumeDataset(index_of(folder), "modality", by="study")
    assert [uid.rsplit(".", 1)[1] for uid in sample["series_instance_uid"]] == ["2", "9", "10", "1"]


def test_a_transform_is_called_with_each_member(folder: Path) -> None:
    write_study(folder, "1")
    seen: list[int] = []

    def brightest(sample: Any) -> Any:
        seen.append(sample["epoch"])
        return {"image": sample["image"] * 2, "highest": float(sample["image"].max())}

    frames = dicomdl.FrameDataset(index_of(folder), "modality", brightest, by="study", size=(8, 6))
    frames.set_epoch(5)
    sample = frames[0]
    assert seen == [5] * 4 and sample["epoch"] == 5
    assert sample["image"][:, 0, 0, 0].tolist() == [600, 200, 400, 0]
    assert np.diff(sample["highest"]).tolist() == [-200, 100, -200]
    assert sample["highest"].shape == (4,)
    frames = dicomdl.FrameDataset(index_of(folder), "modality", lambda s: s["image"], by="study")
    with pytest.raises(UsageError, match="a dict per member, not a Tensor"):
        _ = frames[0]


def test_too_large_bags_are_an_error_with_their_numbers(folder: Path) -> None:
    write_study(folder, "1")
    write_study(folder, "2", VIEWS[:2])
    index = index_of(folder)
    for make in (dicomdl.FrameDataset, dicomdl.VolumeDataset):
        with pytest.raises(UsageError, match="1 of 2 bags by study have more than 3") as caught:
            make(index, by="study", max_members=3, **accepted(make))
        assert (caught.value.members, caught.value.limit, caught.value.bags) == (4, 3, 1)
        assert len(make(index, by="study", max_members=4, **accepted(make))) == 2


def accepted(make: Any) -> dict[str, Any]:
    return {"irregular": "accept"} if make is dicomdl.VolumeDataset else {}


def test_an_unreadable_member_takes_its_bag_along(folder: Path) -> None:
    write_study(folder, "1")
    write_study(folder, "2", VIEWS[:2])
    index = index_of(folder)
    path = Path(index.frame(0).path)
    path.write_bytes(path.read_bytes()[:-20])
    frames = dicomdl.FrameDataset(index, "modality", by="study", size=(8, 6), on_error="skip")
    (batch,) = DataLoader(frames, batch_size=2, collate_fn=dicomdl.collate)
    assert len(batch["image"]) == 1 and len(frames.skipped) == 1
    with pytest.raises(PixelError):
        list(dicomdl.FrameDataset(index, by="study"))


def test_bags_refuse_what_they_cannot_join(folder: Path) -> None:
    write_series(folder / "a", study_uid="1.2.3", shape=(1, 8, 10))
    write_secondary_capture(folder / "b")
    index = index_of(folder)
    for options in ({"by": "series"}, {"by": "study", "max_members": 0}):
        with pytest.raises(UsageError, match="expected"):
            dicomdl.FrameDataset(index, **options)
    with pytest.raises(UsageError, match="by= needs intensity_on='cpu'"):
        dicomdl.FrameDataset(index, by="study", intensity_on="device")
    with pytest.raises(UsageError, match="max_members=8 limits bags: it needs by="):
        dicomdl.FrameDataset(index, max_members=8)
    with pytest.raises(UsageError, match="without by="):
        dicomdl.FrameDataset(index, by="study", plane="axial")
    with pytest.raises(UsageError, match="takes no groups and no Pairing"):
        dicomdl.VolumeDataset(index.stacks[0].group, by="study")


def test_stacks_without_identity_are_bags_by_their_series(folder: Path) -> None:
    for name in "ab":
        write_series(folder / name, series_uid=f"1.2.{ord(name)}", seed=ord(name), edit=blank)
    assert len(dicomdl.VolumeDataset(index_of(folder), by="patient")) == 2


def blank(dataset: Any, z: int) -> None:
    dataset.PatientID = dataset.StudyInstanceUID = ""


def test_bags_pickle_their_rule_alone(folder: Path) -> None:
    write_study(folder, "1")
    for make in (dicomdl.FrameDataset, dicomdl.VolumeDataset):
        bags = make(index_of(folder), "modality", by="study", **accepted(make))
        assert len(pickle.dumps(bags)) < 8192
        again = pickle.loads(pickle.dumps(bags))
        assert np.array_equal(again[0]["image"][1], bags[0]["image"][1])


def test_labels_leave_the_members_of_bags_as_they_are(folder: Path) -> None:
    for name, start in (("a", 0), ("b", 100)):
        write_series(folder / name, series_uid=f"1.2.{ord(name)}", offset=start, seed=start)
    bags = dicomdl.VolumeDataset(index_of(folder), "modality", labels=remainders, by="patient")
    (sample,) = bags
    assert len(bags) == 1 and len(sample["image"]) == 2
    for image, label in zip(sample["image"], sample["label"], strict=True):
        assert torch.equal(image[0].long() % 7, label.long())


def remainders(stack: dicomdl.Stack) -> Any:
    return dicomdl.read_volume(stack).array.astype(int) % 7
