"""Tests of maps on a device: torch and NumPy agree for every formula, also of a new map."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import index_of
from phantoms import write_series

import dicomdl
from dicomdl.datasets.device.intensity import apply_intensity, intensity_as_data, window
from dicomdl.values._lookup import LookupTable
from dicomdl.values.formulas import Formula, FormulaMap, Ramp, Same, Sigmoid, Table
from dicomdl.values.intensity import Intensity

TABLE = LookupTable(-3, 12, np.arange(0, 4000, 40, dtype="<u2").tobytes())
FORMULAS: list[Formula] = [
    Same(),
    Ramp(-1024.0, 4095.0),
    Ramp(0.1, 0.7),
    Ramp(0.1, 0.7, clip=False),
    Ramp(40.0, 0.0),
    Ramp(40.0, 7.5, low=-1.25, high=2.5),
    Ramp(40.5, 12.0, low=-math.inf, high=3.0),
    Ramp(40.0, 0.0, low=-2.0, high=5.0),
    Ramp(40.0, 0.0, low=0.0, high=0.0),
    Sigmoid(40.5, 400.0),
    Table(TABLE, 4095),
]


@dataclass(frozen=True, slots=True)
class Reduces(FormulaMap):
    """A map that the package knows by its formula alone."""

    given: Formula

    @property
    def formula(self) -> Formula:
        return self.given


@dataclass(frozen=True, slots=True)
class Decades(FormulaMap):
    """A user's map: decades of ten from 0."""

    count: int

    @property
    def formula(self) -> Formula:
        return Ramp(0.0, 10.0 * self.count)


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("formula", FORMULAS, ids=repr)
def test_torch_computes_every_formula_as_numpy_does(
    formula: Formula, dtype: str, invert: bool
) -> None:
    values = np.arange(0, 250).astype(dtype)
    recipe = Intensity(Reduces(formula), invert)
    found = window(torch.from_numpy(values), recipe).numpy()
    assert np.allclose(found, recipe(values), rtol=3e-7, atol=3e-7)


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("formula", FORMULAS[:-1], ids=repr)
def test_numbers_that_travel_with_a_batch_say_the_formula(formula: Formula, invert: bool) -> None:
    values = torch.arange(-100, 100, dtype=torch.int16).reshape(1, 10, 20)
    recipe = Intensity(Reduces(formula), invert)
    sample = {"image": values, "intensity": intensity_as_data(recipe)}
    assert torch.equal(apply_intensity(sample)["image"], window(values, recipe))


@pytest.mark.parametrize("formula", FORMULAS[1:-1], ids=repr)
def test_nan_stays_nan_on_either_side(formula: Formula) -> None:
    values = np.array([np.nan, 1], np.float32)
    recipe = Intensity(Reduces(formula))
    sample = {"image": torch.from_numpy(values), "intensity": intensity_as_data(recipe)}
    for found in (recipe(values), window(torch.from_numpy(values), recipe).numpy()):
        assert np.isnan(found).tolist() == [True, False]
    assert apply_intensity(sample)["image"].isnan().tolist() == [True, False]


def test_a_new_map_says_its_formula_and_nothing_else(folder: Path) -> None:
    write_series(folder, shape=(3, 4, 5))
    index = index_of(folder)
    volume, new, known = dicomdl.read_volume(index.stacks[0]), Decades(3), dicomdl.Window(15, 30)
    expected: Any = volume.window(known).array
    assert np.array_equal(volume.window(new).array, expected)
    for given in ({}, {"intensity_on": "device"}):
        frames = dicomdl.FrameDataset(index, new, **given)
        patches = dicomdl.PatchDataset(index, (1, 4, 5), sampler="grid", intensity=new, **given)
        for dataset in (frames, patches):
            sample = dataset[1]
            sample = apply_intensity(sample) if "intensity" in sample else sample
            assert np.array_equal(sample["image"].numpy().ravel(), expected[1].ravel())
