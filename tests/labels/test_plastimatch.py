"""Plastimatch fills the regions of a structure set as we do, with exclusive or of its contours."""

import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import index_of
from numpy.typing import NDArray
from phantoms import write_series
from phantoms_labels import contour, write_structure_set

import dicomdl
from dicomdl.index.views import Stack

SHAPE = (8, 120, 100)
SPACING = (2.5, 0.7, 0.9)
# Part of the voxels of a region that may differ, and only where a contour leaves the image.
MAY_DIFFER = 1e-4


def wave(middle: tuple[float, float], radius: float, phase: float, points: int = 90) -> Any:
    """A wavy circle of (row, column) points."""
    angle = np.linspace(0, 2 * math.pi, points, endpoint=False)
    reach = radius * (1 + 0.15 * np.sin(5 * angle + phase))
    return np.array(middle) + reach[:, None] * np.column_stack([np.sin(angle), np.cos(angle)])


def keyhole(width: float, phase: float) -> Any:
    """A ring as one contour: a circle, a channel of `width` pixels, a hole, and back."""
    outer, inner = wave((60.3, 50.4), 34, phase), wave((59.8, 51.1), 14, -phase)[::-1]
    half = np.array([width / 2, 0])
    return np.concatenate(
        [outer, outer[:1] + half, inner[-1:] + half, inner, inner[:1] - half, outer[:1] - half]
    )


def regions_of(z: int) -> dict[str, list[NDArray[Any]]]:
    """The contours of each region in a slice, (row, column)."""
    phase = 0.37 * z
    return {
        "hole": [wave((60, 50), 33, phase), wave((58, 52), 12, -phase)],
        "island": [
            *(wave((60, 50), 35, phase), wave((60, 50), 25, 2 * phase)),
            *(wave((61, 49), 15, phase), wave((60.5, 50), 5, 0)),
        ],
        "keyhole": [keyhole(0.0, phase)],
        "narrow": [keyhole(0.1, phase)],
        "parts": [wave((30, 25), 11, phase), wave((85.2, 70.7), 13, phase)],
        "beyond": [wave((110, 92), 30, phase)],
    }


@pytest.mark.skipif(not shutil.which("plastimatch"), reason="needs plastimatch (Debian package)")
@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), (0.8, 0.6, 0, -0.6, 0.8, 0)], ids=str)
def test_holes_islands_and_keyholes_are_those_of_plastimatch(
    folder: Path, tmp_path: Path, orientation: Any
) -> None:
    options: dict[str, Any] = {"spacing": SPACING, "origin": (-31.2, 17.9, 4.5)}
    image = write_series(folder / "ct", shape=SHAPE, orientation=orientation, **options)[0]
    stack = index_of(folder / "ct").stacks[0]
    drawn: dict[str, list[Any]] = {name: [] for name in regions_of(0)}
    for z in range(1, SHAPE[0] - 1):
        for name, outlines in regions_of(z).items():
            drawn[name] += [contour(_on(stack, z, outline)) for outline in outlines]
    path = write_structure_set(folder / "rt.dcm", image, drawn)
    ours = dicomdl.read_labels(stack, path, channels=True)
    command = ["plastimatch", "convert", "--xor-contours", "--input", str(path)]
    command += ["--referenced-ct", str(folder / "ct"), "--prefix-format", "nrrd"]
    command += ["--output-prefix", str(tmp_path / "masks")]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    for name, mask in zip(drawn, ours.array, strict=True):
        # On the grid of the stack, whatever the order of the axes in the file.
        theirs = dicomdl.read_labels(stack, str(tmp_path / "masks" / f"{name}.nrrd")).array > 0
        differing = int((theirs != mask).sum())
        allowed = int(MAY_DIFFER * mask.sum()) if name == "beyond" else 0
        assert mask.any() and differing <= allowed, (name, differing, int(mask.sum()))


def _on(stack: Stack, z: int, outline: NDArray[Any]) -> NDArray[Any]:
    voxels = np.column_stack([np.full(len(outline), z), outline])
    return stack.geometry.voxel_to_world(voxels)
