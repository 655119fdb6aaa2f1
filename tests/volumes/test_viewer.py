"""The viewer of a notebook."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import index_of
from phantoms import true_affine, true_volume, write_series

import dicomdl
from dicomdl import Geometry, Volume
from dicomdl.errors import MissingExtra, UsageError

SHAPE = (4, 6, 8)


def volume(times: int = 0) -> Volume:
    array = true_volume(SHAPE)
    if times:
        array = np.stack([array + 100 * t for t in range(times)])
    grid = Geometry(SHAPE, true_affine((4, 2, 1)))
    names = ("echo_time",) if times else ()
    return Volume(array, grid, dimension=tuple(range(times)), dimension_names=names)


def controls(viewer: Any) -> dict[str, Any]:
    return {control.description: control for control in viewer.children[0].children}


@pytest.mark.slow
def test_sliders_move_through_slices_planes_and_time_points() -> None:
    pytest.importorskip("ipywidgets")
    pytest.importorskip("matplotlib")
    viewer = volume(times=3).view((300, 600), labels=true_volume(SHAPE) > 300)
    by, image = controls(viewer), viewer.children[1]
    assert set(by) == {"plane", "slice", "t"} and by["plane"].value == "axial"
    assert bytes(image.value).startswith(b"\x89PNG")
    seen = {bytes(image.value)}
    for name, value in (("slice", 0), ("t", 0), ("plane", "sagittal"), ("slice", 7)):
        by[name].value = value
        seen.add(bytes(image.value))
    assert len(seen) == 5 and by["slice"].max == 7
    by["plane"].value = "axial"
    assert by["slice"].max == 3


@pytest.mark.slow
def test_a_stack_shows_itself_as_it_lies(folder: Path) -> None:
    pytest.importorskip("ipywidgets")
    pytest.importorskip("matplotlib")
    write_series(folder, shape=(6, 5, 7), drop=[2])
    stack = index_of(folder).stacks[0]
    assert stack.verdict == "missing_slices"
    assert controls(stack.view())["slice"].max == 4
    assert "plane" in controls(stack.group.view())


def test_something_without_slices_has_no_view() -> None:
    with pytest.raises(UsageError, match="view takes"):
        dicomdl.view("a path")  # type: ignore[arg-type]


def test_the_absence_of_ipywidgets_is_an_error_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ipywidgets", None)
    with pytest.raises(MissingExtra, match=r"ipywidgets, which.*"):
        volume().view((300, 600))
