"""The table of defects: ramp phantoms of all known faults of folders of slices, with their truth.

Every `Defect` writes files and returns the `Part`s that a reader must find: one grid of true
modality values each. The attribute that distinguishes parts of one grid (time point, echo, kernel,
...) is marked by an offset added to the ramp, so that a volume that mixes two parts holds a wrong
number at a known position. `test_defects` judges; this module does not import dicomdl.
"""

import dataclasses
import itertools
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from phantoms import (
    decimals,
    item,
    per_slice,
    ramp,
    true_affine,
    true_positions,
    uid,
    write_multiframe,
    write_series,
)
from pydicom import config, dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.valuerep import DSfloat

SHAPE: Final = (6, 5, 7)
# The mark exceeds the largest value of a ramp of SHAPE, 299, so the values of parts never overlap.
MARK: Final = 400
AXIAL: Final = (1, 0, 0, 0, 1, 0)
# The normal points to the right: slices ascend towards -x.
SAGITTAL: Final = (0, 1, 0, 0, 0, -1)
UNCHECKED: Final = ("unchecked",)

# Keyword, or (group, creator, element, VR) of a private attribute -> value; None deletes it.
Facts = Mapping[Any, Any]
# (part, slice) -> attributes of its file.
Tell = Callable[[int, int], Facts]


@dataclass(frozen=True, eq=False)
class Part:
    """True values on a true grid.

    Voxel (z, y, x) holds ``(x + 7 y + 53 z + mark) * slope[z] + intercept[z]``.
    """

    affine: npt.NDArray[np.float64]
    shape: tuple[int, int, int]
    mark: int
    slopes: Sequence[float]
    intercepts: Sequence[float]
    # The slices that were written.
    slices: tuple[int, ...]
    tolerance_mm: float = 0.02

    def holds(self, array: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> bool:
        """Whether (slices, rows, columns) at `affine` are exactly this part.

        Every slice occurs once, in order, with true values.
        """
        if array.shape != (len(self.slices), *self.shape[1:]):
            return False
        world = np.moveaxis(np.indices(array.shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
        voxels = (world - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T
        places = np.rint(voxels).astype(int)
        if (
            np.linalg.norm((voxels - places) @ self.affine[:3, :3].T, axis=-1).max()
            > self.tolerance_mm
        ):
            return False
        z, y, x = np.moveaxis(places, -1, 0)
        if (
            tuple(z[:, 0, 0]) != self.slices
            or y.min() < 0
            or x.min() < 0
            or y.max() >= self.shape[1]
            or x.max() >= self.shape[2]
        ):
            return False
        values = (x + 7 * y + 53 * z + self.mark) * np.asarray(self.slopes)[z] + np.asarray(
            self.intercepts
        )[z]
        return bool(np.array_equal(array, values.astype(array.dtype)))


@dataclass(frozen=True)
class Defect:
    """One row of the table: the writer of a defect, and the expected outcome."""

    name: str
    write: Callable[[Path], list[Part]]
    # "verdict slices" of every stack; None: any outcome that is never wrong.
    stacks: Sequence[str] | None
    # Name -> values in order, for the only group; None: no group.
    dimension: Mapping[str, Sequence[Any]] | None
    copies: int
    # Verdict -> required entries of its detail.
    details: Mapping[str, Mapping[str, Any]]
    # Index in the group -> missing slices of the group's grid.
    missing: Mapping[int, Sequence[int]]


DEFECTS: Final[list[Defect]] = []


def defect(
    name: str,
    stacks: Sequence[str] | None,
    dimension: Mapping[str, Sequence[Any]] | None = None,
    *,
    copies: int = 0,
    missing: Mapping[int, Sequence[int]] | None = None,
    **details: Mapping[str, Any],
) -> Callable[[Callable[[Path], list[Part]]], Callable[[Path], list[Part]]]:
    """Enter the decorated writer into the table."""

    def enter(write: Callable[[Path], list[Part]]) -> Callable[[Path], list[Part]]:
        DEFECTS.append(Defect(name, write, stacks, dimension, copies, details, missing or {}))
        return write

    return enter


# --------------------------------------------------------------------------------------------------
# writers


def series_uid(folder: Path) -> str:
    """Return the Series that all parts of a defect share: one per folder."""
    return uid("series of a defect", folder.name)


def series(
    folder: Path,
    number: int = 0,
    *,
    tell: Tell = lambda _, z: {},
    numbers: Sequence[int] | None = None,
    truth: Mapping[str, Any] | None = None,
    **options: Any,
) -> Part:
    """Write part `number` as a classic series, marked by ``MARK * number``.

    `options` are those of `write_series`. `truth` replaces options where the headers are wrong on
    purpose.
    """
    shape = options.setdefault("shape", SHAPE)
    options = {"offset": MARK * number, "series_uid": series_uid(folder), "seed": number, **options}
    write_series(
        folder,
        instance_numbers=numbers,
        edit=lambda dataset, z: say(dataset, tell(number, z)),
        **options,
    )
    true = {"offset": MARK * number, "slope": 1, "intercept": 0, **options, **(truth or {})}
    grid = {
        name: true[name] for name in ("spacing", "origin", "orientation", "shear") if name in true
    }
    slices = tuple(z for z in range(shape[0]) if z not in set(true.get("drop", ())))
    return Part(
        true_affine(**grid),
        shape,
        true["offset"],
        per_slice(true["slope"], shape[0]),
        per_slice(true["intercept"], shape[0]),
        slices,
    )


def parts(
    folder: Path,
    count: int,
    tell: Tell,
    numbering: str = "shuffled",
    last: Mapping[str, Any] | None = None,
    **options: Any,
) -> list[Part]:
    """Write `count` parts of one grid that `tell` distinguishes.

    `last` are options of the last part alone. Instance numbers run "part by part" or "slice by
    slice" (all parts of a slice follow each other), are "shuffled", so that they prove nothing, or
    "absent".
    """
    slices = options.get("shape", SHAPE)[0]
    given = {
        "part by part": np.arange(count * slices).reshape(count, slices),
        "slice by slice": np.arange(count * slices).reshape(slices, count).T,
        "shuffled": np.random.default_rng(7).permutation(count * slices).reshape(count, slices),
        "absent": np.zeros((count, slices), int),
    }[numbering]
    absent: Facts = {"InstanceNumber": None} if numbering == "absent" else {}
    return [
        series(
            folder,
            number,
            tell=lambda n, z: {**tell(n, z), **absent},
            numbers=(given[number] + 1).tolist(),
            **{**options, **((last or {}) if number == count - 1 else {})},
        )
        for number in range(count)
    ]


def enhanced(
    path: Path,
    count: int,
    content: Tell,
    *,
    first: int = 0,
    only: Callable[[int, int], bool] = lambda n, z: True,
    facts: Facts | None = None,
    name: str = "enhanced",
    **options: Any,
) -> list[Part]:
    """Write parts `first`, `first` + 1, ... of one grid as one enhanced file with shuffled frames.

    `content(part, slice)` gives the attributes of the Frame Content macro; ImagePositionPatient
    and FrameType (value 3) are put into their own macros, sequences stand beside it. `only` chooses
    frames, `facts` are attributes of the file.
    """
    shape = options.setdefault("shape", SHAPE)
    cells = [
        cell
        for cell in itertools.product(range(first, first + count), range(shape[0]))
        if only(*cell)
    ]
    random.Random(3).shuffle(cells)

    def edit(dataset: Dataset, _: int) -> None:
        stored = np.frombuffer(dataset.PixelData, "<u2").reshape(len(cells), *shape[1:]).copy()
        for k, (number, z) in enumerate(cells):
            group = dataset.PerFrameFunctionalGroupsSequence[k]
            said = dict(content(number, z))
            for key in [key for key, value in said.items() if isinstance(value, DicomSequence)]:
                say(group, {key: said.pop(key)})
            if "ImagePositionPatient" in said:
                group.PlanePositionSequence = item(
                    ImagePositionPatient=decimals(said.pop("ImagePositionPatient"))
                )
            if "FrameType" in said:
                group.MRImageFrameTypeSequence = item(
                    FrameType=["ORIGINAL", "PRIMARY", said.pop("FrameType"), "NONE"]
                )
            group.FrameContentSequence = item(**said)
            stored[k] += MARK * number
        dataset.PixelData = stored.tobytes()
        say(dataset, facts or {})

    options.setdefault("seed", first)
    write_multiframe(
        path / f"{name}{first}",
        order=[z for _, z in cells],
        series_uid=series_uid(path),
        modality="MR",
        edit=edit,
        **options,
    )
    grid = {
        name: options[name]
        for name in ("spacing", "origin", "orientation", "shear")
        if name in options
    }
    slopes, intercepts = (
        per_slice(options.get("slope", 1), shape[0]),
        per_slice(options.get("intercept", 0), shape[0]),
    )
    slices = {
        n: tuple(z for z in range(shape[0]) if only(n, z)) for n in range(first, first + count)
    }
    return [
        Part(true_affine(**grid), shape, MARK * n, slopes, intercepts, found)
        for n, found in slices.items()
    ]


def say(dataset: Dataset, facts: Facts) -> None:
    """Set attributes by keyword, or with None delete them.

    Private ones are named by (group, creator, element, VR).
    """
    for key, value in facts.items():
        if isinstance(key, tuple):
            group, creator, element, vr = key
            dataset.private_block(group, creator, create=True).add_new(element, vr, value)
        elif value is not None:
            setattr(dataset, key, value)
        elif key in dataset:
            delattr(dataset, key)


def inside(facts: Facts) -> DicomSequence:
    """Return a sequence of one item with these attributes."""
    dataset = Dataset()
    say(dataset, facts)
    return DicomSequence([dataset])


def verbatim(*texts: str) -> list[DSfloat]:
    """Decimal Strings with exactly these characters, legal or not."""
    return [DSfloat(text, validation_mode=config.IGNORE) for text in texts]


def clock(seconds: float) -> str:
    """A time of day (PS3.5 6.2, TM): `seconds` after a quarter past ten."""
    whole = 10 * 3600 + 15 * 60 + seconds
    return f"{int(whole // 3600):02d}{int(whole % 3600 // 60):02d}{whole % 60:09.6f}"


def elsewhere(part: Part, shift: Sequence[float]) -> Part:
    """The part moved by `shift` mm."""
    affine = part.affine.copy()
    affine[:3, 3] += shift
    return dataclasses.replace(part, affine=affine)


# --------------------------------------------------------------------------------------------------
# values


@defect("slope differs per slice", ["regular 6"])
def _(folder: Path) -> list[Part]:
    return [series(folder, slope=[1, 2, 3, 1, 2, 5])]


@defect("fractional slope differs per slice (PET)", ["regular 6"])
def _(folder: Path) -> list[Part]:
    return [series(folder, modality="PT", slope=[0.5, 1.25, 3.0625, 0.75, 2.5, 1.5])]


@defect("intercept differs per slice", ["regular 6"])
def _(folder: Path) -> list[Part]:
    return [series(folder, intercept=[-1024, 0, -1000, 10, -1024, 77])]


@defect("signed and unsigned slices in one series", ["regular 6"])
def _(folder: Path) -> list[Part]:
    signed = [True, False, False, True, False, True]
    # 3000 needs the 12th bit: negative where the first slice's sign is taken for all
    shift = np.where(signed, -1000, 3000)
    stored = ramp(SHAPE) + shift[:, None, None]
    return [
        series(
            folder,
            signed=signed,
            stored=stored,
            intercept=(-shift).tolist(),
            truth={"intercept": 0},
        )
    ]


@defect("12-bit signed with zeros above the stored bits", ["regular 6"])
def _(folder: Path) -> list[Part]:
    return [series(folder, signed=True, offset=-1000, unused_bits="zero")]


@defect("12-bit signed with ones above the stored bits", ["regular 6"])
def _(folder: Path) -> list[Part]:
    return [series(folder, signed=True, offset=-100, unused_bits="ones")]


@defect("12-bit unsigned with junk above the stored bits", ["regular 6"])
def _(folder: Path) -> list[Part]:
    return [series(folder, unused_bits="ones")]


@defect("rescale missing in some slices", ["regular 3", "regular 3"])
def _(folder: Path) -> list[Part]:
    plain = series(
        folder, slope=None, intercept=None, drop=(3, 4, 5), truth={"slope": 1, "intercept": 0}
    )
    return [plain, series(folder, 1, intercept=-1024, drop=(0, 1, 2))]


@defect("MONOCHROME1 and MONOCHROME2 in one series", ["regular 3", "regular 3"])
def _(folder: Path) -> list[Part]:
    low = series(folder, 0, photometric="MONOCHROME1", drop=(3, 4, 5))
    return [low, series(folder, 1, drop=(0, 1, 2))]


# --------------------------------------------------------------------------------------------------
# slices


@defect(
    "a missing slice",
    ["missing_slices 5"],
    missing_slices={"missing": 1, "missing_after": [1], "spacing": 2.0},
)
def _(folder: Path) -> list[Part]:
    series(folder, drop=[2])
    return []


@defect(
    "three missing slices in two places",
    ["missing_slices 9"],
    missing_slices={"missing": 3, "missing_after": [1, 4], "spacing": 2.0},
)
def _(folder: Path) -> list[Part]:
    series(folder, shape=(12, 5, 7), drop=[2, 3, 7])
    return []


@defect("a slice twice, equal, under a new SOP Instance UID", ["regular 6"], copies=1)
def _(folder: Path) -> list[Part]:
    return [series(folder, repeat=[2])]


@defect("the same file twice", ["regular 6"], copies=2)
def _(folder: Path) -> list[Part]:
    part = series(folder, names="ordered")
    for z in (0, 4):
        shutil.copy(folder / f"slice{z:04d}a.dcm", folder / f"again{z}.dcm")
    return [part]


@defect("the whole series twice, under new SOP Instance UIDs", ["regular 6"], copies=6)
def _(folder: Path) -> list[Part]:
    return [series(folder, repeat=range(6))]


@defect("the whole series twice, as files in a second folder", ["regular 6"], copies=6)
def _(folder: Path) -> list[Part]:
    part = series(folder / "first", series_uid=series_uid(folder))
    shutil.copytree(folder / "first", folder / "second")
    return [part]


@defect("a slice twice, equal values in another transfer syntax", ["regular 6"], copies=1)
def _(folder: Path) -> list[Part]:
    part = series(folder)
    series(folder, drop=[0, 1, 3, 4, 5], transfer_syntax="1.2.840.10008.1.2.5")  # RLE Lossless
    return [part]


@defect(
    "a slice twice, different",
    ["duplicates 7"],
    duplicates={"repeated_positions": 1, "pixels": "different"},
)
def _(folder: Path) -> list[Part]:
    series(folder)
    series(folder, 1, drop=[0, 1, 3, 4, 5])
    return []


@defect(
    "a slice twice, different, the second numbered last",
    ["duplicates 7"],
    duplicates={"repeated_positions": 1, "pixels": "different"},
)
def _(folder: Path) -> list[Part]:
    series(folder)
    series(folder, 1, drop=[0, 1, 3, 4, 5], numbers=[7] * 6)
    return []


@defect(
    "a slice twice, the same stored values under another rescale",
    ["regular 6", "single 1"],
    {"rescale_intercept": (0, -1024)},
    missing={1: [0, 1, 3, 4, 5]},
)
def _(folder: Path) -> list[Part]:
    other = series(folder, drop=[0, 1, 3, 4, 5], intercept=-1024)
    return [series(folder), other]


@defect(
    "a slice twice, different, among image types that alternate along the slices",
    ["duplicates 7"],
    duplicates={"repeated_positions": 1},
)
def _(folder: Path) -> list[Part]:
    """Divided by image type, it would be two series of every other slice."""

    def tell(n, z):
        return {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", *(["HELIX"] if (z + n) % 2 else [])]}

    series(folder, tell=tell)
    series(folder, 1, tell=tell, drop=[0, 1, 3, 4, 5])
    return []


@defect(
    "a slice twice, different, acquired later than all others",
    ["regular 6", "single 1"],
    {"acquisition_time": (0, 90)},
    missing={1: [0, 1, 3, 4, 5]},
)
def _(folder: Path) -> list[Part]:
    tell: Tell = lambda n, z: {"AcquisitionTime": clock(90 * n)}
    return [series(folder, tell=tell), series(folder, 1, tell=tell, drop=[0, 1, 3, 4, 5])]


@defect(
    "a slice twice, different, acquired later than the others, each at its time",
    ["duplicates 7"],
    duplicates={"pixels": "different"},
)
def _(folder: Path) -> list[Part]:
    tell: Tell = lambda n, z: {"AcquisitionTime": clock(90 * n + 2 * z)}
    series(folder, tell=tell)
    series(folder, 1, tell=tell, drop=[0, 1, 3, 4, 5])
    return []


@defect(
    "the series twice, once lossily compressed",
    ["regular 6", "regular 6"],
    {"lossy_image_compression": ("00", "01")},
)
def _(folder: Path) -> list[Part]:
    return [
        series(folder, n, tell=lambda n, z: {"LossyImageCompression": ("00", "01")[n]})
        for n in range(2)
    ]


@defect(
    "a slice twice, under another rescale, where every slice has its own",
    ["duplicates 7"],
    duplicates={"pixels": "different"},
)
def _(folder: Path) -> list[Part]:
    series(folder, modality="PT", slope=[0.5, 1.25, 3.0625, 0.75, 2.5, 1.5])
    series(folder, modality="PT", slope=[0.5, 1.25, 4.0, 0.75, 2.5, 1.5], drop=[0, 1, 3, 4, 5])
    return []


@defect("one SOP Instance UID in all files", ["regular 6"])
def _(folder: Path) -> list[Part]:
    return [series(folder, tell=lambda _, z: {"SOPInstanceUID": uid("the one", folder.name)})]


@defect(
    "a slice twice, different, under one SOP Instance UID",
    ["duplicates 7"],
    duplicates={"repeated_positions": 1, "pixels": "different"},
)
def _(folder: Path) -> list[Part]:
    tell: Tell = lambda _, z: {"SOPInstanceUID": uid(folder.name, z)}
    series(folder, tell=tell)
    series(folder, 1, tell=tell, drop=[0, 1, 3, 4, 5])
    return []


@defect("empty slices at different positions are no copies", ["regular 6"])
def _(folder: Path) -> list[Part]:
    return [series(folder, stored=np.zeros(SHAPE, int), truth={"slope": 0})]


@defect(
    "a slice thrice: two equal, one different",
    ["duplicates 7"],
    copies=1,
    duplicates={"repeated_positions": 1},
)
def _(folder: Path) -> list[Part]:
    series(folder, repeat=[2])
    series(folder, 1, drop=[0, 1, 3, 4, 5])
    return []


@defect(
    "a missing slice, and its neighbour twice",
    ["missing_slices 5"],
    copies=1,
    missing_slices={"missing": 1, "missing_after": [1]},
)
def _(folder: Path) -> list[Part]:
    series(folder, drop=[2], repeat=[3])
    return []


@defect("one position for all frames of a multi-frame CT", ["no_geometry 6"])
def _(folder: Path) -> list[Part]:
    def frames(dataset: Dataset, _: int) -> None:
        dataset.NumberOfFrames, dataset.SpacingBetweenSlices = 6, "0.3"
        dataset.PixelData = np.arange(6 * 5 * 7, dtype="<u2").tobytes()

    write_series(folder, shape=(1, *SHAPE[1:]), series_uid=series_uid(folder), edit=frames)
    return []


@defect("no position, and a file twice", ["no_geometry 6"], copies=1)
def _(folder: Path) -> list[Part]:
    series(folder, names="ordered", tell=lambda _, z: {"ImagePositionPatient": None})
    shutil.copy(folder / "slice0001a.dcm", folder / "again.dcm")
    return []


@defect(
    "uneven spacing",
    ["uneven_spacing 6"],
    uneven_spacing={"smallest_gap": 1.5, "median_gap": 2.0, "largest_gap": 2.5},
)
def _(folder: Path) -> list[Part]:
    series(folder, positions=[[0, 0, z] for z in (0, 2, 4.5, 6, 8, 10)])
    return []


@defect("positions of 0.625 mm slices written with one decimal", ["regular 20"])
def _(folder: Path) -> list[Part]:
    positions = [[0, 0, round(0.625 * z, 1)] for z in range(20)]
    part = series(folder, shape=(20, 5, 7), spacing=(0.625, 1, 1), positions=positions)
    return [dataclasses.replace(part, tolerance_mm=0.1)]


@defect(
    "a slice of another size",
    ["missing_slices 5", "single 1"],
    missing_slices={"missing": 1, "missing_after": [2]},
)
def _(folder: Path) -> list[Part]:
    series(folder, drop=[3])
    return [series(folder, 1, shape=(1, 4, 7), origin=(0, 0, 6))]


@defect("a last slice of another size", ["regular 5", "single 1"])
def _(folder: Path) -> list[Part]:
    return [series(folder, drop=[5]), series(folder, 1, shape=(1, 4, 7), origin=(0, 0, 10))]


@defect("no instance number", ["regular 6"])
def _(folder: Path) -> list[Part]:
    return [series(folder, tell=lambda _, z: {"InstanceNumber": None})]


@defect("all instance numbers equal", ["regular 6"])
def _(folder: Path) -> list[Part]:
    return [series(folder, numbers=[1] * 6)]


@defect("sagittal slices numbered against their normal", ["regular 6"])
def _(folder: Path) -> list[Part]:
    return [series(folder, orientation=SAGITTAL, numbers=[6, 5, 4, 3, 2, 1])]


@defect("image type that varies along the slices", ["regular 6"])
def _(folder: Path) -> list[Part]:
    return [
        series(
            folder,
            tell=lambda _, z: {
                "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", *(["HELIX"] if z % 2 else [])]
            },
        )
    ]


@defect("acquisitions that follow each other along the slices", ["regular 6"])
def _(folder: Path) -> list[Part]:
    return [
        series(
            folder,
            tell=lambda _, z: {
                "AcquisitionNumber": 1 + z // 2,
                "AcquisitionTime": clock(3 * (z // 2)),
            },
        )
    ]


@defect(
    "two phase slices that complete the grid of the magnitude slices",
    ["regular 6"],
    regular={
        "varies": ["image_type"],
        "mixed": {"image_type": {"ORIGINAL\\PRIMARY\\M": 4, "ORIGINAL\\PRIMARY\\P": 2}},
    },
)
def _(folder: Path) -> list[Part]:
    return [
        series(
            folder,
            modality="MR",
            tell=lambda _, z: {"ImageType": ["ORIGINAL", "PRIMARY", "P" if z > 3 else "M"]},
        )
    ]


@defect("two kernels, one after the other along the slices", ["regular 3", "regular 3"])
def _(folder: Path) -> list[Part]:
    return [
        series(folder, n, drop=drop, tell=lambda n, z: {"ConvolutionKernel": ["B30f", "B60f"][n]})
        for n, drop in enumerate(([3, 4, 5], [0, 1, 2]))
    ]


@defect("magnitude and phase, slice about slice", ["regular 3", "regular 3"])
def _(folder: Path) -> list[Part]:
    return [
        series(
            folder,
            n,
            drop=drop,
            modality="MR",
            tell=lambda n, z: {"ImageType": ["ORIGINAL", "PRIMARY", "MP"[n]]},
        )
        for n, drop in enumerate(([1, 3, 5], [0, 2, 4]))
    ]


@defect(
    "three contrasts, one of them further on, and a count at each position",
    ["regular 4", "regular 4", "regular 4"],
    {"echo_time": [14, 108]},
)
def _(folder: Path) -> list[Part]:
    def tell(number: int, z: int) -> Facts:
        # The last contrast is the first at the two positions that the others do not reach.
        count = 1 if number == 2 and z > 3 else number + 1
        return {"EchoTime": [14, 108, 30][number], "TemporalPositionIdentifier": count}

    drops = ([4, 5], [4, 5], [0, 1])
    return [series(folder, n, drop=drop, modality="MR", tell=tell) for n, drop in enumerate(drops)]


@defect(
    "an enhanced file of three frame types, one of them further on, and an index that counts",
    ["regular 4", "regular 4", "regular 4"],
    {"frame_type": UNCHECKED},
)
def _(folder: Path) -> list[Part]:
    kinds = ("T1", "T2", "POST_CONTRAST")

    def content(number: int, z: int) -> Facts:
        count = 1 if number == 2 and z > 3 else number + 1
        return {"DimensionIndexValues": [1, z + 1, count], "FrameType": kinds[number]}

    return enhanced(folder, 3, content, only=lambda n, z: z > 1 if n == 2 else z < 4)


# --------------------------------------------------------------------------------------------------
# geometry


@defect("gantry tilt", ["tilted 6"], tilted={"tilt_deg": 14.0362})
def _(folder: Path) -> list[Part]:
    return [series(folder, shear=(0, 0.5), tell=lambda _, z: {"GantryDetectorTilt": 14.0362})]


@defect(
    "gantry tilt that GantryDetectorTilt does not tell", ["tilted 6"], tilted={"tilt_deg": 14.0362}
)
def _(folder: Path) -> list[Part]:
    return [series(folder, shear=(0, 0.5))]


def rounded_x(z: int) -> list[str]:
    """The true x is 10.005: with two decimals, each slice has one of its neighbours."""
    return [("10.00", "10.01")[z in (3, 5)], "0", decimals([0.5 * z])[0]]


@defect("positions with two decimals, half a millimetre apart", ["regular 6"])
def _(folder: Path) -> list[Part]:
    near = {"spacing": (0.5, 1, 1), "origin": (10.005, 0, 0)}
    tell: Tell = lambda _, z: {"ImagePositionPatient": rounded_x(z)}
    return [series(folder, tell=tell, **near)]


@defect("enhanced: positions with two decimals, half a millimetre apart", ["regular 6"])
def _(folder: Path) -> list[Part]:
    near = {"spacing": (0.5, 1, 1), "origin": (10.005, 0, 0)}
    content: Tell = lambda _, z: {
        "InStackPositionNumber": z + 1,
        "ImagePositionPatient": [float(text) for text in rounded_x(z)],
    }
    return enhanced(folder, 1, content, **near)


@defect(
    "time points whose positions are rounded anew, half a millimetre apart",
    ["regular 6"] * 3,
    {"temporal_position_identifier": (1, 2, 3)},
)
def _(folder: Path) -> list[Part]:
    near = {"spacing": (0.5, 1, 1), "origin": (10.005, 0, 0)}

    def tell(n: int, z: int) -> Facts:
        x = ("10.00", "10.01")[(z * (n + 1)) % 7 > 2]
        return {
            "TemporalPositionIdentifier": n + 1,
            "ImagePositionPatient": [x, *rounded_x(z)[1:]],
        }

    return parts(folder, 3, tell, modality="MR", **near)


@defect("GantryDetectorTilt without a tilt", ["regular 6"])
def _(folder: Path) -> list[Part]:
    return [series(folder, tell=lambda _, z: {"GantryDetectorTilt": 14.0})]


@defect("orientation that jitters by 1e-5", ["regular 6"])
def _(folder: Path) -> list[Part]:
    jitter = ("0", "0.00001", "-0.00001", "1e-5", "0.0", "-1e-5")
    return [
        series(
            folder,
            tell=lambda _, z: {
                "ImageOrientationPatient": verbatim(
                    "1", jitter[z], "0.0", jitter[-z], "1.00000", jitter[z]
                )
            },
        )
    ]


@defect("decimal strings of 18 characters", ["regular 6"])
def _(folder: Path) -> list[Part]:
    origin = (-123.4567890123456, 77.12345678901234, -100.0000000000001)
    positions = true_positions(6, (2.0, 1, 1), origin)
    return [
        series(
            folder,
            origin=origin,
            tell=lambda _, z: {
                "ImagePositionPatient": verbatim(*(f"{p:.17f}"[:18] for p in positions[z]))
            },
        )
    ]


@defect("pixel spacing written with fewer digits in some slices", ["regular 6"])
def _(folder: Path) -> list[Part]:
    spacing = (2.0, 0.9765625, 0.9765625)
    return [
        series(
            folder,
            spacing=spacing,
            tell=lambda _, z: {"PixelSpacing": verbatim(*[("0.9765625", "0.97656")[z % 2]] * 2)},
        )
    ]


@defect("two fields of view side by side (knees)", ["regular 6", "regular 6"])
def _(folder: Path) -> list[Part]:
    return [series(folder, n, origin=(100 * n, 0, 0)) for n in range(2)]


@defect("three stacks of their own angle (spine)", ["regular 3"] * 3)
def _(folder: Path) -> list[Part]:
    angles = np.deg2rad([-8, 0, 8])
    return [
        series(
            folder,
            n,
            shape=(3, 5, 7),
            origin=(0, 0, 30 * n),
            orientation=(1, 0, 0, 0, float(np.cos(a)), float(np.sin(a))),
        )
        for n, a in enumerate(angles)
    ]


@defect("axial and sagittal slices in one series", ["regular 6", "regular 6"])
def _(folder: Path) -> list[Part]:
    return [series(folder, 0), series(folder, 1, orientation=SAGITTAL)]


@defect("two series in a folder, their files interleaved", ["regular 6", "regular 6"])
def _(folder: Path) -> list[Part]:
    return [series(folder, n, series_uid=uid(folder.name, n)) for n in range(2)]


@defect("two frames of reference", ["regular 6", "regular 6"])
def _(folder: Path) -> list[Part]:
    return [series(folder, n, frame_of_reference=uid("frame of reference", n)) for n in range(2)]


@defect("a frame of reference per slice", ["regular 6"], regular={"frames_of_reference": 6})
def _(folder: Path) -> list[Part]:
    return [series(folder, tell=lambda n, z: {"FrameOfReferenceUID": uid("slice", z)})]


@defect(
    "a frame of reference and a study per slice, one missing",
    ["missing_slices 5"],
    missing_slices={"frames_of_reference": 5, "studies": 5, "missing_after": [1]},
)
def _(folder: Path) -> list[Part]:
    tell: Tell = lambda n, z: {
        "FrameOfReferenceUID": uid("slice", z),
        "StudyInstanceUID": uid("study of a slice", z),
    }
    series(folder, tell=tell, drop=[2])
    return []


@defect("a blank frame of reference in some slices", ["regular 6"])
def _(folder: Path) -> list[Part]:
    tell: Tell = lambda n, z: {"FrameOfReferenceUID": (None, "", uid("one frame"))[z % 3]}
    return [series(folder, tell=tell)]


@defect("echoes with a frame of reference per slice", ["regular 6"] * 2, {"echo_time": (5, 10)})
def _(folder: Path) -> list[Part]:
    return parts(
        folder,
        2,
        lambda n, z: {"EchoTime": (5, 10)[n], "FrameOfReferenceUID": uid("slice", n, z)},
        modality="MR",
    )


@defect("time points with a frame of reference each", ["regular 6"] * 3)
def _(folder: Path) -> list[Part]:
    return parts(
        folder,
        3,
        lambda n, z: {"TemporalPositionIdentifier": n + 1, "FrameOfReferenceUID": uid("time", n)},
        modality="MR",
    )


@defect("two frames of reference whose slices interleave", ["regular 6"] * 2)
def _(folder: Path) -> list[Part]:
    return [
        series(
            folder,
            n,
            origin=(0, 0, n),
            frame_of_reference=uid("frame of reference", n),
        )
        for n in range(2)
    ]


@defect("two frames of reference, one behind the other, and a slice without one", ["regular 6"] * 2)
def _(folder: Path) -> list[Part]:
    def tell(n: int, z: int) -> Facts:
        return {"FrameOfReferenceUID": None if (n, z) == (1, 5) else uid("frame of reference", n)}

    return [series(folder, n, origin=(0, 0, 12 * n), tell=tell) for n in range(2)]


@defect("a localizer of another orientation", ["regular 6", "single 1"])
def _(folder: Path) -> list[Part]:
    return [
        series(folder, 0),
        series(folder, 1, shape=(1, 5, 7), orientation=SAGITTAL, tell=localizer),
    ]


@defect("a localizer at the place of a slice", ["regular 6", "single 1"])
def _(folder: Path) -> list[Part]:
    return [series(folder, 0), series(folder, 1, shape=(1, 5, 7), origin=(0, 0, 6), tell=localizer)]


@defect("a localizer where a next slice would be", ["regular 6", "single 1"])
def _(folder: Path) -> list[Part]:
    return [
        series(folder, 0),
        series(folder, 1, shape=(1, 5, 7), origin=(0, 0, 12), tell=localizer),
    ]


@defect("a localizer between the slices", ["regular 6", "single 1"])
def _(folder: Path) -> list[Part]:
    return [series(folder, 0), series(folder, 1, shape=(1, 5, 7), origin=(0, 0, 5), tell=localizer)]


@defect("a derived secondary image at the place of a slice", ["regular 6", "single 1"])
def _(folder: Path) -> list[Part]:
    derived: Tell = lambda _, z: {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}
    return [series(folder, 1, shape=(1, 5, 7), origin=(0, 0, 6), tell=derived), series(folder, 0)]


@defect("a derived secondary image where a next slice would be", ["regular 6", "single 1"])
def _(folder: Path) -> list[Part]:
    derived: Tell = lambda _, z: {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}
    return [series(folder, 0), series(folder, 1, shape=(1, 5, 7), origin=(0, 0, 12), tell=derived)]


def localizer(_: int, z: int) -> Facts:
    return {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}


@defect("one slice without a position", ["no_geometry 1", "regular 5"])
def _(folder: Path) -> list[Part]:
    series(folder, 1, drop=range(5), tell=lambda _, z: {"ImagePositionPatient": None})
    return [series(folder, drop=[5])]


@defect("orientation 0.5 % off unit length", ["regular 6"])
def _(folder: Path) -> list[Part]:
    return [
        series(
            folder,
            tell=lambda _, z: {"ImageOrientationPatient": decimals([1.005, 0, 0, 0, 0.996, 0])},
        )
    ]


@defect("orientation 0.5 % off the right angle", ["regular 6"])
def _(folder: Path) -> list[Part]:
    return [
        series(
            folder,
            tell=lambda _, z: {"ImageOrientationPatient": decimals([1, 0, 0, 0.005, 0.9999875, 0])},
        )
    ]


UNUSABLE: Final[Sequence[tuple[str, str, Callable[[int], list[DSfloat] | None]]]] = [
    ("no position", "ImagePositionPatient", lambda z: None),
    ("infinite positions", "ImagePositionPatient", lambda z: verbatim("0", "0", "inf")),
    (
        "positions a thousand km away",
        "ImagePositionPatient",
        lambda z: verbatim("1e9", "0", str(2 * z)),
    ),
    ("no orientation", "ImageOrientationPatient", lambda z: None),
    (
        "orientation 5 % off unit length",
        "ImageOrientationPatient",
        lambda z: decimals([1.05, 0, 0, 0, 1, 0]),
    ),
    (
        "orientation 5 % off the right angle",
        "ImageOrientationPatient",
        lambda z: decimals([1, 0, 0, 0.05, 0.99875, 0]),
    ),
    ("orientation zero", "ImageOrientationPatient", lambda z: decimals([0] * 6)),
    ("PixelSpacing NaN", "PixelSpacing", lambda z: verbatim("nan", "1")),
    ("PixelSpacing zero", "PixelSpacing", lambda z: verbatim("0", "0")),
    ("PixelSpacing negative", "PixelSpacing", lambda z: verbatim("1", "-1")),
    ("PixelSpacing absurd", "PixelSpacing", lambda z: verbatim("1e6", "1e6")),
]


def _enter_unusable(name: str, keyword: str, value: Callable[[int], list[DSfloat] | None]) -> None:
    @defect(name, ["no_geometry 6"], no_geometry={"why": lambda why: keyword in why})
    def _(folder: Path) -> list[Part]:
        series(folder, tell=lambda _, z: {keyword: value(z)})
        return []


for row in UNUSABLE:
    _enter_unusable(*row)


# --------------------------------------------------------------------------------------------------
# time


THREE: Final = ["regular 6"] * 3
RISING_SECONDS: Final = 30 * np.arange(3)[:, None] + 2 * np.arange(6)
PAIR: Final = ["regular 6"] * 2


def temporal_position(n: int, z: int) -> Facts:
    return {"TemporalPositionIdentifier": n + 1}


@defect(
    "time points in order, told by TemporalPositionIdentifier",
    THREE,
    {"temporal_position_identifier": (1, 2, 3)},
)
def _(folder: Path) -> list[Part]:
    return parts(folder, 3, temporal_position, "part by part", modality="MR")


@defect(
    "time points interleaved, told by TemporalPositionIdentifier",
    THREE,
    {"temporal_position_identifier": (1, 2, 3)},
)
def _(folder: Path) -> list[Part]:
    return parts(folder, 3, temporal_position, "slice by slice", modality="MR")


@defect("time points in order, told by AcquisitionNumber", THREE, {"acquisition_number": (1, 2, 3)})
def _(folder: Path) -> list[Part]:
    return parts(folder, 3, lambda n, z: {"AcquisitionNumber": n + 1}, "part by part")


@defect(
    "time points interleaved, told by AcquisitionNumber", THREE, {"acquisition_number": (1, 2, 3)}
)
def _(folder: Path) -> list[Part]:
    return parts(folder, 3, lambda n, z: {"AcquisitionNumber": n + 1}, "slice by slice")


@defect(
    "more time points than slices, told by AcquisitionNumber",
    ["regular 3"] * 9,
    {"acquisition_number": tuple(range(1, 10))},
)
def _(folder: Path) -> list[Part]:
    return parts(folder, 9, lambda n, z: {"AcquisitionNumber": n + 1}, "absent", shape=(3, 5, 7))


@defect(
    "time points told only by acquisition time, one a volume",
    THREE,
    {"acquisition_time": (0, 30, 60)},
)
def _(folder: Path) -> list[Part]:
    return parts(folder, 3, lambda n, z: {"AcquisitionTime": clock(30 * n)})


@defect(
    "time points told only by acquisition time that rises over the whole scan",
    THREE,
    {"acquisition_time": (0, 30, 60)},
)
def _(folder: Path) -> list[Part]:
    return parts(folder, 3, lambda n, z: {"AcquisitionTime": clock(30 * n + 2.5 * z)})


@defect(
    "time points told only by acquisition time, slices acquired odd ones first",
    THREE,
    {"acquisition_time": (0, 30, 60)},
)
def _(folder: Path) -> list[Part]:
    return parts(
        folder, 3, lambda n, z: {"AcquisitionTime": clock(30 * n + 4 * ((z + 1) % 2 * 3 + z // 2))}
    )


@defect(
    "time points by acquisition time, odd slices first, without a pause: any cut would look whole",
    None,
)
def _(folder: Path) -> list[Part]:
    return parts(
        folder, 3, lambda n, z: {"AcquisitionTime": clock(30 * n + 5 * ((z + 1) % 2 * 3 + z // 2))}
    )


@defect(
    "time points told only by acquisition time that rises slice after slice (cine CT)",
    THREE,
    {"acquisition_time": (0, 3, 6)},
)
def _(folder: Path) -> list[Part]:
    return parts(folder, 3, lambda n, z: {"AcquisitionTime": clock(9 * z + 3 * n)})


@defect(
    "time points told only by acquisition time, no instance number",
    THREE,
    {"acquisition_time": (0, 30, 60)},
)
def _(folder: Path) -> list[Part]:
    return parts(folder, 3, lambda n, z: {"AcquisitionTime": clock(30 * n + 2.5 * z)}, "absent")


@defect("time points told only by content time", THREE, {"content_time": (0, 30, 60)})
def _(folder: Path) -> list[Part]:
    return parts(folder, 3, lambda n, z: {"ContentTime": clock(30 * n + 2.5 * z)})


@defect("time points told only by AcquisitionDateTime", THREE, {"acquisition_time": (0, 30, 60)})
def _(folder: Path) -> list[Part]:
    return parts(folder, 3, lambda n, z: {"AcquisitionDateTime": "20200101" + clock(30 * n)})


@defect("midnight passes between time points", THREE, {"acquisition_time": (0, 30, 60)})
def _(folder: Path) -> list[Part]:
    times = (("20200131", "235945"), ("20200201", "000015"), ("20200201", "000045"))
    return parts(
        folder, 3, lambda n, z: {"AcquisitionDate": times[n][0], "AcquisitionTime": times[n][1]}
    )


@defect(
    "midnight passes between time points without a date", THREE, {"acquisition_time": (0, 30, 60)}
)
def _(folder: Path) -> list[Part]:
    return parts(
        folder,
        3,
        lambda n, z: {"AcquisitionTime": ("235945", "000015", "000045")[n]},
        "part by part",
    )


@defect("midnight passes within the first time point without a date", None)
def _(folder: Path) -> list[Part]:
    times = [
        [f"{seconds // 3600 % 24:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}" for seconds in row]
        for row in 86395 + RISING_SECONDS
    ]
    return parts(folder, 3, lambda n, z: {"AcquisitionTime": times[n][z]})


@defect(
    "AcquisitionDate only from the second time point on",
    THREE,
    {"acquisition_time": [lambda seconds: 0 <= seconds <= 60] * 3},
)
def _(folder: Path) -> list[Part]:
    """No value that is shown contains a date."""
    return parts(
        folder,
        3,
        lambda n, z: {
            "AcquisitionTime": clock(30 * n),
            **({"AcquisitionDate": "20200131"} if n else {}),
        },
    )


@defect("midnight passes in AcquisitionDateTime", THREE, {"acquisition_time": (0, 30, 60)})
def _(folder: Path) -> list[Part]:
    times = ("20200131235945.5", "20200201000015.5", "20200201000045.5")
    return parts(folder, 3, lambda n, z: {"AcquisitionDateTime": times[n]})


@defect(
    "heart phases told by a trigger time that jitters per slice (cine)",
    THREE,
    {"trigger_time": UNCHECKED},
)
def _(folder: Path) -> list[Part]:
    return parts(
        folder,
        3,
        lambda n, z: {"TriggerTime": decimals([5 + n * (40 + 0.7 * z) + z % 3])[0]},
        modality="MR",
    )


@defect(
    "time points of a triggered scan: delays that jitter tell nothing",
    THREE,
    {"acquisition_time": (0, 30, 60)},
)
def _(folder: Path) -> list[Part]:
    """First-pass perfusion: each slice has its own delay after the R wave in every heart beat."""
    jitter = np.random.default_rng(2).permutation(18).reshape(3, 6)
    return parts(
        folder,
        3,
        lambda n, z: {
            "AcquisitionTime": clock(30 * n),
            "TriggerTime": decimals([100 * z + 0.5 * jitter[n, z]])[0],
        },
        modality="MR",
    )


@defect("time points of a triggered scan, rising acquisition time, delays that jitter", None)
def _(folder: Path) -> list[Part]:
    jitter = np.random.default_rng(2).permutation(18).reshape(3, 6)
    return parts(
        folder,
        3,
        lambda n, z: {
            "AcquisitionTime": clock(30 * n + 2.5 * z),
            "TriggerTime": decimals([100 * z + 0.5 * jitter[n, z]])[0],
        },
        modality="MR",
    )


@defect("time points of a triggered scan, told by nothing but delays that jitter", None)
def _(folder: Path) -> list[Part]:
    jitter = np.random.default_rng(2).permutation(18).reshape(3, 6)
    return parts(
        folder,
        3,
        lambda n, z: {"TriggerTime": decimals([100 * z + 0.5 * jitter[n, z]])[0]},
        modality="MR",
    )


@defect(
    "heart phases x magnitude and velocity, jittering",
    ["regular 6"] * 6,
    {"trigger_time": UNCHECKED, "image_type": UNCHECKED},
)
def _(folder: Path) -> list[Part]:
    def tell(n: int, z: int) -> Facts:
        return {
            "TriggerTime": decimals([5 + n // 2 * (40 + 0.7 * z) + z % 3])[0],
            "ImageType": ["ORIGINAL", "PRIMARY", "MP"[n % 2], "RETRO"],
        }

    return parts(folder, 6, tell, modality="MR")


@defect("a cine that lacks one phase of one slice", None)
def _(folder: Path) -> list[Part]:
    tell: Tell = lambda n, z: {"TriggerTime": decimals([5 + n * (40 + 0.7 * z) + z % 3])[0]}
    first, second, third = parts(folder, 3, tell, modality="MR")
    unlink(folder, MARK, 3)
    return [first, dataclasses.replace(second, slices=(0, 1, 2, 4, 5)), third]


@defect("one slice at three heart phases", ["single 1"] * 3, {"trigger_time": (0, 40, 80)})
def _(folder: Path) -> list[Part]:
    return parts(folder, 3, lambda n, z: {"TriggerTime": 40 * n}, shape=(1, 5, 7), modality="MR")


@defect(
    "one slice thrice, told by instance number only",
    ["duplicates 3"],
    duplicates={"pixels": "different"},
)
def _(folder: Path) -> list[Part]:
    parts(folder, 3, lambda n, z: {}, "part by part", shape=(1, 5, 7))
    return []


@defect("gates of a PET of two beds", PAIR, {"trigger_time": (0, 500)})
def _(folder: Path) -> list[Part]:
    return parts(
        folder,
        2,
        lambda n, z: {"TriggerTime": 500 * n, "FrameReferenceTime": 60000 * (z // 3)},
        modality="PT",
    )


@defect(
    "time points told by instance number only, volume after volume",
    THREE,
    {"instance_number": UNCHECKED},
)
def _(folder: Path) -> list[Part]:
    return parts(folder, 3, lambda n, z: {}, "part by part")


@defect(
    "time points told by instance number only, slice after slice",
    THREE,
    {"instance_number": UNCHECKED},
)
def _(folder: Path) -> list[Part]:
    return parts(folder, 3, lambda n, z: {}, "slice by slice")


@defect(
    "time points told by instance number only, against the normal",
    THREE,
    {"instance_number": UNCHECKED},
)
def _(folder: Path) -> list[Part]:
    return [series(folder, n, numbers=[6 * n + 6 - z for z in range(6)]) for n in range(3)]


@defect(
    "time points with shuffled content times", THREE, {"temporal_position_identifier": (1, 2, 3)}
)
def _(folder: Path) -> list[Part]:
    times = np.random.default_rng(5).permutation(18).reshape(3, 6)
    return parts(
        folder,
        3,
        lambda n, z: {**temporal_position(n, z), "ContentTime": clock(int(times[n, z]))},
        modality="MR",
    )


@defect("time points of equal pixels are no copies", PAIR, {"temporal_position_identifier": (1, 2)})
def _(folder: Path) -> list[Part]:
    return [series(folder, n, tell=temporal_position, modality="MR", offset=0) for n in range(2)]


@defect(
    "time points whose positions differ by rounding",
    THREE,
    {"temporal_position_identifier": (1, 2, 3)},
)
def _(folder: Path) -> list[Part]:
    return [
        series(
            folder,
            n,
            tell=temporal_position,
            modality="MR",
            positions=[[0, 0, 2 * z + 0.003 * (n - 1)] for z in range(6)],
        )
        for n in range(3)
    ]


@defect(
    "time points of a tilted gantry",
    ["tilted 6"] * 3,
    {"acquisition_number": (1, 2, 3)},
    tilted={"tilt_deg": 14.0362},
)
def _(folder: Path) -> list[Part]:
    return parts(folder, 3, lambda n, z: {"AcquisitionNumber": n + 1}, shear=(0, 0.5))


@defect(
    "time points of a PET, every slice of its own slope",
    THREE,
    {"frame_reference_time": (1000, 2000, 3000)},
)
def _(folder: Path) -> list[Part]:
    slopes = [[1 + n + 0.125 * z for z in range(6)] for n in range(3)]
    return [
        series(
            folder,
            n,
            modality="PT",
            slope=slopes[n],
            tell=lambda n, z: {"FrameReferenceTime": 1000 * (n + 1)},
        )
        for n in range(3)
    ]


@defect("time points of a PET told by ImageIndex only", THREE, {"image_index": UNCHECKED})
def _(folder: Path) -> list[Part]:
    return parts(folder, 3, lambda n, z: {"ImageIndex": 6 * n + z + 1}, "absent", modality="PT")


@defect(
    "time points, every file twice", THREE, {"temporal_position_identifier": (1, 2, 3)}, copies=18
)
def _(folder: Path) -> list[Part]:
    made = [
        series(
            folder / "first",
            n,
            series_uid=series_uid(folder),
            tell=temporal_position,
            modality="MR",
        )
        for n in range(3)
    ]
    shutil.copytree(folder / "first", folder / "second")
    return made


@defect(
    "time points, every slice twice under a new SOP Instance UID",
    THREE,
    {"temporal_position_identifier": (1, 2, 3)},
    copies=18,
)
def _(folder: Path) -> list[Part]:
    return parts(folder, 3, temporal_position, "part by part", modality="MR", repeat=range(6))


@defect(
    "time points, one slice of the second sent twice",
    THREE,
    {"temporal_position_identifier": (1, 2, 3)},
    copies=1,
)
def _(folder: Path) -> list[Part]:
    return [
        series(folder, n, tell=temporal_position, modality="MR", repeat=[2] if n == 1 else [])
        for n in range(3)
    ]


@defect(
    "time points, one slice of the second twice and different",
    None,
    {"temporal_position_identifier": UNCHECKED},
)
def _(folder: Path) -> list[Part]:
    made = parts(folder, 3, temporal_position, modality="MR")
    series(folder, 1, tell=temporal_position, modality="MR", offset=3 * MARK, drop=[0, 1, 3, 4, 5])
    return made


@defect(
    "one time point short",
    ["regular 4", "regular 6", "regular 6"],
    {"temporal_position_identifier": (1, 2, 3)},
    missing={2: [4, 5]},
)
def _(folder: Path) -> list[Part]:
    return parts(folder, 3, temporal_position, last={"drop": [4, 5]}, modality="MR")


@defect(
    "one time point with a hole",
    ["missing_slices 5", "regular 6", "regular 6"],
    {"temporal_position_identifier": (1, 2, 3)},
    missing={2: [2]},
    missing_slices={"missing": 1, "missing_after": [1]},
)
def _(folder: Path) -> list[Part]:
    return parts(folder, 3, temporal_position, last={"drop": [2]}, modality="MR")[:2]


@defect(
    "one time point short, told by acquisition time",
    ["regular 4", "regular 6", "regular 6"],
    {"acquisition_time": (0, 30, 60)},
    missing={2: [4, 5]},
)
def _(folder: Path) -> list[Part]:
    return parts(folder, 3, lambda n, z: {"AcquisitionTime": clock(30 * n)}, last={"drop": [4, 5]})


@defect(
    "one time point short, told by rising acquisition time",
    ["regular 4", "regular 6", "regular 6"],
    {"acquisition_time": UNCHECKED},
    missing={2: [4, 5]},
)
def _(folder: Path) -> list[Part]:
    return parts(
        folder, 3, lambda n, z: {"AcquisitionTime": clock(30 * n + 2.5 * z)}, last={"drop": [4, 5]}
    )


@defect(
    "one time point short, told by instance number",
    ["regular 4", "regular 6", "regular 6"],
    {"instance_number": UNCHECKED},
    missing={2: [4, 5]},
)
def _(folder: Path) -> list[Part]:
    return parts(folder, 3, lambda n, z: {}, "part by part", last={"drop": [4, 5]})


@defect(
    "one time point short and a slice twice",
    ["regular 4", "regular 6", "regular 6"],
    {"temporal_position_identifier": (1, 2, 3)},
    missing={2: [4, 5]},
    copies=1,
)
def _(folder: Path) -> list[Part]:
    return parts(folder, 3, temporal_position, last={"drop": [4, 5], "repeat": [1]}, modality="MR")


@defect(
    "the first time point short",
    ["regular 4", "regular 6", "regular 6"],
    {"temporal_position_identifier": (1, 2, 3)},
    missing={0: [0, 1]},
)
def _(folder: Path) -> list[Part]:
    return [
        series(folder, n, tell=temporal_position, modality="MR", drop=[] if n else [0, 1])
        for n in range(3)
    ]


def _enter_lost_slice(name: str, number: int, tell: Tell, numbering: str) -> None:
    """Enter a defect in which all slices after a lost one move up.

    Chunks of one volume's length then mix two time points.
    """

    @defect(name, None)
    def _(folder: Path) -> list[Part]:
        made = parts(folder, 3, tell, numbering)
        unlink(folder, MARK * number, 0)
        return [
            dataclasses.replace(part, slices=(1, 2, 3, 4, 5)) if n == number else part
            for n, part in enumerate(made)
        ]


RISING: Final[Mapping[str, tuple[Tell, str]]] = {
    "rising acquisition time": (
        lambda n, z: {"AcquisitionTime": clock(30 * n + 2.5 * z)},
        "shuffled",
    ),
    "acquisition time that rises without a pause": (
        lambda n, z: {"AcquisitionTime": clock(15 * n + 2.5 * z)},
        "shuffled",
    ),
    "rising content time": (lambda n, z: {"ContentTime": clock(30 * n + 2.5 * z)}, "absent"),
    "instance number": (lambda n, z: {}, "part by part"),
    "instance number slice by slice": (lambda n, z: {}, "slice by slice"),
}
for number, which in enumerate(("first", "second")):
    for how, (tell, numbering) in RISING.items():
        _enter_lost_slice(
            f"the first slice of the {which} time point lost, told by {how}",
            number,
            tell,
            numbering,
        )


def unlink(folder: Path, mark: int, z: int) -> None:
    """Remove the file of `parts` that holds slice z of the part with this mark."""
    (lost,) = [
        path for path in folder.iterdir() if int(dcmread(path).pixel_array[0, 0]) == mark + 53 * z
    ]
    lost.unlink()


@defect("every position lacks another one of three time points", None)
def _(folder: Path) -> list[Part]:
    return [
        series(
            folder,
            n,
            tell=temporal_position,
            modality="MR",
            numbers=range(6 * n + 1, 6 * n + 7),
            drop=[z for z in range(6) if z % 3 == n],
        )
        for n in range(3)
    ]


@defect("AcquisitionNumber that counts on from slice to slice", None)
def _(folder: Path) -> list[Part]:
    return parts(folder, 3, lambda n, z: {"AcquisitionNumber": 6 * n + z}, "absent")


@defect("two acquisitions that overlap", PAIR)
def _(folder: Path) -> list[Part]:
    tell: Tell = lambda n, z: {"AcquisitionNumber": n + 1}
    return [series(folder, 0, tell=tell), series(folder, 1, tell=tell, origin=(0, 0, 8))]


# --------------------------------------------------------------------------------------------------
# other dimensions


@defect("echoes", THREE, {"echo_time": (4.9, 9.8, 14.7)})
def _(folder: Path) -> list[Part]:
    return parts(folder, 3, lambda n, z: {"EchoTime": decimals([4.9 * (n + 1)])[0]}, modality="MR")


@defect("echoes with EchoNumbers and an acquisition time each", PAIR, {"echo_time": (4.9, 9.8)})
def _(folder: Path) -> list[Part]:
    times: Tell = lambda n, z: {"AcquisitionTime": clock(2 * z + 0.005 * n)}
    return parts(
        folder,
        2,
        lambda n, z: {
            "EchoTime": decimals([4.9 * (n + 1)])[0],
            "EchoNumbers": n + 1,
            **times(n, z),
        },
        "part by part",
        modality="MR",
    )


@defect(
    "echoes x time points",
    ["regular 6"] * 6,
    {
        "temporal_position_identifier": (1, 1, 2, 2, 3, 3),
        "echo_time": (4.9, 9.8, 4.9, 9.8, 4.9, 9.8),
    },
)
def _(folder: Path) -> list[Part]:
    return parts(
        folder,
        6,
        lambda n, z: {
            "TemporalPositionIdentifier": 1 + n // 2,
            "EchoTime": decimals([4.9 * (1 + n % 2)])[0],
        },
        modality="MR",
    )


@defect(
    "echoes x acquisition times",
    ["regular 6"] * 6,
    {"acquisition_time": (0, 0, 30, 30, 60, 60), "echo_time": (4.9, 9.8, 4.9, 9.8, 4.9, 9.8)},
)
def _(folder: Path) -> list[Part]:
    return parts(
        folder,
        6,
        lambda n, z: {
            "AcquisitionTime": clock(30 * (n // 2)),
            "EchoTime": decimals([4.9 * (1 + n % 2)])[0],
        },
        modality="MR",
    )


@defect(
    "echoes x rising acquisition times",
    ["regular 6"] * 6,
    {"acquisition_time": (0, 0, 30, 30, 60, 60), "echo_time": (4.9, 9.8, 4.9, 9.8, 4.9, 9.8)},
)
def _(folder: Path) -> list[Part]:
    def tell(n, z):
        return {
            "AcquisitionTime": clock(30 * (n // 2) + 2.5 * z),
            "EchoTime": decimals([4.9 * (1 + n % 2)])[0],
        }

    return parts(folder, 6, tell, modality="MR")


@defect(
    "echoes x time points, the last volume interrupted",
    ["regular 4", *["regular 6"] * 5],
    {
        "temporal_position_identifier": (1, 1, 2, 2, 3, 3),
        "echo_time": (4.9, 9.8, 4.9, 9.8, 4.9, 9.8),
    },
    missing={5: [4, 5]},
)
def _(folder: Path) -> list[Part]:
    def tell(n, z):
        return {
            "TemporalPositionIdentifier": 1 + n // 2,
            "EchoTime": decimals([4.9 * (1 + n % 2)])[0],
        }

    return parts(folder, 6, tell, last={"drop": [4, 5]}, modality="MR")


@defect(
    "echoes x time points, the last volume absent",
    ["regular 6"] * 5,
    {"temporal_position_identifier": (1, 1, 2, 2, 3), "echo_time": (4.9, 9.8, 4.9, 9.8, 4.9)},
)
def _(folder: Path) -> list[Part]:
    def tell(n, z):
        return {
            "TemporalPositionIdentifier": 1 + n // 2,
            "EchoTime": decimals([4.9 * (1 + n % 2)])[0],
        }

    return parts(folder, 5, tell, modality="MR")


@defect("two acquisitions that overlap off each other's grid", PAIR)
def _(folder: Path) -> list[Part]:
    tell: Tell = lambda n, z: {"AcquisitionNumber": n + 1}
    return [series(folder, 0, tell=tell), series(folder, 1, tell=tell, origin=(0, 0, 6.8))]


@defect("five stations, each overlapping the next one off its grid", ["regular 6"] * 5)
def _(folder: Path) -> list[Part]:
    tell: Tell = lambda n, z: {"AcquisitionNumber": n + 1}
    return [series(folder, n, tell=tell, origin=(0, 0, 8.7 * n)) for n in range(5)]


@defect("two stations that overlap by half a spacing", PAIR)
def _(folder: Path) -> list[Part]:
    tell: Tell = lambda n, z: {"AcquisitionNumber": n + 1}
    return [series(folder, n, tell=tell, origin=(0, 0, 9 * n)) for n in range(2)]


@defect("a head and a body, far apart and of different spacing", ["regular 6"] * 2)
def _(folder: Path) -> list[Part]:
    tell: Tell = lambda n, z: {"AcquisitionNumber": n + 1}
    return [
        series(folder, n, tell=tell, origin=(0, 0, 57 * n), spacing=(2.0 + 3 * n, 1, 1))
        for n in range(2)
    ]


def moved(folder: Path, tell: Tell, turn_deg: float = 0.0) -> list[Part]:
    """Write five volumes that follow a head, each `turn_deg` further about x.

    Instance numbers prove nothing.
    """
    numbers = np.random.default_rng(11).permutation(30).reshape(5, 6) + 1
    angles = np.deg2rad(turn_deg * np.arange(5))
    return [
        series(
            folder,
            n,
            tell=tell,
            modality="MR",
            numbers=numbers[n].tolist(),
            origin=(0.03 * n, -0.02 * n, 0.31 * n),
            orientation=(1, 0, 0, 0, float(np.cos(a)), float(np.sin(a))),
        )
        for n, a in enumerate(angles)
    ]


FIVE: Final = ["regular 6"] * 5


@defect(
    "volumes that follow the head, told by AcquisitionNumber",
    FIVE,
    {"acquisition_number": (1, 2, 3, 4, 5)},
    regular={"movement_mm": lambda mm: 0 <= mm < 1.3},
)
def _(folder: Path) -> list[Part]:
    return moved(folder, lambda n, z: {"AcquisitionNumber": n + 1})


@defect(
    "volumes that follow the head, told by rising acquisition time",
    FIVE,
    {"acquisition_time": UNCHECKED},
    regular={"movement_mm": lambda mm: 0 <= mm < 1.3},
)
def _(folder: Path) -> list[Part]:
    return moved(folder, lambda n, z: {"AcquisitionTime": clock(30 * n + 2.5 * z)})


@defect(
    "volumes that turn with the head, one acquisition time each",
    FIVE,
    {"acquisition_time": (0, 30, 60, 90, 120)},
)
def _(folder: Path) -> list[Part]:
    return moved(folder, lambda n, z: {"AcquisitionTime": clock(30 * n)}, turn_deg=0.5)


@defect(
    "b = 0 elsewhere, told by b-value and direction",
    FIVE,
    {"diffusion_b_value": UNCHECKED, "diffusion_gradient_orientation": UNCHECKED},
)
def _(folder: Path) -> list[Part]:
    def tell(n: int, z: int) -> Facts:
        b, axis = (0.0, 1000.0, 1000.0, 2000.0, 2000.0)[n], AXES[int(n in (2, 4))]
        return {"DiffusionBValue": b, "DiffusionGradientOrientation": axis}

    return [
        series(
            folder,
            n,
            tell=tell,
            modality="MR",
            origin=(0, 0, 3.51 * (n == 0)),
            # Directions are in the order of acquisition.
            numbers=list(range(6 * n + 1, 6 * n + 7)),
        )
        for n in range(5)
    ]


@defect(
    "one of four time points with a position twice, different",
    ["duplicates 7", *["regular 6"] * 3],
    {"temporal_position_identifier": (1, 2, 3, 4)},
    duplicates={"repeated_positions": 1, "pixels": "different"},
)
def _(folder: Path) -> list[Part]:
    tell: Tell = lambda n, z: {"TemporalPositionIdentifier": n % 4 + 1}
    made = [series(folder, n, tell=tell) for n in range(4)]
    series(folder, 4, tell=tell, drop=[0, 1, 3, 4, 5])
    return made[1:]


B_VALUES: Final = (0, 500, 1000)
# The order of acquisition: directions have no order of their own.
AXES: Final[list[list[float]]] = [
    [0, 1, 0],
    [1, 0, 0],
    [0, 0, 1],
]


@defect("b-values", THREE, {"diffusion_b_value": B_VALUES})
def _(folder: Path) -> list[Part]:
    return parts(folder, 3, lambda n, z: {"DiffusionBValue": float(B_VALUES[n])}, modality="MR")


@defect("b-values in Siemens's private attribute", THREE, {"diffusion_b_value": B_VALUES})
def _(folder: Path) -> list[Part]:
    return parts(
        folder,
        3,
        lambda n, z: {(0x0019, "SIEMENS MR HEADER", 0x0C, "IS"): B_VALUES[n]},
        modality="MR",
    )


@defect("b-values in GE's private attribute", THREE, {"diffusion_b_value": B_VALUES})
def _(folder: Path) -> list[Part]:
    return parts(
        folder,
        3,
        lambda n, z: {(0x0043, "GEMS_PARM_01", 0x39, "IS"): [B_VALUES[n], 8, 0, 0]},
        modality="MR",
    )


@defect(
    "b-values in GE's private attribute, a billion added", THREE, {"diffusion_b_value": B_VALUES}
)
def _(folder: Path) -> list[Part]:
    values = [b + (1_000_000_000 if b else 0) for b in B_VALUES]
    return parts(
        folder,
        3,
        lambda n, z: {(0x0043, "GEMS_PARM_01", 0x39, "IS"): [values[n], 8, 0, 0]},
        modality="MR",
    )


@defect("b-values in Philips's private attribute", THREE, {"diffusion_b_value": B_VALUES})
def _(folder: Path) -> list[Part]:
    return parts(
        folder,
        3,
        lambda n, z: {(0x2001, "Philips Imaging DD 001", 0x03, "FL"): float(B_VALUES[n])},
        modality="MR",
    )


@defect("gradient directions of one b-value", THREE, {"diffusion_gradient_orientation": AXES})
def _(folder: Path) -> list[Part]:
    return parts(
        folder,
        3,
        lambda n, z: {"DiffusionBValue": 1000.0, "DiffusionGradientOrientation": AXES[n]},
        "part by part",
        modality="MR",
    )


@defect(
    "gradient directions in Siemens's private attribute",
    THREE,
    {"diffusion_gradient_orientation": AXES},
)
def _(folder: Path) -> list[Part]:
    return parts(
        folder,
        3,
        lambda n, z: {(0x0019, "SIEMENS MR HEADER", 0x0E, "FD"): AXES[n]},
        "part by part",
        modality="MR",
    )


@defect(
    "gradient directions in GE's private attributes",
    THREE,
    {"diffusion_gradient_orientation": AXES},
)
def _(folder: Path) -> list[Part]:
    def tell(n, z):
        return {(0x0019, "GEMS_ACQU_01", 0xBB + i, "DS"): str(AXES[n][i]) for i in range(3)}

    return parts(folder, 3, tell, "part by part", modality="MR")


PHILIPS_NUMBER: Final = (0x2005, "Philips MR Imaging DD 005", 0x13, "IS")
PHILIPS_B_NUMBER: Final = (0x2005, "Philips MR Imaging DD 005", 0x12, "IS")
PHILIPS_ITEM: Final = (0x2005, "Philips MR Imaging DD 005", 0x0F, "SQ")


@defect(
    "directions by number in Philips's private item per frame",
    THREE,
    {"philips_gradient_direction_number": [1, 2, 3]},
)
def _(folder: Path) -> list[Part]:
    return enhanced(
        folder,
        3,
        lambda n, z: {"StackID": "1", PHILIPS_ITEM: inside({PHILIPS_NUMBER: n + 1})},
        facts={"Manufacturer": "Philips"},
    )


@defect(
    "directions by number in Philips's private item of classic images",
    THREE,
    {"philips_gradient_direction_number": [1, 2, 3]},
)
def _(folder: Path) -> list[Part]:
    return parts(
        folder,
        3,
        lambda n, z: {
            "Manufacturer": "Philips Medical Systems",
            PHILIPS_ITEM: inside({PHILIPS_NUMBER: n + 1}),
        },
        modality="MR",
    )


@defect(
    "b-values by number in Philips's private item per frame",
    THREE,
    {"philips_b_value_number": [1, 2, 3]},
)
def _(folder: Path) -> list[Part]:
    return enhanced(
        folder,
        3,
        lambda n, z: {"StackID": "1", PHILIPS_ITEM: inside({PHILIPS_B_NUMBER: n + 1})},
    )


@defect(
    "echoes among the converted attributes without a functional group",
    THREE,
    {"echo_time": [5, 10, 15]},
)
def _(folder: Path) -> list[Part]:
    return enhanced(
        folder,
        3,
        lambda n, z: {
            "StackID": "1",
            "UnassignedPerFrameConvertedAttributesSequence": inside({"EchoTime": 5 * (n + 1)}),
            # The source of a frame is another classic image; its number proves nothing.
            "ConversionSourceAttributesSequence": inside({"InstanceNumber": 9 - n}),
        },
    )


@defect(
    "a private fact of GE among the converted attributes",
    THREE,
    {"ge_raw_data_type": [0, 1, 2]},
)
def _(folder: Path) -> list[Part]:
    return enhanced(
        folder,
        3,
        lambda n, z: {
            "StackID": "1",
            "UnassignedPerFrameConvertedAttributesSequence": inside(
                {(0x0043, "GEMS_PARM_01", 0x2F, "SS"): n}
            ),
        },
    )


@defect(
    "gradient directions in Philips's private attributes",
    THREE,
    {"diffusion_gradient_orientation": AXES},
)
def _(folder: Path) -> list[Part]:
    def tell(n, z):
        return {(0x2005, "Philips MR Imaging DD 001", 0xB0 + i, "FL"): AXES[n][i] for i in range(3)}

    return parts(folder, 3, tell, "part by part", modality="MR")


@defect("a repeated b = 0, told by AcquisitionNumber", THREE, {"acquisition_number": (1, 2, 3)})
def _(folder: Path) -> list[Part]:
    return parts(
        folder,
        3,
        lambda n, z: {"DiffusionBValue": (0.0, 1000.0, 0.0)[n], "AcquisitionNumber": n + 1},
        modality="MR",
    )


@defect(
    "two b-values x two directions and a b = 0",
    ["regular 6"] * 5,
    {"diffusion_b_value": (0, 500, 500, 1000, 1000), "diffusion_gradient_orientation": UNCHECKED},
)
def _(folder: Path) -> list[Part]:
    shells = [(0.0, None), *itertools.product((500.0, 1000.0), ([0.0, 0.0, 1.0], [1.0, 0.0, 0.0]))]
    return parts(
        folder,
        5,
        lambda n, z: {
            "DiffusionBValue": shells[n][0],
            "DiffusionGradientOrientation": shells[n][1],
        },
        "part by part",
        modality="MR",
    )


@defect("b-values with the ADC map beside them", THREE, {"diffusion_b_value": (0, 1000)})
def _(folder: Path) -> list[Part]:
    adc = {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}
    tell: Tell = lambda n, z: {"DiffusionBValue": 1000.0 * n} if n < 2 else adc
    low, high, adc_map = parts(folder, 3, tell, modality="MR")
    return [adc_map, low, high]


@defect("magnitude and phase", PAIR, {"image_type": UNCHECKED})
def _(folder: Path) -> list[Part]:
    return parts(
        folder, 2, lambda n, z: {"ImageType": ["ORIGINAL", "PRIMARY", "MP"[n], "ND"]}, modality="MR"
    )


@defect("water and fat", PAIR, {"image_type": UNCHECKED})
def _(folder: Path) -> list[Part]:
    return parts(
        folder,
        2,
        lambda n, z: {"ImageType": ["DERIVED", "PRIMARY", "DIXON", ("FAT", "WATER")[n]]},
        modality="MR",
    )


@defect("two kernels", PAIR, {"convolution_kernel": ("B30f", "B70f")})
def _(folder: Path) -> list[Part]:
    return parts(folder, 2, lambda n, z: {"ConvolutionKernel": ("B30f", "B70f")[n]}, "part by part")


@defect("two tube voltages", PAIR, {"kvp": (80, 140)})
def _(folder: Path) -> list[Part]:
    return parts(folder, 2, lambda n, z: {"KVP": (80, 140)[n]})


@defect("two slice thicknesses at the same positions", PAIR, {"slice_thickness": (2, 5)})
def _(folder: Path) -> list[Part]:
    return parts(folder, 2, lambda n, z: {"SliceThickness": (2, 5)[n]})


@defect("two inversion times", PAIR, {"inversion_time": (100, 900)})
def _(folder: Path) -> list[Part]:
    return parts(folder, 2, lambda n, z: {"InversionTime": (100, 900)[n]}, modality="MR")


@defect("two flip angles", PAIR, {"flip_angle": (3, 15)})
def _(folder: Path) -> list[Part]:
    return parts(folder, 2, lambda n, z: {"FlipAngle": (3, 15)[n]}, modality="MR")


@defect("two rescale pairs at the same positions", PAIR, {"rescale_slope": (1, 2)})
def _(folder: Path) -> list[Part]:
    return [series(folder, n, slope=1 + n, numbers=[3] * 6, modality="MR") for n in range(2)]


@defect(
    "two attributes that tell repeated slices apart differently",
    ["duplicates 12"],
    duplicates={"told_apart_by": lambda names: sorted(names) == ["echo_time", "flip_angle"]},
)
def _(folder: Path) -> list[Part]:
    parts(
        folder,
        2,
        lambda n, z: {"EchoTime": (5, 10)[n], "FlipAngle": (3, 15)[(n + z) % 2]},
        modality="MR",
    )
    return []


@defect(
    "echoes whose acquisition numbers alternate from slice to slice", PAIR, {"echo_time": (5, 10)}
)
def _(folder: Path) -> list[Part]:
    return parts(
        folder,
        2,
        lambda n, z: {"EchoTime": (5, 10)[n], "AcquisitionNumber": 1 + (n + z) % 2},
        modality="MR",
    )


@defect(
    "two parts that nothing tells apart",
    ["duplicates 12"],
    duplicates={"repeated_positions": 6, "pixels": "different"},
)
def _(folder: Path) -> list[Part]:
    parts(folder, 2, lambda n, z: {})
    return []


# --------------------------------------------------------------------------------------------------
# identities


@defect("blank SeriesInstanceUID in two folders", PAIR, regular={"series_instance_uid": "blank"})
def _(folder: Path) -> list[Part]:
    blank: Tell = lambda n, z: {"SeriesInstanceUID": ""}
    return [series(folder / str(n), n, tell=blank) for n in range(2)]


@defect("missing StudyInstanceUID", ["regular 6"], regular={"study_instance_uid": "blank"})
def _(folder: Path) -> list[Part]:
    return [series(folder, tell=lambda n, z: {"StudyInstanceUID": None})]


@defect(
    "blank Series and Study Instance UIDs",
    ["regular 6"],
    regular={"study_instance_uid": "blank", "series_instance_uid": "blank"},
)
def _(folder: Path) -> list[Part]:
    return [series(folder, tell=lambda n, z: {"StudyInstanceUID": "", "SeriesInstanceUID": None})]


@defect("a study per slice", ["regular 6"], regular={"studies": 6})
def _(folder: Path) -> list[Part]:
    return [series(folder, tell=lambda n, z: {"StudyInstanceUID": uid("study of a slice", z)})]


@defect("a blank PatientID in some slices", ["regular 6"], regular={"blank_patients": 3})
def _(folder: Path) -> list[Part]:
    return [series(folder, tell=lambda n, z: {"PatientID": ("", "RAMP-1")[z % 2]})]


@defect("the same patient and series in two studies", PAIR)
def _(folder: Path) -> list[Part]:
    here: dict[str, Any] = {"frame_of_reference": uid("frame of reference of both"), "offset": 0}
    return [series(folder, n, study_uid=uid("study", folder.name, n), **here) for n in range(2)]


@defect("two patients under one series UID", PAIR)
def _(folder: Path) -> list[Part]:
    return [
        series(folder, n, patient_id=f"RAMP-{n}", study_uid=uid("one study"), offset=0)
        for n in range(2)
    ]


@defect("classic slices and their multi-frame copy under one series UID", PAIR)
def _(folder: Path) -> list[Part]:
    classic = series(folder, modality="MR")
    return [
        classic,
        *enhanced(folder, 1, lambda n, z: {"StackID": "1", "InStackPositionNumber": z + 1}),
    ]


# --------------------------------------------------------------------------------------------------
# enhanced multi-frame


@defect(
    "enhanced: time points told by TemporalPositionIndex, frames shuffled",
    THREE,
    {"temporal_position_index": (1, 2, 3)},
)
def _(folder: Path) -> list[Part]:
    return enhanced(
        folder,
        3,
        lambda n, z: {
            "StackID": "1",
            "InStackPositionNumber": z + 1,
            "TemporalPositionIndex": n + 1,
        },
    )


@defect(
    "enhanced: time points told by DimensionIndexValues only",
    THREE,
    {"dimension_index_values[2]": (1, 2, 3)},
)
def _(folder: Path) -> list[Part]:
    return enhanced(folder, 3, lambda n, z: {"DimensionIndexValues": [1, z + 1, n + 1]})


@defect(
    "enhanced: time points told by FrameAcquisitionDateTime only",
    THREE,
    {"frame_acquisition_time": (0, 30, 60)},
)
def _(folder: Path) -> list[Part]:
    return enhanced(
        folder, 3, lambda n, z: {"FrameAcquisitionDateTime": "20200101" + clock(30 * n + z)}
    )


@defect("enhanced: slope and intercept differ per frame", ["regular 6"])
def _(folder: Path) -> list[Part]:
    return enhanced(
        folder,
        1,
        lambda n, z: {"InStackPositionNumber": z + 1},
        slope=[1, 2, 3, 1, 2, 5],
        intercept=[-1024, 0, -1000, 10, -1024, 77],
    )


@defect("enhanced: both, and a frame time", THREE, {"temporal_position_index": (1, 2, 3)})
def _(folder: Path) -> list[Part]:
    return enhanced(
        folder,
        3,
        lambda n, z: {
            "StackID": "1",
            "InStackPositionNumber": z + 1,
            "TemporalPositionIndex": n + 1,
            "DimensionIndexValues": [1, z + 1, n + 1],
            "FrameAcquisitionDateTime": "20200101" + clock(30 * n + z),
        },
    )


@defect(
    "enhanced: two stacks at the same positions, told by StackID", PAIR, {"stack_id": UNCHECKED}
)
def _(folder: Path) -> list[Part]:
    return enhanced(folder, 2, lambda n, z: {"StackID": str(n + 1), "InStackPositionNumber": z + 1})


@defect("enhanced: two slabs apart, told by StackID", PAIR)
def _(folder: Path) -> list[Part]:
    def content(n: int, z: int) -> Facts:
        return {
            "StackID": str(n + 1),
            "InStackPositionNumber": z + 1,
            "ImagePositionPatient": [0, 0, 2 * z + 31 * n],
        }

    first, second = enhanced(folder, 2, content)
    return [first, elsewhere(second, (0, 0, 31))]


@defect(
    "enhanced: a file a time point, told by the files' instance numbers",
    THREE,
    {"instance_number": (1, 2, 3)},
)
def _(folder: Path) -> list[Part]:
    content: Tell = lambda n, z: {"StackID": "1", "InStackPositionNumber": z + 1}
    return [
        enhanced(folder, 1, content, first=n, facts={"InstanceNumber": n + 1})[0] for n in range(3)
    ]


@defect("enhanced: a concatenation of two files", ["regular 6"])
def _(folder: Path) -> list[Part]:
    content: Tell = lambda n, z: {"StackID": "1", "InStackPositionNumber": z + 1}
    halves: list[Callable[[int, int], bool]] = [lambda n, z: z < 3, lambda n, z: z >= 3]
    for number, half in enumerate(halves):
        (part,) = enhanced(
            folder,
            1,
            content,
            only=half,
            name=f"part{number}",
            facts={"InConcatenationNumber": number + 1},
            seed=number,
        )
    return [dataclasses.replace(part, slices=tuple(range(6)))]


@defect(
    "enhanced: one frame of the last time point missing",
    ["regular 5", "regular 6", "regular 6"],
    {"temporal_position_index": (1, 2, 3)},
    missing={2: [5]},
)
def _(folder: Path) -> list[Part]:
    def content(n, z):
        return {
            "StackID": "1",
            "InStackPositionNumber": z + 1,
            "TemporalPositionIndex": n + 1,
        }

    return enhanced(folder, 3, content, only=lambda n, z: (n, z) != (2, 5))


# --------------------------------------------------------------------------------------------------
# chance


def series_by_chance(folder: Path, seed: int) -> tuple[list[Part], str]:
    """Write time points that one or two attributes distinguish, or instance numbers alone.

    Other attributes beside these distinguish nothing. Slices are lost at the end, at the beginning
    or anywhere, and sent twice. Returns the parts and a description of the series.
    """
    chance = random.Random(seed)
    count, slices = chance.choice([2, 3, 4]), chance.choice([3, 4, 6])
    order = chance.choice(
        [list(range(slices)), list(range(slices))[::-1], chance.sample(range(slices), slices)]
    )
    rank = {z: k for k, z in enumerate(order)}
    volume_s = 2 * slices + chance.choice([0, 5])
    noise = np.random.default_rng(seed).random((count, slices))
    telling: dict[str, Tell] = {
        "temporal position": lambda n, z: {"TemporalPositionIdentifier": n + 1},
        "acquisition number": lambda n, z: {"AcquisitionNumber": n + 1},
        "echo": lambda n, z: {"EchoTime": 5 * (n + 1)},
        "acquisition time": lambda n, z: {"AcquisitionTime": clock(volume_s * n)},
        "rising acquisition time": lambda n, z: {
            "AcquisitionTime": clock(volume_s * n + 2 * rank[z])
        },
        "rising content time": lambda n, z: {"ContentTime": clock(volume_s * n + 2 * rank[z])},
        "heart phase": lambda n, z: {
            "TriggerTime": decimals([round(10 + n * (40 + z) + 4 * noise[n, z], 1)])[0]
        },
    }
    idle: dict[str, Tell] = {
        "content time by chance": lambda n, z: {"ContentTime": clock(round(600 * noise[n, z], 2))},
        "jitter of a trigger delay": lambda n, z: {
            "TriggerTime": decimals([round(100 * z + 4 * noise[n, z], 1)])[0]
        },
        "nothing else": lambda n, z: {},
    }
    chosen = chance.sample(sorted(telling), chance.choice([0, 1, 1, 2]))
    beside = chance.choice(sorted(idle))
    numbering = chance.choice(
        ["part by part", "slice by slice", *(["shuffled", "absent"] if chosen else [])]
    )
    lost = {
        "nothing": [],
        "the end": [(count - 1, z) for z in order[chance.randint(1, slices - 1) :]],
        "the beginning": [(0, z) for z in order[: chance.randint(1, slices - 1)]],
        "any one": [(chance.randrange(count), chance.randrange(slices))],
    }
    loss = chance.choice(sorted(lost))
    twice = [
        (chance.randrange(count), chance.randrange(slices))
        for _ in range(chance.choice([0, 0, 1, 2]))
    ]
    numberless: Tell = lambda n, z: {"InstanceNumber": None} if numbering == "absent" else {}
    tells = [idle[beside], *(telling[name] for name in chosen), numberless]
    places = np.array([rank[z] for z in range(slices)])
    numbers = {
        "part by part": [(n * slices + places + 1).tolist() for n in range(count)],
        "slice by slice": [(places * count + n + 1).tolist() for n in range(count)],
    }.get(numbering) or np.random.default_rng(seed).permutation(count * slices).reshape(
        count, slices
    ).tolist()
    made = [
        series(
            folder,
            n,
            shape=(slices, 5, 7),
            modality="MR",
            numbers=numbers[n],
            tell=lambda n, z: {key: value for tell in tells for key, value in tell(n, z).items()},
            drop=[z for m, z in lost[loss] if m == n],
            repeat=[z for m, z in twice if m == n],
        )
        for n in range(count)
    ]
    return (
        made,
        f"{count} x {slices}, told by {chosen} and numbers {numbering}, beside {beside}; "
        f"lost: {lost[loss]}, twice: {twice}",
    )
