"""Tables of network values: equal to the conversion and the formula, for every sample there is."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import index_of
from hypothesis import given, settings
from hypothesis import strategies as st
from phantoms import ramp, write_series
from plain_frames import source

import dicomdl
from dicomdl import _kernels
from dicomdl.pixels.stored import as_meant, stored_dtype, stored_range
from dicomdl.values.conversion import Conversion
from dicomdl.values.formulas import Formula, Ramp, Same, Sigmoid, Table
from dicomdl.values.intensity import Intensity
from dicomdl.values.looked_up import WORTH, every_sample, filled, pure_map_samples
from dicomdl.values.network_tables import network_table
from dicomdl.values.normalisation import Clip
from dicomdl.values.rescale import Rescale, dtypes_to_try
from dicomdl.values.windows import Limits, LookupTable, VoiLut, Window

compiled = pytest.mark.skipif(not _kernels.accelerated, reason="tables need the compiled module")
FORMULAS: list[Formula] = [
    Same(),
    Ramp(-1350.0, 1500.0),
    Ramp(-0.3, 7.7),
    Ramp(5.0, 0.0),
    Ramp(1e30, 1e-3, low=-math.inf, high=math.inf),
    Ramp(0.0, 3.0, clip=False),
    Sigmoid(40.0, 400.0),
    Table(LookupTable(-20, 12, np.arange(4000, dtype="<u2").tobytes()), 4095),
]
MAPS: list[Any] = [
    Window(-600, 1500),
    Window(40, 400, function="SIGMOID"),
    Limits(-20.5, 1000),
    Clip(-100, 100),
    VoiLut(LookupTable(-20, 12, np.arange(4000, dtype="<u2").tobytes())),
]


@compiled
@pytest.mark.parametrize("formula", FORMULAS, ids=repr)
@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int8, np.uint8])
def test_a_table_fills_an_array_as_its_formula_does(formula: Formula, dtype: Any) -> None:
    values = np.random.default_rng(5).integers(0, 256, (WORTH, np.dtype(dtype).itemsize), np.uint8)
    values = values.reshape(-1).view(dtype)
    by_table, by_formula = (np.empty(values.shape, np.float32) for _ in range(2))
    filled(formula, values, by_table)
    formula.fill(values, by_formula)
    assert np.array_equal(by_table.view(np.int32), by_formula.view(np.int32))


@pytest.mark.parametrize("dtype", [np.int16, np.uint8])
def test_both_functions_look_up_the_entry_of_the_bits_of_a_sample(dtype: Any) -> None:
    samples = every_sample(np.dtype(dtype))
    table = np.random.default_rng(1).normal(size=samples.shape).astype(np.float32)
    table[::7] = np.nan
    for look in _kernels.both(pure_map_samples) or (pure_map_samples,):
        out = np.empty_like(table)
        look(samples[::-1].copy(), table, out)
        assert np.array_equal(out.view(np.int32), table[::-1].view(np.int32))


@pytest.mark.parametrize("axes", [1, 2, 3, 4, 5])
def test_both_functions_look_up_the_samples_of_a_part_of_an_array(axes: int) -> None:
    whole = np.random.default_rng(2).integers(0, 65536, (6,) * axes).astype(np.uint16)
    part = whole[(slice(1, 5),) * (axes - 1) + (slice(2, 5),)][::-1]
    part = part if axes > 1 else whole[2:5]
    table = np.arange(65536, dtype=np.float32)
    for look in _kernels.both(pure_map_samples) or (pure_map_samples,):
        out = np.empty(part.shape, np.float32)
        look(part, table, out)
        assert np.array_equal(out, part)


def test_the_compiled_function_refuses_memory_that_does_not_fit() -> None:
    pair = _kernels.both(pure_map_samples)
    if pair is None:
        pytest.skip("there is no compiled module")
    table = np.zeros(65536, np.float32)
    four, apart = np.zeros(4, np.int16), np.zeros(8, np.int16)[::2]
    odd = np.zeros(9, np.uint8)[1:].view(np.int16)
    wrong = ((four, table, 3), (four, table[:9], 4), (apart, table, 4), (odd, table, 4))
    for samples, entries, out in (*wrong, (np.int16(0), table, 1), (four.view(np.int8), table, 8)):
        with pytest.raises(ValueError, match="do not fit"):
            pair[0](samples, entries, np.zeros(out, np.float32))


@pytest.mark.slow
@compiled
@settings(max_examples=80, deadline=None)
@given(
    allocated=st.sampled_from([8, 16]),
    bits=st.integers(1, 16),
    signed=st.booleans(),
    big=st.booleans(),
    slope=st.sampled_from([1.0, 2.0, -1.0, 0.1, 0.0024]),
    intercept=st.sampled_from([0.0, -1024.0, 0.5]),
    padding=st.none() | st.tuples(st.integers(-2000, 2000), st.integers(0, 50)),
    mapping=st.sampled_from(MAPS),
    invert=st.booleans(),
)
def test_a_table_of_samples_is_what_conversion_and_recipe_give(
    allocated: int,
    bits: int,
    signed: bool,
    big: bool,
    slope: float,
    intercept: float,
    padding: tuple[int, int] | None,
    mapping: Any,
    invert: bool,
) -> None:
    bits = min(bits, allocated)
    frame = source(allocated, bits, bits - 1, signed=signed, big=big and allocated > 8)
    limits = None if padding is None else (padding[0], padding[0] + padding[1])
    conversion = Conversion(Rescale(slope, intercept), padding=limits)
    recipe = Intensity(mapping, invert=invert)
    for marks in (True, False):
        table = network_table(frame, conversion, recipe, marks_padding=marks)
        if table is None:
            assert conversion.is_integral and bits > 8
            continue
        stored = every_sample(stored_dtype(frame)).copy()
        as_meant(stored, frame)
        values = np.empty(stored.shape, dtypes_to_try(integral=conversion.is_integral)[0])
        mask = conversion.padding_of(stored)
        conversion(stored, values, stored_range(frame))
        lowest = recipe.floor(values.dtype)
        if mask is not None and marks and lowest is not None:
            values[mask] = lowest
        assert np.array_equal(table.view(np.int32), recipe(values).view(np.int32))


def test_a_function_of_the_caller_has_no_table() -> None:
    frame = source(16, 12, 11, signed=False, big=False)
    recipe = Intensity(lambda values: values - values.mean())
    assert network_table(frame, Conversion(), recipe, marks_padding=True) is None


@pytest.mark.slow
@compiled
@pytest.mark.parametrize(
    "options",
    [
        {"intercept": -1024},
        {"slope": 0.37, "intercept": 2.5},
        {"signed": True, "offset": -90, "unused_bits": "ones"},
        {"bits_allocated": 8, "stored": ramp((5, 12, 16)) % 251},
    ],
    ids=["integers", "fractions", "signed", "8 bits"],
)
@pytest.mark.parametrize("intensity", ["auto", (40, 400), dicomdl.Limits(-10, 300)], ids=str)
def test_a_patch_by_a_table_is_the_patch_without_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: Any, intensity: Any
) -> None:
    pytest.importorskip("torch")

    def padded(dataset: Any, z: int) -> None:
        sign = "SS" if dataset.PixelRepresentation else "US"
        dataset.add_new("PixelPaddingValue", sign, 30)

    write_series(folder, shape=(5, 12, 16), edit=padded, **options)
    patches = dicomdl.PatchDataset(index_of(folder), (3, 6, 7), per_stack=3, intensity=intensity)
    by_table = [patches[row]["image"] for row in range(3)]
    monkeypatch.setattr("dicomdl.volumes.blocks.network_table", lambda *_, **__: None)
    for row in range(3):
        assert np.array_equal(by_table[row].numpy(), patches[row]["image"].numpy())
