"""channels: several images of a case, each on the grid of the first one, as channels."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from phantoms import uid, write_series
from phantoms_linear import grid_points, linear_values, write_linear

import dicomdl
from dicomdl import Pairing
from dicomdl.datasets.selection import LeftOutWarning
from dicomdl.errors import EmptySelection, UsageError
from dicomdl.index.index import Index

FIRST, SECOND = (3.0, 1.0, 2.0), (-1.0, 4.0, 0.5)
ROLES = {"A": "series_description=A", "B": "series_description=B"}
PAIRING = Pairing(ROLES)
BOTH_B = {"A": "series_description=A", "B": "modality=MR"}
TURN = (0.96, 0.28, 0, -0.28, 0.96, 0)
# The second image of each patient, beside one of 10 x 24 x 20 voxels of 2 x 1 x 1 mm.
SECONDS: dict[str, dict[str, Any]] = {
    "same": {"shape": (10, 24, 20)},
    "coarse": {"shape": (9, 9, 8), "spacing": (3.0, 3.5, 3.0), "origin": (-2, -3, -1)},
    "fine": {"shape": (30, 40, 40), "spacing": (0.75, 0.5, 0.5), "origin": (1, 2, -1)},
    "part": {"shape": (4, 12, 10), "origin": (4, 6, 6)},
    "sagittal": {
        "shape": (20, 22, 24),
        "spacing": (1.0, 1.0, 1.0),
        "orientation": (0, 1, 0, 0, 0, -1),
        "origin": (19, 0, 20),
    },
    "turned": {"shape": (10, 24, 20), "orientation": TURN, "origin": (2, -1, 0)},
    "tilted": {"shape": (10, 24, 20), "shear": (0, 0.6), "origin": (0, -2, 0)},
}


def write_pair(root: Path, patient: str, second: dict[str, Any] | None, **first: Any) -> None:
    study: dict[str, Any] = {"study_uid": uid(patient), "patient_id": patient}

    def named(name: str) -> Any:
        return lambda dataset, z: setattr(dataset, "SeriesDescription", name)

    write_linear(
        root / patient / "a", FIRST, **{"shape": (10, 24, 20), **first}, **study, edit=named("A")
    )
    if second is not None:
        write_linear(root / patient / "b", SECOND, **study, **second, seed=1, edit=named("B"))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """A patient per kind of second image, one of two tilted images, and one without a second."""
    root = tmp_path_factory.mktemp("channels")
    for patient, second in SECONDS.items():
        write_pair(root / "data", patient, second)
    write_pair(root / "data", "both tilted", SECONDS["coarse"], shear=(0.4, 0.3))
    write_pair(root / "data", "alone", None)
    return dicomdl.scan(root / "data", root / "index", progress=False)


def expected(sample: dict[str, Any], second: dicomdl.Stack) -> tuple[Any, Any, Any, Any]:
    """Return values of both images at the voxels of a sample; where the second one is, or is not.

    Where an axis shrinks, values near the border are means over a part of their neighbourhood.
    """
    points = grid_points(sample["image"].shape[1:], sample["affine"].numpy())
    voxels, last = second.geometry.world_to_voxel(points), np.asarray(second.shape) - 1
    margin = shrinking(sample, second) if shrinking(sample, second) > 1 else 0
    inside = ((voxels >= margin) & (voxels <= last - margin)).all(axis=-1)
    beyond = ((voxels < -0.51) | (voxels > last + 0.51)).any(axis=-1)
    return linear_values(points, FIRST), linear_values(points, SECOND), inside, beyond


def shrinking(sample: dict[str, Any], second: dicomdl.Stack) -> float:
    """Return the largest ratio of a spacing of the sample to one of the second image."""
    return float(max(sample["spacing"].tolist()) / min(second.spacing))


def samples_of(patches: dicomdl.PatchDataset | dicomdl.VolumeDataset) -> list[dict[str, Any]]:
    return [patches[row] for row in range(len(patches))]


def stack_of(index: Index, patient: str, name: str) -> dicomdl.Stack:
    (stack,) = index.select(patient_id=patient, series_description=name).stacks
    return stack


KINDS = [*SECONDS, "both tilted"]


@pytest.mark.quick(2)
@pytest.mark.parametrize("patient", KINDS)
@pytest.mark.parametrize("orientation", [None, "RAS"])
def test_a_patch_has_each_image_at_its_place(
    index: Index, patient: str, orientation: str | None
) -> None:
    patches = dicomdl.PatchDataset(
        index.select(patient_id=patient),
        (6, 12, 10),
        channels=PAIRING,
        intensity="modality",
        orientation=orientation,
        per_stack=3,
    )
    second = stack_of(index, patient, "B")
    for sample in samples_of(patches):
        a, b, inside, beyond = expected(sample, second)
        assert sample["image"].shape == (2, *patches.size)
        assert sample["image"].dtype == torch.float32
        image = sample["image"].numpy()
        # Rounding of the stored values, of a range of at most 200.
        assert np.abs(image[0] - a).max() < 0.005
        # A sampled triangle reproduces a linear function up to a hundredth of a voxel.
        largest = 0.005 if patient not in ("fine", "sagittal") else 0.05
        assert np.abs(image[1] - b)[inside].max(initial=0) < largest
        assert (image[1][beyond] == 0).all()
        assert inside.any() or patient in ("part", "coarse")


@pytest.mark.parametrize("patient", KINDS)
def test_a_patch_equals_the_patch_of_the_resampled_volume(index: Index, patient: str) -> None:
    part = index.select(patient_id=patient)
    patches = dicomdl.PatchDataset(
        part, (6, 12, 10), channels=PAIRING, intensity="modality", sampler="grid"
    )
    first, second = (stack_of(index, patient, name) for name in "AB")
    volume = dicomdl.read_volume(second)
    whole = volume.resample_to(dicomdl.read_volume(first).geometry, fill=0).array
    largest = np.ptp(volume.array)
    for sample in samples_of(patches):
        z, y, x = sample["location"].tolist()
        cut = whole[z : z + 6, y : y + 12, x : x + 10]
        image = sample["image"][1].numpy()[tuple(slice(n) for n in cut.shape)]
        assert np.abs(image - cut).max() <= 1e-4 * largest


def test_a_sample_says_which_images_it_has(index: Index) -> None:
    pairing = Pairing(ROLES, optional=("B",))
    patches = dicomdl.PatchDataset(
        index.select(patient_id=["same", "alone"]),
        (4, 8, 8),
        channels=pairing,
        intensity={"A": "modality", "B": dicomdl.Limits(0, 100)},
        per_stack=1,
    )
    samples = {sample["patient_id"]: sample for sample in samples_of(patches)}
    same, alone = samples["same"], samples["alone"]
    assert same["present"].tolist() == [True, True] and alone["present"].tolist() == [True, False]
    assert (alone["image"][1] == 0).all() and alone["image"][0].max() > 100
    a, b = (stack_of(index, "same", name) for name in "AB")
    assert same["series"] == {"A": a.series_instance_uid, "B": b.series_instance_uid}
    assert same["series_instance_uid"] == a.series_instance_uid
    assert same["stacks"].tolist() == [a.number, b.number]
    assert alone["series"]["B"] == "" and alone["stacks"].tolist()[1] == -1
    assert alone["units"] == {"A": "", "B": ""} and same["units"]["B"] == "1"
    assert patches.roles is not None and patches.roles.names == ("A", "B")
    loader = torch.utils.data.DataLoader(patches, batch_size=2, collate_fn=dicomdl.collate)
    (batch,) = loader
    assert batch["image"].shape == (2, 2, 4, 8, 8) and batch["present"].shape == (2, 2)
    assert set(batch["series"]) == {"A", "B"} and len(batch["series"]["A"]) == 2
    (batch,) = torch.utils.data.DataLoader(patches, batch_size=2)
    assert batch["image"].shape == (2, 2, 4, 8, 8) and len(batch["units"]["B"]) == 2


def test_what_does_not_pair_is_left_out_and_listed(index: Index) -> None:
    part = index.select(patient_id=["same", "alone"])
    with pytest.warns(LeftOutWarning, match="pairing: no B"):
        patches = dicomdl.PatchDataset(part, (4, 8, 8), channels=PAIRING, per_stack=2)
    assert len(patches) == 2 and len(patches.index.stacks) == 2
    assert [(row.reason, row.stacks, row.frames) for row in patches.left_out] == [
        ("pairing: no B (1 study)", 1, 10)
    ]
    several = index.select(patient_id=["same", "fine"])
    with pytest.raises(EmptySelection, match="several B"):
        dicomdl.PatchDataset(several, (4, 8, 8), channels=Pairing(BOTH_B))


def test_labels_and_points_are_those_of_the_first_image(index: Index) -> None:
    part = index.select(patient_id=["same", "sagittal"])
    first = stack_of(index, "sagittal", "A")
    points = dicomdl.Centers(
        [
            (first.series_instance_uid, *first.geometry.voxel_to_world([5, 12, 10]).tolist()),
            (stack_of(index, "sagittal", "B").series_instance_uid, 10, 12, 10),
        ]
    )

    def labels(stack: dicomdl.Stack) -> Any:
        return (np.indices(stack.shape)[0]).astype(np.uint8)

    with pytest.warns(UserWarning, match="1 of 2 points lie in no stack"):
        patches = dicomdl.PatchDataset(
            part, (3, 5, 5), channels=PAIRING, sampler=points, labels=labels, intensity="modality"
        )
    assert len(patches) == 1 and len(patches.index.stacks) == 2
    sample = patches[0]
    assert sample["location"].tolist() == [4, 10, 8] and sample["point"] == 0
    assert sample["label"][:, 0, 0].tolist() == [4, 5, 6]
    assert sample["stacks"][0] == first.number


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"intensity": {"A": "auto"}}, "expected one intensity, or with channels=Pairing"),
        ({"channels": PAIRING, "intensity": {"a": "auto"}}, "did you mean 'A'"),
        ({"channels": PAIRING, "intensity_on": "device"}, "needs intensity_on='cpu'"),
        ({"channels": Pairing({"A": "description=A"})}, "did you mean .*series_description"),
        ({"channels": Pairing({"A": "modality=CT"})}, "meets none of 17 stacks"),
    ],
)
def test_options_of_channels_are_checked(index: Index, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        dicomdl.PatchDataset(index, (4, 4, 4), **options)


def test_a_dataset_with_a_function_as_rule_travels_to_a_worker(index: Index) -> None:
    pairing = Pairing({"A": lambda stack: stack.description == "A", "B": "series_description=B"})
    patches = dicomdl.PatchDataset(
        index.select(patient_id="coarse"), (4, 8, 8), channels=pairing, sampler="grid"
    )
    again = pickle.loads(pickle.dumps(patches))
    assert torch.equal(again[1]["image"], patches[1]["image"])


@pytest.mark.slow
def test_workers_deliver_the_same_channels(index: Index) -> None:
    patches = dicomdl.PatchDataset(
        index.select(patient_id=list(SECONDS)), (4, 8, 8), channels=PAIRING, per_stack=2
    )
    patches.set_epoch(0)
    expected = [patches[row]["image"] for row in range(len(patches))]
    loader = torch.utils.data.DataLoader(patches, batch_size=2, num_workers=2)
    images = torch.cat([batch["image"] for batch in loader])
    assert torch.equal(images, torch.stack(expected))


@pytest.mark.slow
def test_constant_and_padded_images_give_no_nan(tmp_path: Path) -> None:
    study: dict[str, Any] = {"study_uid": uid("constant"), "patient_id": "p", "modality": "MR"}
    for number, name in enumerate("AB"):

        def edit(dataset: Any, z: int, name: str = name) -> None:
            dataset.SeriesDescription, dataset.PixelPaddingValue = name, 7 if name == "A" else 0

        values = np.full((4, 8, 8), 7)
        place: dict[str, Any] = {"shape": values.shape, "origin": (0.5 * number, 0, 0)}
        write_series(tmp_path / "d" / name, **study, **place, stored=values, edit=edit, seed=number)
    index = dicomdl.scan(tmp_path / "d", tmp_path / "index", progress=False)
    for intensity in ("auto", dicomdl.ZScore(), dicomdl.ZScore("foreground"), dicomdl.MinMax()):
        patches = dicomdl.PatchDataset(index, (4, 6, 10), channels=PAIRING, intensity=intensity)
        for sample in samples_of(patches):
            assert torch.isfinite(sample["image"]).all()


def test_a_colour_image_is_no_channel(tmp_path: Path) -> None:
    study: dict[str, Any] = {"study_uid": uid("colour"), "patient_id": "p", "modality": "MR"}
    study["shape"] = (4, 8, 8)
    write_series(tmp_path / "d" / "a", **study, edit=described("A"))
    write_series(tmp_path / "d" / "b", **study, edit=described("B", colour=True), seed=1)
    index = dicomdl.scan(tmp_path / "d", tmp_path / "index", progress=False)
    with pytest.warns(UserWarning, match="in colour"):
        patches = dicomdl.PatchDataset(index, (4, 4, 4), channels=Pairing(ROLES, optional=("B",)))
    assert patches[0]["present"].tolist() == [True, False]


def described(name: str, *, colour: bool = False) -> Any:
    def edit(dataset: Any, z: int) -> None:
        dataset.SeriesDescription = name
        if colour:
            dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"
            dataset.PlanarConfiguration = 0
            dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
            dataset.PixelData = bytes(8 * 8 * 3)

    return edit


@pytest.mark.parametrize("patient", ["same", "coarse", "sagittal", "tilted"])
@pytest.mark.parametrize(
    "options", [{}, {"orientation": "RAS"}, {"spacing": (2, 2, 2), "size": (8, 10, 8)}]
)
def test_a_volume_has_each_image_at_its_place(
    index: Index, patient: str, options: dict[str, Any]
) -> None:
    part = index.select(patient_id=patient)
    volumes = dicomdl.VolumeDataset(part, "modality", channels=PAIRING, **options)
    (sample,) = samples_of(volumes)
    second = stack_of(index, patient, "B")
    a, b, inside, beyond = expected(sample, second)
    image = sample["image"].numpy()
    largest = 0.05 if "spacing" in options or patient in ("fine", "sagittal") else 0.005
    assert np.abs(image[0] - a)[1:-1, 1:-1, 1:-1].max() < largest
    assert np.abs(image[1] - b)[inside].max(initial=0) < largest
    assert (image[1][beyond] == 0).all() or patient == "same"
    assert sample["stacks"].tolist()[1] == second.number and sample["present"].all()


def test_a_volume_equals_the_resampled_volume(index: Index) -> None:
    for patient in KINDS:
        part = index.select(patient_id=patient)
        (sample,) = samples_of(dicomdl.VolumeDataset(part, "modality", channels=PAIRING))
        first, second = (stack_of(index, patient, name) for name in "AB")
        volume = dicomdl.read_volume(second)
        whole = volume.resample_to(dicomdl.read_volume(first).geometry, fill=0).array
        assert np.abs(sample["image"][1].numpy() - whole).max() <= 1e-4 * np.ptp(volume.array)


def test_volumes_of_pairs_take_no_groups(index: Index) -> None:
    with pytest.raises(UsageError, match="it takes no groups"):
        dicomdl.VolumeDataset(index.stacks[0].group, channels=PAIRING)


@pytest.mark.corpus
def test_pet_and_mr_of_real_patients_come_onto_the_grid_of_ct(corpus: Path, tmp_path: Path) -> None:
    folder = corpus / "theibsi+data_sets" / "ibsi_validation" / "dicom"
    index = dicomdl.scan(folder, tmp_path / "index", progress=False)
    pairing = Pairing({"CT": "modality=CT", "PET": "modality=PT", "MR": "modality=MR"}, "patient")
    patches = dicomdl.PatchDataset(
        index, (24, 64, 64), channels=pairing, sampler="grid", intensity="modality"
    )
    assert len(patches.index.stacks) == 6 and not patches.left_out
    for row in (0, len(patches) - 1):
        sample = patches[row]
        ct, *others = (index.stack(number) for number in sample["stacks"].tolist())
        for channel, other in enumerate(others, 1):
            volume = dicomdl.read_volume(other, dtype=np.float32)
            whole = volume.resample_to(ct.geometry, fill=0).array
            z, y, x = sample["location"].tolist()
            cut = whole[z : z + 24, y : y + 64, x : x + 64]
            image = sample["image"][channel].numpy()[tuple(slice(n) for n in cut.shape)]
            assert np.abs(image - cut).max() <= 1e-4 * np.ptp(volume.array)


def test_thick_slices_hold_for_all_images_of_volumes_and_patches(tmp_path: Path) -> None:
    write_pair(tmp_path / "data", "thick", {"shape": (4, 24, 20), "spacing": (6.0, 1.0, 1.0)})
    index = dicomdl.scan(tmp_path / "data", tmp_path / "index", progress=False)
    options: dict[str, Any] = {
        "channels": PAIRING,
        "spacing": 1.0,
        "interpolation": "thick_slices",
        "intensity": "modality",
    }
    volume = dicomdl.VolumeDataset(index, **options)[0]
    patch = dicomdl.PatchDataset(index, volume["image"].shape[1:], sampler="grid", **options)[0]
    assert (volume["image"] - patch["image"]).abs().max() < 1e-3


def test_padding_of_an_image_on_another_grid_is_not_rounded(tmp_path: Path) -> None:
    stored = np.full((4, 12, 10), 3, np.int64)
    stored[:, :4] = 0

    def named(name: str) -> Any:
        def edit(dataset: Any, z: int) -> None:
            dataset.SeriesDescription = name
            dataset.add_new("PixelPaddingValue", "US", 0)

        return edit

    for name, origin in (("A", (0, 0, 0)), ("B", (0.3, 0.4, 0))):
        write_series(
            tmp_path / "data" / name,
            shape=(4, 12, 10),
            stored=stored,
            origin=origin,
            study_uid="2.25.9",
            edit=named(name),
        )
    index = dicomdl.scan(tmp_path / "data", tmp_path / "index", progress=False)
    options: dict[str, Any] = {"channels": PAIRING, "intensity": dicomdl.Limits(0.6, 3.6)}
    volume = dicomdl.VolumeDataset(index, **options)[0]
    patch = dicomdl.PatchDataset(index, (4, 12, 10), sampler="grid", **options)[0]
    assert (volume["image"] - patch["image"]).abs().max() < 1e-4
