"""Every NIfTI reference of the corpus, and the dicomdl volume that is the same image.

    python tests/oracles/nifti_references.py CORPUS [--only WORD]

dcm2niix, dicom2nifti, dcmstack and IBSI made the references from DICOM files that lie beside them.
Each is looked for among the volumes that dicomdl makes of the same files: stacks, groups of stacks
as 4-D, and the parts of a group that share one value (one echo of a multi-echo time series).
Matched means the same world points within 0.02 mm and the same values, each side after its own
scaling; a fourth axis must run the same way, too, with the time step that a reference states, and
with the b-values and directions in its .bval and .bvec, in the world within 1e-3. Where a reference
cannot be equal, its rule says why, and what of it is equal nevertheless is still required. Prints a
row for every reference and matched/total per collection; ends with 1 when something that should be
equal is not.
"""

import argparse
import itertools
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt

import dicomdl
from dicomdl.geometry.grid import Geometry

Values = npt.NDArray[Any]
Vectors = Literal["image", "patient"]
Check = Literal["same", "philips", "first_place", "mirrored", "shifted", "filled", "interpolated"]

WORLD_MM = 0.02
# Both sides store float32: a slope rounded once, a product rounded once.
FLOAT_TOLERANCE = 5e-7
# dcm2niix takes its slope as a difference of float32 numbers as large as the intercept: off by
# 7e-5 for phase maps in mrad. As a part of the range of values, twice that from one end.
PHILIPS_TOLERANCE = 2e-4
STEP_S = 1e-4  # steps are float32, and JSON has six digits
GRADIENT = 1e-3  # of b-values in s/mm^2, and of the components of unit vectors
INTERPOLATED = 0.51  # an interpolated value rounded to an integer, and float32
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Rule:
    r"""Source files of references, and the parts of a reference that a volume must equal.

    `pattern` matches the path of the reference below the corpus. `sources` are globs there, with
    `\1` for the group of the pattern and "__" for a slash. `listed` is the reason why a reference
    cannot be equal as a whole; the properties that `check` names are required nevertheless:

    - "same": places and values, after the scaling of each side;
    - "philips": places and values, by Philips' private scaling, which is dcm2niix's choice;
    - "first_place": the values of all slices, but the place of the first slice only;
    - "mirrored": places and values once the reference is mirrored along z;
    - "shifted": places and values once the reference's last slice is where it puts its first;
    - "filled": places and values of what is not zero on its fourth axis;
    - "interpolated": where it is not zero, the values of our slices at its world points, by linear
      interpolation.

    `step` is the reason why the time step of a reference is none. `vectors` are the axes of its
    .bvec: those of the image, as FSL has them, or those of the patient.
    """

    pattern: str
    sources: tuple[str, ...] = ()
    check: Check = "same"
    listed: str = ""
    step: str = ""
    vectors: Vectors = "image"


QA = "neurolabusc+dcm_qa_"
IBSI = "theibsi+data_sets/"
ECHO_20, ECHO_40 = (
    tuple(
        f"moloney+dcmstack/test/data/dcmstack/2D_16Echo_qT2/TE_{echo}_SlcPos_-{place}*.dcm"
        for place in (33, 23)
    )
    for echo in (20, 40)
)
RULES = (  # the first that fits counts
    Rule(
        ".*_mask.nii.gz|.*/mask/.*",
        listed="a mask drawn by hand (RTSTRUCT, PS3.3 A.19) or made: a label, not an image",
    ),
    Rule(
        "wasserth.*seg_dicom.nii.gz",
        listed="a label map that a network made: no DICOM instance holds it",
    ),
    Rule(
        ".*/sliceincrement/002_.*",
        ("icometrix+dicom2nifti/tests/data/failing/sliceincrement/002",),
        "interpolated",
        "four slices with a hole and 15.5 degrees of tilt, which dicom2nifti interpolated onto "
        "5 x 514 x 512 orthogonal voxels: the values are not stored ones, and no standard defines "
        "its grid",
    ),
    Rule(
        ".*dcm_qa_ct__In__GE/.*",
        (f"{QA}ct/In/GE",),
        "first_place",
        "gaps of 1.08 to 7.00 mm and 18.5 degrees of tilt: each slice is at its Image Position "
        "(PS3.3 C.7.6.2.1.1), which no single affine can express (dcm2niix writes corrected copies "
        "beside this one)",
    ),
    Rule(
        ".*/philips_enhanced/dti/.*",
        (r"icometrix+dicom2nifti/tests/data/philips_enhanced/dti/001",),
        "filled",
        "dicom2nifti wrote all four volumes to index 0 of the fourth axis, where the last one "
        "stayed, and left three of zeros: the frames differ by MR Diffusion (PS3.3 C.8.13.5.9) and "
        "have no Temporal Position Index (C.7.6.16.2.2)",
        vectors="patient",
    ),
    Rule(
        ".*/siemens/fmri/.*",
        ("icometrix+dicom2nifti/tests/data/siemens/fmri/001",),
        "shifted",
        "dicom2nifti unpacked the mosaic from its last tile on, but began at the Image Position of "
        "the first one (PS3.3 C.7.6.2.1.1): 49 x 3.08 mm too high; the 50 slice positions in the "
        "protocol of the file equal ours",
    ),
    Rule(
        ".*/ibsi_2_digital_phantom/nifti/(.*)/image/.*",
        (rf"{IBSI}ibsi_2_digital_phantom/dicom/\1",),
        "mirrored",
        "the NIfTI has the same planes at z = 0 to 126 that Image Position (PS3.3 C.7.6.2.1.1) "
        "puts at z = 0 to -126",
    ),
    Rule("_ref_dcm2niix/shared/(.*)/.*", (r"\1",)),
    Rule(
        "(icometrix.*)_ground_truth_reoriented.nii.gz",
        (r"\1",),
        step="lost when dicom2nifti reoriented the file beside it, which has the Repetition Time",
    ),
    # dicom2nifti writes the directions of Philips as the header has them (PS3.3 C.8.13.5.9)
    Rule("(icometrix.*/philips/dti.*)_ground_truth.nii.gz", (r"\1",), vectors="patient"),
    Rule("(icometrix.*)_ground_truth.nii.gz", (r"\1",)),
    Rule(".*/2D_16Echo_qT2/single_slice.*", ECHO_20[:1]),
    Rule(".*/2D_16Echo_qT2/single_vol.*", ECHO_20),
    Rule(
        ".*/2D_16Echo_qT2/two_.*",
        ECHO_20 + ECHO_40,
        step="dcmstack states the Repetition Time for an axis of echoes (Echo Time, PS3.3 C.8.3.1)",
    ),
    Rule(
        ".*/ibsi_validation/nifti/(.*)/(.*)_image.nii.gz",
        (rf"{IBSI}ibsi_validation/dicom/\1/\2/image",),
    ),
    Rule(".*dcm_qa_(12bit|ts)/.*", (rf"{QA}\1/In",)),
    Rule(".*dcm_qa_enh/.*", (f"{QA}enh/In/Philips",), "philips"),
    Rule(".*dcm_qa_me/Ref/me_FieldMap.*", (f"{QA}me/In/2_me_FieldMap_GRE",)),
    Rule(".*dcm_qa_me/Ref/me_fMRI.*", (f"{QA}me/In/4_me_fMRI",)),
    Rule(".*dcm_qa_nih/Ref/DCM2NIIX.*", (f"{QA}nih/In/20180918GE/mr_0004",)),
    Rule(".*dcm_qa_nih/Ref/EPI.*", (f"{QA}nih/In/20180918Si/mr_0003",)),
    Rule(".*dcm_qa_philips/.*", (f"{QA}philips/In/Magdeburg_2014/fmri",), "philips"),
    Rule(".*dcm_qa_stc/Ref/Siemens_FMRI.*", (f"{QA}stc/In/Siemens/B12",)),
    Rule(".*dcm_qa_stc/Ref/Siemens_REST1.*", (f"{QA}stc/In/Siemens/XA10",)),
    Rule(".*dcm_qa_stc/Ref/UIH_.*", (f"{QA}stc/In/UIH",)),
    Rule(".*dcm_qa_table/Ref/Ph_.*", (f"{QA}table/In/Ph/1301_Dual-echo_iso",), "philips"),
)


@dataclass(frozen=True)
class Reference:
    """A NIfTI: values (i, j, k, t[, sample]), and the affine from (i, j, k, 1) to LPS mm."""

    values: Values
    affine: npt.NDArray[np.float64]

    @classmethod
    def load(cls, path: Path, check: Check = "same") -> "Reference":
        """Read a NIfTI. All axes from the fourth on become one, of length 1 when there is none.

        Of RGBA, alpha is left out.
        """
        image: Any = nib.load(path)
        values = np.asanyarray(image.dataobj)
        if values.dtype.names:
            values = np.stack([values[name] for name in "RGB"], axis=-1).reshape(
                *image.shape[:3], -1, 3
            )
        else:
            values = values.reshape(*image.shape[:3], -1)
        if check == "filled":
            values = values[:, :, :, [np.any(values[:, :, :, t]) for t in range(values.shape[3])]]
        affine = RAS_TO_LPS @ image.affine
        if check == "mirrored":
            affine = np.diag([1.0, 1.0, -1.0, 1.0]) @ affine
        if check == "shifted":
            affine[:3, 3] -= affine[:3, 2] * (image.shape[2] - 1)
        return cls(values, affine)


@dataclass(frozen=True)
class Candidate:
    """A stack, or those stacks of a group that together may be a reference."""

    source: dicomdl.Stack | dicomdl.Group
    stacks: tuple[dicomdl.Stack, ...]

    def read(self, irregular: Literal["raise", "accept"], values: str = "modality") -> Values:
        """The values as (t, slice, row, column[, sample])."""
        array = dicomdl.read_volume(self.source, values=values, irregular=irregular).array
        if isinstance(self.source, dicomdl.Stack):
            return np.asarray(array[np.newaxis])
        return np.asarray(array[[stack.group_index for stack in self.stacks]])

    def __str__(self) -> str:
        parts = [
            ", ".join(f"{name}={_short(value)}" for name, value in stack.dimension.items())
            for stack in self.stacks
        ]
        shape = " x ".join(
            map(str, (*([len(parts)] if len(parts) > 1 else []), *self.stacks[0].shape))
        )
        listed = f"{' | '.join(parts[:3])}{' | ...' if len(parts) > 3 else ''}"
        return f"{shape} {self.stacks[0].verdict}{': ' if any(parts) else ''}{listed}"


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({' '.join(map(_short, value))})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Alignment:
    """Axis of the reference along each of ours, our flipped axes, and the distance of voxels."""

    axes: tuple[int, int, int]
    flipped: tuple[int, ...]
    error_mm: float

    def apply(self, values: Values) -> Values:
        """Return the values of the reference as (t, slice, row, column[, sample])."""
        turned = values.transpose(3, *self.axes, *range(4, values.ndim))
        return np.flip(turned, tuple(axis + 1 for axis in self.flipped))


@dataclass(frozen=True)
class Row:
    """Result for one reference.

    `progress` is the number of steps that a candidate passed; the one with most is reported.
    """

    outcome: Literal["matched", "listed", "NOT MATCHED"]
    ours: str = "-"
    error_mm: float = np.nan
    difference: float = np.nan
    remark: str = ""
    progress: int = 0
    reference: str = ""
    candidate: Candidate | None = None

    @property
    def collection(self) -> str:
        return self.reference.partition("/")[0]

    def __str__(self) -> str:
        remark = f"  -- {self.remark}" if self.remark else ""
        numbers = f"{self.error_mm:10.6f} mm {self.difference:12.6g}"
        return f"{self.outcome:11} {numbers}  {self.reference}\n{'':39} {self.ours}{remark}"


# --- one candidate against one reference ----------------------------------------------------------


def align(
    ours: Geometry, reference: Reference, *, first_slice_only: bool = False
) -> Alignment | None:
    """Return the alignment of the reference with our grid; None if axes or sizes differ."""
    size = np.asarray(reference.values.shape[:3])
    steps = reference.affine[:3, :3]
    cosines = _directions(ours.affine).T @ (steps / np.linalg.norm(steps, axis=0))
    axes = np.abs(cosines).argmax(axis=1)
    if sorted(axes) != [0, 1, 2] or tuple(size[axes]) != ours.shape:
        return None
    flipped = tuple(axis for axis in range(3) if cosines[axis, axes[axis]] < 0)
    last = np.asarray(ours.shape) - 1
    corners = np.array(list(np.ndindex(2, 2, 2))) * last
    if first_slice_only:
        corners[:, 0] = 0
    voxels = np.empty((8, 3))
    voxels[:, axes] = np.where(np.isin(np.arange(3), flipped), last - corners, corners)
    theirs = voxels @ steps.T + reference.affine[:3, 3]
    # a single slice has no slice step, and needs none
    known = np.where(np.isfinite(ours.affine), ours.affine, 0)
    apart = corners @ known[:3, :3].T + known[:3, 3] - theirs
    return Alignment(
        (int(axes[0]), int(axes[1]), int(axes[2])),
        flipped,
        float(np.linalg.norm(apart, axis=1).max()),
    )


def _directions(affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return 3 x 3 unit vectors along slice, row and column.

    The slice direction is the normal if the step is unknown.
    """
    steps = np.array(affine[:3, :3])
    if not np.isfinite(steps[:, 0]).all():
        steps[:, 0] = np.cross(steps[:, 2], steps[:, 1])
    return np.asarray(steps / np.linalg.norm(steps, axis=0))


def compare(candidate: Candidate, reference: Reference, check: Check = "same") -> Row:
    """Compare one candidate with one reference."""
    if check == "interpolated":
        return _compare_interpolated(candidate.stacks[0], reference)
    first_place = check == "first_place"
    geometry, name = candidate.stacks[0].geometry, str(candidate)
    fits = len(candidate.stacks) == reference.values.shape[3] and bool(
        np.isfinite(geometry.affine[:3, 1:]).all()
    )
    alignment = align(geometry, reference, first_slice_only=first_place) if fits else None
    if alignment is None:
        return Row("NOT MATCHED", name, remark="another shape or orientation")
    row = Row("NOT MATCHED", name, alignment.error_mm, remark="another place", progress=1)
    if alignment.error_mm > WORLD_MM:
        return row
    try:
        ours = candidate.read(
            "accept" if first_place else "raise", "philips" if check == "philips" else "modality"
        )
    except dicomdl.DicomdlError as error:
        return replace(row, remark=f"{type(error).__name__}: {error}"[:200], progress=2)
    theirs = alignment.apply(reference.values)
    if ours.shape != theirs.shape:
        return replace(
            row, remark=f"ours has shape {ours.shape}, theirs {theirs.shape}", progress=2
        )
    return _compare_values(row, ours, theirs, is_philips=check == "philips")


def _compare_values(row: Row, ours: Values, theirs: Values, *, is_philips: bool) -> Row:
    """Return the row of a candidate with the grid of the reference."""
    exact = all(
        values.dtype.kind in "iu" or bool((values == np.rint(values)).all())
        for values in (ours, theirs)
    )
    allowed = 0.0 if exact else FLOAT_TOLERANCE * float(np.abs(theirs).max())
    if is_philips:
        has_offset = float(theirs.min(initial=0)) < 0
        allowed = max(allowed, PHILIPS_TOLERANCE * float(np.ptp(theirs))) if has_offset else allowed
    difference = _largest_difference(ours, theirs)
    row = replace(row, difference=difference, remark="", progress=3)
    if difference <= allowed:
        return replace(row, outcome="matched", progress=4)
    order = _order_found(ours, theirs, allowed)
    return replace(
        row,
        remark=order or f"values differ in {np.count_nonzero(ours != theirs)} voxels",
    )


def _largest_difference(ours: Values, theirs: Values) -> float:
    return float(np.abs(ours.astype(np.float64) - theirs).max(initial=0))


def _order_found(ours: Values, theirs: Values, allowed: float) -> str:
    """Return a remark if only the order on the fourth axis differs, else ""."""
    places = [
        [t for t in range(len(theirs)) if _largest_difference(one, theirs[t]) <= allowed]
        for one in ours
    ]
    return (
        f"another order: ours are their {[found[0] for found in places]}"
        if len(ours) > 1 and all(places)
        else ""
    )


def _compare_interpolated(stack: dicomdl.Stack, reference: Reference) -> Row:
    """Compare with our slices, interpolated linearly between their positions."""
    array = dicomdl.read_volume(stack, irregular="accept", dtype=np.float32).array
    grid = Geometry(reference.values.shape[2::-1], reference.affine[:, [2, 1, 0, 3]])
    theirs = reference.values[:, :, :, 0].transpose(2, 1, 0)
    world = grid.voxel_to_world(np.moveaxis(np.indices(grid.shape), 0, -1))
    ours = np.full(grid.shape, np.nan, dtype=np.float32)
    for k, (here, there) in enumerate(itertools.pairwise(stack.positions)):
        affine = np.array(stack.affine)
        affine[:3, 0], affine[:3, 3] = there - here, here
        pair = dicomdl.Volume(array[k : k + 2], Geometry((2, *array.shape[1:]), affine))
        between = np.abs(
            pair.geometry.world_to_voxel(world)
            - np.array([0.5, *(np.array(array.shape[1:]) - 1) / 2])
        )
        inside = (between <= np.array([0.5, *(np.array(array.shape[1:]) - 1) / 2]) + 1e-3).all(
            axis=-1
        )
        ours[inside] = pair.resample_to(grid).array[inside]
    both = (theirs != 0) & np.isfinite(ours)
    difference = _largest_difference(ours[both], theirs[both])
    remark = f"{both.sum() / np.count_nonzero(theirs):.4f} of what is not zero compared"
    row = Row(
        "NOT MATCHED", str(Candidate(stack, (stack,))), np.nan, difference, remark, progress=3
    )
    return (
        replace(row, outcome="matched", progress=4)
        if difference <= INTERPOLATED and both.sum() > 0.99 * np.count_nonzero(theirs)
        else row
    )


# --- the fourth axis ------------------------------------------------------------------------------


def with_series(row: Row, candidate: Candidate, path: Path, rule: Rule, ours: Path) -> Row:
    """Return a matched row after a comparison of time step, b-values and directions."""
    image: Any = nib.load(path)
    files = [Path(f"{stem_of(path)}{suffix}") for suffix in (".bval", ".bvec")]
    if len(image.shape) < 4 or image.shape[3] < 2 or isinstance(candidate.source, dicomdl.Stack):
        return row
    volume = part_of(dicomdl.read_volume(candidate.source), candidate)
    volume.save(ours)
    step, own = step_in(image), step_in(nib.load(ours))
    remarks = [f"step {own:.6g} s"]
    faults = []
    if step > 0 and abs(step - own) > STEP_S:
        remarks.append(f"their step {step:.6g} s: {rule.step}")
        faults += [] if rule.step else [f"step {own:.6g} s, theirs {step:.6g} s"]
    if files[0].exists() and rule.check == "same":
        remarks.append(f"b-values and directions of the {rule.vectors} compared")
        faults += gradient_faults(path, ours, rule.vectors)
    if faults:
        return replace(row, outcome="NOT MATCHED", remark="; ".join(faults))
    return replace(row, remark="; ".join(filter(None, (row.remark, *remarks))))


def part_of(volume: dicomdl.Volume, candidate: Candidate) -> dicomdl.Volume:
    """Return the volume of those stacks of a group that the candidate has."""
    chosen = [stack.group_index for stack in candidate.stacks]
    return replace(
        volume,
        array=volume.array[chosen],
        padding=None if volume.padding is None else volume.padding[chosen],
        dimension=tuple(volume.dimension[t] for t in chosen),
        stacks=candidate.stacks,
    )


def step_in(image: Any) -> float:
    """Return the time step of a NIfTI in s, 0 if it states none. An unknown unit counts as s."""
    unit = {"msec": 1e-3, "usec": 1e-6}.get(image.header.get_xyzt_units()[1], 1.0)
    return float(image.header["pixdim"][4]) * unit


def stem_of(path: Path) -> Path:
    """Return a path without .nii or .nii.gz."""
    return path.with_name(path.name.partition(".nii")[0])


def gradient_faults(theirs: Path, ours: Path, vectors: Vectors) -> list[str]:
    """Return what differs between the .bval and .bvec of two images, in the world."""
    b_values, directions = gradients_of(theirs, vectors)
    if not stem_of(ours).with_suffix(".bval").exists():
        # A series of b = 0 alone is none of diffusion.
        return ["no b-values"] if b_values.any() else []
    own_values, own_directions = gradients_of(ours, "image")
    if b_values.shape != own_values.shape:
        return [f"{len(own_values)} b-values, theirs {len(b_values)}"]
    # Polarity has no meaning for the signal, and dicom2nifti turns that of GE.
    apart = np.minimum(
        np.abs(directions - own_directions).max(axis=1),
        np.abs(directions + own_directions).max(axis=1),
    )
    faults = {
        "b-values": float(np.abs(b_values - own_values).max()),
        "directions": float(apart.max()),
    }
    return [f"{name} differ by {off:.4g}" for name, off in faults.items() if off > GRADIENT]


def gradients_of(path: Path, vectors: Vectors) -> tuple[Values, Values]:
    """Return the b-values (n,) and directions (n, 3) in LPS of the files beside a NIfTI.

    FSL counts along the axes of the array, and reverses the first one if they are right-handed.
    """
    stem = stem_of(path)
    b_values = np.loadtxt(f"{stem}.bval", ndmin=1)
    directions = np.loadtxt(f"{stem}.bvec", ndmin=2)
    if vectors == "image":
        image: Any = nib.load(path)
        axes = (RAS_TO_LPS @ image.affine)[:3, :3]
        axes = axes / np.linalg.norm(axes, axis=0)
        if np.linalg.det(axes) > 0:
            directions = directions * [[-1], [1], [1]]
        directions = axes @ directions
    return b_values, directions.T


# --- one reference against all candidates ---------------------------------------------------------


def candidates(index: dicomdl.Index) -> Iterator[Candidate]:
    """Yield stacks of images, groups, and parts of a group that share the value of an attribute."""
    for stack in index.stacks:
        if stack.content == "image":
            yield Candidate(stack, (stack,))
    for group in index.groups:
        yield Candidate(group, tuple(group))
        parts: dict[tuple[str, str], list[dicomdl.Stack]] = {}
        for stack in group:
            for name, value in stack.dimension.items():
                parts.setdefault((name, repr(value)), []).append(stack)
        for part in parts.values():
            if 1 < len(part) < len(group):
                yield Candidate(group, tuple(part))


def find(reference: Reference, index: dicomdl.Index, check: Check = "same") -> Row:
    """Return the row of the candidate that equals the reference, or of the closest one."""
    rows = [
        replace(compare(candidate, reference, check), candidate=candidate)
        for candidate in candidates(index)
    ]
    if not rows:
        return Row("NOT MATCHED", remark=f"no image: {len(index.problems)} problems")
    best = max(
        rows,
        key=lambda row: (
            row.progress,
            *(-np.nan_to_num(number, nan=np.inf) for number in (row.difference, row.error_mm)),
        ),
    )
    if best.progress > 0:
        return best
    columns, rows_, slices, times = reference.values.shape[:4]
    some = "; ".join(row.ours for row in rows[:4])
    return Row(
        "NOT MATCHED",
        f"{len(rows)} volumes",
        remark=f"none is {times} of {slices} x {rows_} x {columns} in any direction: {some}",
    )


def check_reference(path: Path, corpus: Path) -> Row:
    """Scan the source files of a reference and look for it."""
    name = path.relative_to(corpus).as_posix()
    rule, match = next(
        (rule, match) for rule in RULES if (match := re.fullmatch(rule.pattern, name))
    )
    if not rule.sources:
        return Row("listed", remark=rule.listed, reference=name)
    roots = [
        found
        for source in rule.sources
        for found in corpus.glob(match.expand(source).replace("__", "/"))
    ]
    with tempfile.TemporaryDirectory() as scratch:
        row = find(
            Reference.load(path, rule.check),
            dicomdl.scan(roots, f"{scratch}/index", progress=False),
            rule.check,
        )
        if row.outcome == "matched" and row.candidate is not None:
            row = with_series(row, row.candidate, path, rule, Path(scratch) / "ours.nii")
    if rule.listed and row.outcome == "matched":
        row = replace(
            row,
            outcome="listed",
            remark="; ".join(filter(None, (f"{rule.check}: equal", row.remark, rule.listed))),
        )
    return replace(row, reference=name)


# --- all of them ----------------------------------------------------------------------------------


def references(corpus: Path) -> list[Path]:
    """Return all NIfTI files of the corpus, by name."""
    return sorted(path for pattern in ("*.nii", "*.nii.gz") for path in corpus.rglob(pattern))


def summary(rows: list[Row]) -> str:
    """Format matched/total per collection; listed references do not count as matched."""
    lines = ["matched/total  listed  collection"]
    for collection in [*sorted({row.collection for row in rows}), "all"]:
        outcomes = [row.outcome for row in rows if collection in ("all", row.collection)]
        lines.append(
            f"{outcomes.count('matched'):>7}/{len(outcomes):<5}  "
            f"{outcomes.count('listed'):>6}  {collection}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument(
        "--only", default="", metavar="WORD", help="only references whose path holds this word"
    )
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # pydicom's, about values that other tests speak of
    rows = []
    for path in references(arguments.corpus):
        if arguments.only in path.as_posix():
            rows.append(check_reference(path, arguments.corpus))
            print(rows[-1], flush=True)
    print(f"\n{summary(rows)}")
    return 0 if rows and all(row.outcome != "NOT MATCHED" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
