"""What labels of samples are: dtype, channels, what is unlabelled, and stacks without labels."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from phantoms import write_series
from phantoms_labels import contour, write_seg, write_structure_set
from torch.utils.data import default_collate

import dicomdl
from dicomdl.datasets.selection import LeftOutWarning
from dicomdl.errors import AnnotationError, EmptySelection, GeometryError, UsageError
from dicomdl.labels.reader import OverlapWarning

pytestmark = pytest.mark.filterwarnings("ignore::dicomdl.datasets.selection.LeftOutWarning")
SHAPE = (5, 12, 14)
GRIDS: tuple[dict[str, Any], ...] = ({}, {"orientation": "RAS"}, {"spacing": (1.5, 0.8, 1.3)})


def labels_of(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 4, SHAPE, np.uint8)


def write_patient(
    folder: Path, seed: int, names: dict[int, str], slices: range = range(SHAPE[0])
) -> None:
    """A CT whose SEG has segments 1 to 3 on some slices, under given numbers and names."""
    (image, *_) = write_series(folder / "ct", shape=SHAPE, seed=seed, patient_id=f"RAMP-{seed}")
    labels = labels_of(seed)
    frames = [
        (number, (0, 0, 2.0 * z), (labels[z] == k).astype(np.uint8))
        for k, number in enumerate(names, 1)
        for z in slices
    ]
    write_seg(folder / "seg.dcm", image, frames, segments=names)


def scanned(folder: Path) -> dicomdl.Index:
    return dicomdl.scan(folder, folder.parent / "index", progress=False)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> dicomdl.Index:
    """Three patients: two with a SEG, whose numbers and names differ, and one without."""
    folder = tmp_path_factory.mktemp("labels") / "dicom"
    write_patient(folder / "a", 1, {1: "Liver", 2: "Spleen", 7: "Aorta"})
    write_patient(folder / "b", 2, {1: "Spleen", 300: "Liver", 400: "Kidney"}, range(3))
    write_series(folder / "c", shape=SHAPE, seed=3, patient_id="RAMP-3")
    return scanned(folder)


def of_patient(samples: Any, number: int) -> Any:
    return next(each for each in samples if each["patient_id"] == f"RAMP-{number}")


def datasets(index: dicomdl.Index, labels: Any) -> list[Any]:
    return [
        dicomdl.PatchDataset(index, 6, sampler="grid", labels=labels),
        dicomdl.VolumeDataset(index, labels=labels),
        dicomdl.FrameDataset(index, labels=labels),
    ]


@pytest.mark.quick(3)
@pytest.mark.parametrize(
    ("option", "dtype"),
    [
        ("SEG", torch.int16),
        (dicomdl.LabelSource("SEG", segments={"liver": "liver"}), torch.uint8),
        (dicomdl.LabelSource("SEG", label_dtype="int64"), torch.int64),
        (dicomdl.LabelSource("SEG", label_dtype=torch.int32), torch.int32),
        (dicomdl.LabelSource("SEG", channels=True), torch.uint8),
        (dicomdl.LabelSource("SEG", channels=True, label_dtype=np.int64), torch.int64),
        (lambda stack: np.ones(stack.shape, np.bool_), torch.uint8),
    ],
)
def test_labels_of_all_samples_have_the_smallest_dtype_that_holds_them(
    index: dicomdl.Index, option: Any, dtype: torch.dtype
) -> None:
    for dataset in datasets(index, option):
        samples = [dataset[row] for row in range(len(dataset))]
        assert {sample["label"].dtype for sample in samples} == {dtype}
        default_collate(samples[:2])


def test_labels_that_a_dtype_does_not_hold_are_refused(index: dicomdl.Index) -> None:
    part = index.select(patient_id="RAMP-2")
    small = dicomdl.LabelSource("SEG", label_dtype="uint8")
    with pytest.raises(UsageError, match="label 400 does not fit uint8"):
        dicomdl.PatchDataset(part, 4, labels=small)[0]
    with pytest.raises(UsageError, match="label 40000 does not fit uint8"):
        dicomdl.VolumeDataset(part, labels=lambda stack: np.full(stack.shape, 40000))[0]
    large = dicomdl.LabelSource(lambda stack: np.full(stack.shape, 2**24 + 1), label_dtype="int32")
    (*_, sample) = dicomdl.FrameDataset(part, labels=large, size=6)
    assert (sample["label"] == 2**24 + 1).all()
    with pytest.raises(UsageError, match="label_dtype='float32': expected one of uint8"):
        dicomdl.LabelSource("SEG", label_dtype="float32")


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_channels_have_one_order_of_names_over_all_stacks(
    index: dicomdl.Index, grid: dict[str, Any]
) -> None:
    source = dicomdl.LabelSource("SEG", channels=True, unlabelled=True)
    volumes = dicomdl.VolumeDataset(index, labels=source, **grid)
    assert volumes.labels.names == ("Liver", "Spleen", "Aorta", "Kidney")
    patches = dicomdl.PatchDataset(index, (20, 30, 30), sampler="grid", labels=source, **grid)
    orders = {1: (1, 2, 3, None), 2: (2, 1, None, 3)}
    for number, order in orders.items():
        sample = of_patient(volumes, number)
        stack = index.stack(sample["stack"])
        geometry = dicomdl.Geometry(sample["image"].shape[1:], sample["affine"].numpy())
        truth, mask = labels_of(number), np.zeros(SHAPE, np.uint8)
        mask[: 5 if number == 1 else 3] = 1
        mask[0] = 1
        for channel, k in zip(sample["label"], order, strict=True):
            expected = mask * (truth == k) if k else mask * 0
            assert np.array_equal(channel, _moved(expected, stack, geometry))
        assert np.array_equal(~sample["unlabelled"].numpy(), _moved(mask, stack, geometry) > 0)
        # A patch around the complete stack; beyond, nobody annotated.
        patch = of_patient(patches, number)
        z, y, x = (-patch["location"]).tolist()
        where = [slice(a, a + n) for a, n in zip((z, y, x), geometry.shape, strict=True)]
        assert torch.equal(patch["label"][:, where[0], where[1], where[2]], sample["label"])
        assert torch.equal(patch["unlabelled"][tuple(where)], sample["unlabelled"])
        assert patch["label"].sum() == sample["label"].sum()
        assert (~patch["unlabelled"]).sum() == (~sample["unlabelled"]).sum()


def _moved(values: NDArray[Any], stack: dicomdl.Stack, geometry: dicomdl.Geometry) -> NDArray[Any]:
    volume = dicomdl.Volume(values.astype(np.uint8), stack.geometry)
    return volume.resample_to(geometry, interpolation="nearest", fill=0).array


def test_frames_have_channels_and_what_is_unlabelled_at_their_own_pixels(
    index: dicomdl.Index,
) -> None:
    part = index.select(patient_id="RAMP-2")
    source = dicomdl.LabelSource(
        "SEG", segments={"spleen": "spleen", "kidney": "kidney"}, channels=True, unlabelled=True
    )
    frames = dicomdl.FrameDataset(part, labels=source, size=(24, 32), fit="pad", neighbours=1)
    truth = labels_of(2)
    for z, sample in enumerate(frames):
        assert sample["image"].shape == (3, 24, 32)
        expected = np.zeros((2, 24, 32), np.uint8)
        if z < 3:
            both = np.stack([truth[z] == 1, truth[z] == 3]).astype(np.uint8)
            expected[:, :, 2:30] = both.repeat(2, axis=1).repeat(2, axis=2)
        assert np.array_equal(sample["label"], expected)
        assert sample["unlabelled"][:, :2].all() and sample["unlabelled"][:, 30:].all()
        assert (sample["unlabelled"][:, 2:30] == (z > 2)).all()


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["SEG", "{folder}/mask.nii.gz"])
def test_stacks_without_labels_are_left_out_found_at_once_or_unlabelled(
    index: dicomdl.Index, labels: str
) -> None:
    for number in (1, 2):
        stack = index.select(patient_id=f"RAMP-{number}", content="image").stacks[0]
        dicomdl.read_labels(stack, "SEG").save(Path(stack.path) / "mask.nii.gz")
    reason = "no readable SEG" if labels == "SEG" else "no file of labels"
    with pytest.warns(LeftOutWarning, match=reason):
        left = datasets(index, dicomdl.LabelSource(labels, label_dtype="int16"))
    for dataset in left:
        assert [(row.reason, row.stacks) for row in dataset.left_out][-1] == (reason, 1)
        assert {sample["patient_id"] for sample in dataset} == {"RAMP-1", "RAMP-2"}
    for make in (dicomdl.VolumeDataset, dicomdl.FrameDataset):
        with pytest.raises(AnnotationError, match=f"1 of 3 stacks lack labels.*{reason}"):
            make(index, labels=dicomdl.LabelSource(labels, on_missing="raise"))
    kept = dicomdl.LabelSource(labels, on_missing="unlabelled", label_dtype="int16")
    for dataset in datasets(index, kept):
        sample = of_patient(dataset, 3)
        assert sample["unlabelled"].all() and not sample["label"].any()
        assert sample["label"].dtype == of_patient(dataset, 1)["label"].dtype
        assert of_patient(dataset, 1)["label"].any()
    with pytest.raises(EmptySelection, match=reason):
        dicomdl.PatchDataset(index.select(patient_id="RAMP-3"), 4, labels=labels)


def test_objects_without_a_wanted_segment_count_as_missing(index: dicomdl.Index) -> None:
    aorta = dicomdl.LabelSource("SEG", segments=["aorta"])
    with pytest.warns(LeftOutWarning, match="name nothing in the SEG"):
        volumes = dicomdl.VolumeDataset(index, labels=aorta)
    assert [sample["patient_id"] for sample in volumes] == ["RAMP-1"]


def test_several_objects_are_never_joined_in_silence(folder: Path) -> None:
    write_patient(folder / "a", 1, {1: "Liver", 2: "Spleen", 3: "Aorta"})
    image = next((folder / "a/ct").iterdir())
    write_seg(folder / "a/second.dcm", image, [(1, (0, 0, 0), np.ones(SHAPE[1:], np.uint8))])
    index = scanned(folder)
    for policy in ("skip", "unlabelled"):
        with pytest.raises(EmptySelection, match="several readable SEG"):
            dicomdl.VolumeDataset(index, labels=dicomdl.LabelSource("SEG", on_missing=policy))


@pytest.mark.slow
def test_a_sampler_draws_from_channels_and_no_background_where_nobody_annotated(
    index: dicomdl.Index,
) -> None:
    part = index.select(patient_id="RAMP-2")
    source = dicomdl.LabelSource("SEG", channels=True, unlabelled=True)
    for weights, channel in (({1: 1.0}, 0), ({2: 1.0}, 1), ({0: 1.0}, None)):
        patches = dicomdl.PatchDataset(
            part, 1, sampler=dicomdl.Balanced(weights), labels=source, per_stack=30
        )
        assert patches.labels.names == ("Spleen", "Liver", "Kidney")
        for sample in patches:
            label = sample["label"][:, 0, 0, 0]
            assert not sample["unlabelled"].any()
            assert label[channel] == 1 if channel is not None else not label.any()


def test_patches_of_labels_stitch_to_the_label_map(index: dicomdl.Index) -> None:
    part = index.select(patient_id="RAMP-1")
    source = dicomdl.LabelSource("SEG", channels=True)
    patches = dicomdl.PatchDataset(part, (3, 8, 8), sampler=dicomdl.Grid(0.5), labels=source)
    found = dicomdl.stitch(
        [sample["label"].numpy() for sample in patches],
        [sample["location"].tolist() for sample in patches],
        SHAPE,
    )
    assert np.array_equal(np.rint(found), [labels_of(1) == k for k in (1, 2, 3)])
    assert np.abs(found - np.rint(found)).max() < 1e-6


def test_device_intensities_leave_labels_alone(index: dicomdl.Index) -> None:
    part = index.select(patient_id="RAMP-1")
    source = dicomdl.LabelSource("SEG", unlabelled=True)
    options = {"sampler": "grid", "labels": source, "intensity": (100, 400)}
    on_cpu = dicomdl.PatchDataset(part, 5, **options)
    stored = dicomdl.PatchDataset(part, 5, **options, intensity_on="device")
    for one, other in zip(on_cpu, stored, strict=True):
        mapped = dicomdl.apply_intensity(other)
        assert torch.allclose(one["image"], mapped["image"])
        for name in ("label", "unlabelled"):
            assert torch.equal(one[name], mapped[name])


def test_loader_workers_collate_labels_channels_and_what_is_unlabelled(
    index: dicomdl.Index,
) -> None:
    source = dicomdl.LabelSource("SEG", channels=True, on_missing="unlabelled")
    volumes = dicomdl.VolumeDataset(index, labels=source)
    loader = torch.utils.data.DataLoader(volumes, batch_size=3, num_workers=1)
    (batch,) = loader
    assert batch["label"].shape == (3, 4, *SHAPE)
    assert batch["unlabelled"].flatten(1).all(dim=1).tolist().count(True) == 1


def test_regions_are_channels_too_and_functions_are_not(folder: Path) -> None:
    image = write_series(folder / "ct", shape=SHAPE)[0]
    square = np.array([(2.5, 1.5, 4), (9.5, 1.5, 4), (9.5, 8.5, 4), (2.5, 8.5, 4)])
    write_structure_set(
        folder / "rt.dcm",
        image,
        {"B": [contour(square)], "A": [contour(square + np.array([1, 0, 2]))]},
    )
    index = scanned(folder)
    source = dicomdl.LabelSource("RTSTRUCT", channels=True)
    (sample,) = dicomdl.VolumeDataset(index, labels=source)
    masks = dicomdl.read_labels(index.stacks[0], "RTSTRUCT", channels=True)
    assert np.array_equal(sample["label"], masks.array)
    with pytest.raises(UsageError, match="channels= has no effect: the labels come from a func"):
        dicomdl.LabelSource(lambda stack: np.zeros(stack.shape), channels=True)
    with pytest.raises(UsageError, match="channels=True needs the names"):
        dicomdl.VolumeDataset(
            index, labels=dicomdl.LabelSource("{folder}/../rt.dcm", channels=True)
        )
    with pytest.raises(UsageError, match="on_missing='ignore': expected"):
        dicomdl.LabelSource("SEG", on_missing="ignore")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("channels", [False, True])
def test_a_cache_changes_no_label_and_no_place_of_a_sampler(
    index: dicomdl.Index, tmp_path: Path, channels: bool
) -> None:
    source = dicomdl.LabelSource("SEG", channels=channels, on_missing="unlabelled")
    options = {"sampler": "labels", "labels": source, "per_stack": 5}
    plain = dicomdl.PatchDataset(index, 4, **options)
    for _ in range(2):
        cached = dicomdl.PatchDataset(index, 4, cache=tmp_path / "cache", **options)
        for one, other in zip(plain, cached, strict=True):
            assert torch.equal(one["location"], other["location"])
            for name in ("label", "unlabelled"):
                assert torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_frames_of_a_plane_have_channels_and_what_is_unlabelled(
    index: dicomdl.Index, plane: Any
) -> None:
    part = index.select(patient_id="RAMP-2")
    source = dicomdl.LabelSource("SEG", channels=True, unlabelled=True)
    frames = dicomdl.FrameDataset(part, labels=source, plane=plane, size=(17, 19), fit="pad")
    (volume,) = dicomdl.VolumeDataset(part, labels=source)
    label, unlabelled = volume["label"].numpy(), volume["unlabelled"].numpy()
    for sample in frames:
        assert not (sample["label"].any(dim=0) & sample["unlabelled"]).any()
    # Frames go from the right, the front and the feet of the patient.
    at = {"axial": (1,), "coronal": (slice(None), slice(None), 5), "sagittal": (..., 6)}[plane]
    own = dicomdl.FrameDataset(part, labels=source, plane=plane)
    found = own[{"axial": 1, "coronal": 5, "sagittal": 6}[plane]]
    expected = label[:, 1] if plane == "axial" else label[at]
    flipped = expected if plane == "axial" else expected[:, ::-1]
    assert np.array_equal(found["label"], flipped)
    truth = unlabelled[1] if plane == "axial" else unlabelled[at[1:] if plane == "coronal" else at]
    assert np.array_equal(found["unlabelled"], truth if plane == "axial" else truth[::-1])


def test_slices_that_are_filled_are_unlabelled(folder: Path) -> None:
    shape = (6, 8, 9)
    images = write_series(folder / "ct", shape=shape, drop=(3,))
    masks = np.random.default_rng(1).integers(0, 2, shape, np.uint8)
    write_seg(
        folder / "seg.dcm", images[0], [(1, (0, 0, 2.0 * z), masks[z]) for z in range(6) if z != 3]
    )
    source = dicomdl.LabelSource("SEG", unlabelled=True)
    (sample,) = dicomdl.VolumeDataset(scanned(folder), labels=source, irregular="resample")
    assert sample["unlabelled"].flatten(1).all(dim=1).tolist() == [z == 3 for z in range(6)]
    assert sample["unlabelled"].flatten(1).any(dim=1).tolist() == [z == 3 for z in range(6)]
    masks[3] = 0
    assert np.array_equal(sample["label"], masks)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [False, True])
def test_fractions_are_samples_and_a_sampler_takes_those_of_a_half(
    folder: Path, tmp_path: Path, channels: bool
) -> None:
    image = write_series(folder / "ct", shape=SHAPE)[0]
    values = np.random.default_rng(0).integers(0, 201, SHAPE, np.uint8)
    frames = [(1, (0, 0, 2.0 * z), values[z]) for z in range(SHAPE[0])]
    write_seg(folder / "seg.dcm", image, frames, kind="FRACTIONAL")
    index = scanned(folder)
    source = dicomdl.LabelSource("SEG", values="fractions", channels=channels)
    for cache in (None, tmp_path / "cache"):
        patches = dicomdl.PatchDataset(
            index, 1, labels=source, sampler=dicomdl.Balanced({1: 1}), per_stack=20, cache=cache
        )
        for sample in patches:
            z, y, x = sample["location"].tolist()
            assert sample["label"].dtype == torch.float32
            assert sample["label"].item() == pytest.approx(values[z, y, x] / 200)
            assert sample["label"].item() >= 0.5
    (volume,) = dicomdl.VolumeDataset(index, labels=source, spacing=(2.0, 0.5, 0.5))
    assert np.allclose(
        volume["label"].reshape(volume["image"].shape[1:]),
        (values / 200).repeat(2, axis=1).repeat(2, axis=2),
    )


def test_a_volume_of_a_function_lies_on_the_grid_of_the_stack(index: dicomdl.Index) -> None:
    def mask(stack: dicomdl.Stack) -> Any:
        return dicomdl.read_labels(stack, "SEG")

    stacks = index.select(has="SEG")
    assert dicomdl.VolumeDataset(stacks, labels=mask)[0]["label"].any()
    turned = dicomdl.VolumeDataset(stacks, labels=lambda stack: mask(stack).reorient("SAR"))
    with pytest.raises(GeometryError, match="a Volume on another grid"):
        turned[0]


def test_labels_may_be_a_path_object(index: dicomdl.Index, tmp_path: Path) -> None:
    stack = index.select(has="SEG").stacks[0]
    dicomdl.read_labels(stack, "SEG").save(tmp_path / f"{stack.patient_id}.nii.gz")
    pattern = tmp_path / "{patient_id}.nii.gz"
    (one,), (other,) = (
        dicomdl.VolumeDataset([stack], labels=labels) for labels in (pattern, str(pattern))
    )
    assert torch.equal(one["label"], other["label"]) and one["label"].any()


# --- labels that overlap --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def overlapping(tmp_path_factory: pytest.TempPathFactory) -> dicomdl.Index:
    """Two patients, each with a SEG whose two segments share voxels of one slice."""
    folder = tmp_path_factory.mktemp("overlaps") / "dicom"
    for seed in (1, 2):
        (image, *_) = write_series(
            folder / f"p{seed}", shape=SHAPE, seed=seed, patient_id=f"RAMP-{seed}"
        )
        mask = np.ones(SHAPE[1:], np.uint8)
        frames = [(1, (0, 0, 2.0), mask), (2, (0, 0, 2.0), mask.copy()), (2, (0, 0, 4.0), mask)]
        write_seg(folder / f"p{seed}" / "seg.dcm", image, frames, segments={1: "A", 2: "B"})
    return scanned(folder)


@pytest.mark.parametrize("kind", ["volumes", "frames", "patches", "cached"])
def test_a_dataset_warns_once_of_labels_that_overlap(
    overlapping: dicomdl.Index, tmp_path: Path, kind: str
) -> None:
    options: dict[str, Any] = {"labels": "SEG", "intensity": None}
    samples: Any = {
        "volumes": lambda: dicomdl.VolumeDataset(overlapping, **options),
        "frames": lambda: dicomdl.FrameDataset(overlapping, **options),
        "patches": lambda: dicomdl.PatchDataset(
            overlapping, size=SHAPE, sampler=dicomdl.Grid(), **options
        ),
        "cached": lambda: dicomdl.VolumeDataset(
            overlapping, cache=dicomdl.DiskCache(tmp_path / "cache"), **options
        ),
    }[kind]()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for number in range(len(samples)):
            samples[number]
    (only,) = [each for each in told if issubclass(each.category, OverlapWarning)]
    assert "each got the last one" in str(only.message)
    assert only.filename == __file__


def test_channels_and_labels_that_do_not_overlap_warn_of_nothing(
    overlapping: dicomdl.Index, index: dicomdl.Index
) -> None:
    for part, labels in (
        (overlapping, dicomdl.LabelSource("SEG", channels=True)),
        (overlapping, dicomdl.LabelSource("SEG", segments=["A"])),
        (index, dicomdl.LabelSource("SEG", label_dtype="int16")),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error", OverlapWarning)
            samples = dicomdl.VolumeDataset(part, intensity=None, labels=labels)
            assert len([samples[number] for number in range(len(samples))])


def test_a_source_that_is_called_warns_of_labels_that_overlap(overlapping: dicomdl.Index) -> None:
    stack = next(each for each in overlapping.stacks if each.modality == "CT")
    with pytest.warns(OverlapWarning, match="each got the last one"):
        dicomdl.LabelSource("SEG")(stack)
