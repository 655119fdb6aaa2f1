"""Regular single-frame CT, MR and PT stacks of a folder, read by dicomdl and by SimpleITK.

    python tests/oracles/simpleitk_volumes.py FOLDER

Both read the same files. The output is matched/total and each difference: voxels by value, grids by
the world points of their eight corners.
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass
from itertools import product

import numpy as np
import SimpleITK as sitk

import dicomdl

# Positions of a regular stack may deviate from the grid by this much, and the two readers round
# differently.
WORLD_MM = 0.1


@dataclass(frozen=True)
class Comparison:
    series: str
    modality: str
    slices: int
    world_error_mm: float
    different_voxels: int
    largest_difference: float

    @property
    def matches(self) -> bool:
        return self.world_error_mm <= WORLD_MM and self.different_voxels == 0


def read_with_simpleitk(paths: list[str]) -> sitk.Image:
    if len(paths) == 1:
        return sitk.ReadImage(paths[0], imageIO="GDCMImageIO")
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames(paths)
    return reader.Execute()


def compare(stack: dicomdl.Stack) -> Comparison:
    volume = dicomdl.read_volume(stack)
    image = read_with_simpleitk([source.path for source in stack.sources])
    theirs = sitk.GetArrayFromImage(image)
    depth, rows, columns = stack.shape
    corners = np.array(list(product((0, depth - 1), (0, rows - 1), (0, columns - 1))), dtype=float)
    ours_world = volume.geometry.voxel_to_world(corners)
    their_world = np.array(
        [image.TransformContinuousIndexToPhysicalPoint(corner[::-1].tolist()) for corner in corners]
    )
    if stack.slices == 1:
        ours_world, their_world = ours_world[:, :2], their_world[:, :2]
    # SimpleITK computes float64 where we round once to float32.
    differs = (
        ~np.isclose(volume.array, theirs, rtol=2e-7, atol=0)
        if volume.array.dtype.kind == "f"
        else volume.array != theirs
    )
    return Comparison(
        series=stack.series_instance_uid,
        modality=stack.modality,
        slices=stack.slices,
        world_error_mm=float(np.abs(ours_world - their_world).max()),
        different_voxels=int(differs.sum()),
        largest_difference=float(
            np.abs(volume.array.astype(np.float64) - theirs)[differs].max(initial=0)
        ),
    )


def comparable(index: dicomdl.Index) -> list[dicomdl.Stack]:
    """Return the stacks to compare: regular, with one slice per file."""
    chosen = index.select(modality=["CT", "MR", "PT"], verdict="regular", content="image")
    return [
        s
        for s in chosen.stacks
        if set(s.values("number_of_frames")) == {1} and set(s.values("coded_rows")) == {0}
    ]


def compare_folder(folder: str, out: str) -> tuple[list[Comparison], list[str]]:
    """Return (comparisons, series that SimpleITK refuses)."""
    rows, refused = [], []
    for stack in comparable(dicomdl.scan(folder, out, progress=False)):
        try:
            rows.append(compare(stack))
        # GDCM refuses, for example, files with elements out of order
        except RuntimeError:
            refused.append(stack.series_instance_uid)
    return rows, refused


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    with tempfile.TemporaryDirectory() as scratch:
        rows, refused = compare_folder(parser.parse_args().folder, scratch)
    for row in rows:
        if not row.matches:
            print(row)
    print(
        f"{sum(row.matches for row in rows)} of {len(rows)} stacks match "
        f"({sum(row.slices for row in rows)} slices)"
    )
    for series in refused:
        print(f"SimpleITK cannot read series {series}")
    print(
        "largest difference of a corner's world point: "
        f"{max((row.world_error_mm for row in rows), default=0):.6f} mm"
    )
    return 0 if all(row.matches for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
