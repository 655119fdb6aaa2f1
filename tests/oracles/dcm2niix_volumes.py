"""Every volume that dcm2niix makes of the corpus, and ours of the same Series.

    python tests/oracles/dcm2niix_volumes.py CORPUS [--only WORD]

Both convert each collection. A volume of dcm2niix, of which a series has one per time point, is
looked for among ours of its Series: the same values at the same world points within 0.02 mm, each
side after its own scaling. Where none is equal, a rule says why, and tests what of it is equal
nevertheless. Prints a row per image that is not equal and the numbers of each outcome; ends with 1
when no rule holds.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from pydicom.uid import UID

import dicomdl

Values = npt.NDArray[Any]
WORLD_MM = 0.02
# Both sides store float32: a slope rounded once, a product rounded once.
FLOAT_TOLERANCE = 5e-7
# See nifti_references: dcm2niix takes the slope of Philips as a difference of float32 numbers.
PHILIPS_TOLERANCE = 2e-4
# {outcome: why dcm2niix's volume is not ours}
REASONS = {
    "philips": "dcm2niix scales Philips' values by private attributes; so does values='philips'",
    "dose": "dcm2niix leaves out Dose Grid Scaling (3004,000E)",
    "thickness": "one slice, and another number for the distance to the next",
    "place": "the same values, of a stack whose uneven or tilted slices no affine can express",
    "rounding": "lossy JPEG, whose decoders differ by one stored value",
    "sign": "the codestream is signed and the header is not: dcm2niix believes the header",
    "slices": "the same slices: other stacks of them, or blank tiles of a mosaic among them",
    "regridded": "a further file of dcm2niix, interpolated onto even or orthogonal slices",
    "refused": "we refuse the stack, with the reason",
    "no_image": "a label object, a spectrum or an overlay, which is no image of ours",
}


@dataclass(frozen=True)
class Image:
    """A 3-D volume in the closest canonical order, and the affine of it in RAS mm."""

    name: str
    values: Values
    affine: Values
    verdict: str = ""

    def is_at(self, other: "Image") -> bool:
        if self.values.shape != other.values.shape:
            return False
        corners = np.array(np.meshgrid(*((0, n - 1) for n in self.values.shape[:3]))).reshape(3, -1)
        apart = (self.affine - other.affine)[:3] @ np.vstack([corners, np.ones(corners.shape[1])])
        return bool(np.abs(apart).max() <= WORLD_MM)

    def has_values_of(self, other: "Image", tolerance: float = FLOAT_TOLERANCE) -> bool:
        if self.values.shape != other.values.shape:
            return False
        scale = max(float(np.abs(self.values).max(initial=0)), 1e-30)
        return bool(np.abs(self.values - other.values).max(initial=0) <= tolerance * scale)


def volumes(path: Path, name: str, verdict: str = "") -> Iterator[Image]:
    """Yield the 3-D volumes of a NIfTI file; samples of colours are the last axis."""
    load: Any = nib.load
    canonical: Any = nib.as_closest_canonical
    image = canonical(load(path))
    stored = np.asanyarray(image.dataobj)
    if stored.dtype.names:
        samples = np.stack([stored[each] for each in stored.dtype.names], axis=-1)
        yield Image(name, samples.astype(np.float64), image.affine, verdict)
        return
    values = np.asarray(image.dataobj, dtype=np.float64)
    while values.ndim < 3:
        values = values[..., None]
    for number, each in enumerate(np.moveaxis(values.reshape(*values.shape[:3], -1), -1, 0)):
        yield Image(f"{name}[{number}]", each, image.affine, verdict)


def theirs(folder: Path, out: Path) -> dict[str, list[Image]]:
    """Return {Series Instance UID: volumes} of dcm2niix."""
    out.mkdir()
    command = ["dcm2niix", "-b", "n", "-z", "n", "-d", "9", "-f", "%s_%j", "-o"]
    subprocess.run([*command, str(out), str(folder)], capture_output=True, check=False, timeout=600)
    found: dict[str, list[Image]] = {}
    for path in sorted(out.glob("*.nii")):
        named = re.match(r"\d+_([\d.]+)", path.stem)
        uid = named[1].rstrip(".") if named else ""
        found.setdefault(uid, []).extend(volumes(path, path.stem))
    return found


@dataclass
class Ours:
    """What we convert of a collection."""

    images: dict[str, list[Image]]
    philips: dict[str, list[Image]]
    refused: dict[str, str]
    modality: dict[str, str]
    # {Series: what one stored value of a lossy JPEG means}
    lossy: dict[str, float]


def ours(folder: Path, out: Path) -> Ours:
    index = dicomdl.scan(folder, out / "index", progress=False)
    made = Ours({}, {}, {}, {}, {})
    for stack in index.stacks:
        made.modality[stack.series_instance_uid] = stack.modality
        syntaxes = map(UID, stack.values("transfer_syntax_uid"))
        if any(syntax.name.startswith("JPEG") for syntax in syntaxes):
            slopes = [abs(slope or 1.0) for slope in stack.values("rescale_slope")]
            step = max([*slopes, made.lossy.get(stack.series_instance_uid, 0.0)])
            made.lossy[stack.series_instance_uid] = step
    for values, images in (("modality", made.images), ("philips", made.philips)):
        chosen = index if values == "modality" else index.select(manufacturer="*hilips*")
        if not len(chosen.stacks):
            continue
        done = chosen.convert(
            out / values,
            suffix=".nii",
            values=values,
            irregular="accept",
            names="{stack}",
            labels=False,
            progress=False,
        )
        for image in done.images:
            uid = image.series_instance_uid
            if image.status == "refused":
                made.refused.setdefault(uid, image.reason)
            else:
                path = out / values / image.files[0]
                facts = json.loads(path.with_suffix(".json").read_text())["dicomdl"]
                images.setdefault(uid, []).extend(volumes(path, path.stem, facts["verdict"]))
    return made


def outcome(their: Image, uid: str, made: Ours) -> str:
    """Return "equal", the rule that holds, or "" where none does."""
    own = made.images.get(uid, [])
    if any(their.is_at(each) and their.has_values_of(each) for each in own):
        return "equal"
    if any(
        their.is_at(each) and their.has_values_of(each, PHILIPS_TOLERANCE)
        for each in made.philips.get(uid, [])
    ):
        return "philips"
    same = [each for each in own if their.values.shape == each.values.shape]
    if made.modality.get(uid) == "RTDOSE" and any(_is_scaled(their, each) for each in same):
        return "dose"
    if 1 in their.values.shape and any(map(their.has_values_of, same)):
        return "thickness"
    if any(their.has_values_of(each) and each.verdict != "regular" for each in same):
        return "place"
    step = made.lossy.get(uid, 0.0) * (1 + 1e-4)
    if step and any(np.abs(their.values - each.values).max() <= step for each in same):
        return "rounding"
    if any(_differ_by_sign(their, each) for each in same):
        return "sign"
    is_regular = any(each.verdict == "regular" for each in same)
    if own and not is_regular and _has_slices_of(their, own, tolerance=step or 1e-3):
        return "slices"
    if "_Eq_" in their.name or "_Tilt_" in their.name:
        return "regridded"
    if "_ROI" in their.name:
        return "no_image"
    if uid in made.refused:
        return "refused"
    return "no_image" if uid not in made.images else ""


def _differ_by_sign(their: Image, own: Image) -> bool:
    """Whether values differ by 0 or one power of 2, that of the most significant bit."""
    apart = np.unique(np.abs(their.values - own.values))
    return len(apart) <= 2 and apart.max() >= 256 and bool(np.log2(apart.max()) % 1 == 0)


def _is_scaled(their: Image, own: Image) -> bool:
    top = their.values.max()
    return bool(top) and np.allclose(their.values * (own.values.max() / top), own.values, rtol=1e-4)


def _has_slices_of(their: Image, own: list[Image], tolerance: float) -> bool:
    """Whether each slice of a volume that is not blank is one of ours, in any of 8 positions."""
    held = [
        (plane, plane.sum())
        for each in own
        for axis in range(3)
        for plane in np.moveaxis(each.values, axis, 0)
    ]

    def is_held(plane: Values) -> bool:
        room = tolerance * plane.size
        near = [other for other, total in held if abs(total - plane.sum()) <= room]
        turned = [np.rot90(each, n) for each in (plane, plane.T) for n in range(4)]
        return any(
            each.shape == other.shape and np.abs(each - other).max() <= tolerance
            for other in near
            for each in turned
        )

    return any(
        all(is_held(plane) for plane in np.moveaxis(their.values, axis, 0) if plane.any())
        for axis in range(3)
    )


@dataclass(frozen=True)
class Row:
    collection: str
    name: str
    outcome: str
    shape: tuple[int, ...]
    detail: str


def rows(folder: Path) -> Iterator[Row]:
    """Yield a row per volume that dcm2niix makes of a folder."""
    with tempfile.TemporaryDirectory() as space, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = ours(folder, Path(space) / "ours")
        for uid, images in theirs(folder, Path(space) / "theirs").items():
            for each in images:
                found = outcome(each, uid, made)
                detail = made.refused.get(uid, "") if found == "refused" else ""
                yield Row(folder.name, each.name, found, each.values.shape, detail)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--only", default="", help="collections whose name has this word")
    given = parser.parse_args()
    if shutil.which("dcm2niix") is None:
        print("dcm2niix is not installed: pip install dcm2niix")
        return 2
    counts = Counter[str]()
    for folder in sorted(given.corpus.iterdir()):
        if not folder.is_dir() or folder.name.startswith("_") or given.only not in folder.name:
            continue
        for row in rows(folder):
            counts[row.outcome or "UNEXPLAINED"] += 1
            if row.outcome != "equal":
                print(row.collection, row.name, row.shape, row.outcome or "UNEXPLAINED", row.detail)
    total = sum(counts.values())
    print(f"{counts['equal']} of {total} volumes equal")
    for name, count in counts.most_common():
        if name != "equal":
            print(f"{count:5} {name}: {REASONS.get(name, '')}")
    return int(counts["UNEXPLAINED"] > 0)


if __name__ == "__main__":
    sys.exit(main())
