"""Columns: many values are converted as each one is."""

import random

import pytest

from dicomdl.headers.attribute import Attribute
from dicomdl.headers.columns import converted_each, converter
from dicomdl.headers.frame import attributes

# Parts of values: numbers, text, and what makes a value odd.
NUMBERS = (b"1", b"-2.5", b"3e2", b"0", b"9007199254740993", b" 7 ")
PARTS = (*NUMBERS, b"A", b"a b", b"1.2.840", b"20261130", b"12:30")
ODD = (
    b"",
    b" ",
    b"\0",
    b"\\",
    b"\n",
    b"_",
    b"nan",
    b"1e999",
    b"\xe4",
    b"A" * 20_000,
    b"\\" * 70_000,
)
CONVERTERS = {(a.vr, a.kind, a.size, a.need == "pixels"): a for a in attributes()}


def value(rng: random.Random, attribute: Attribute, oddness: float) -> bytes:
    parts = [
        rng.choice(NUMBERS if rng.random() < 0.9 else PARTS) for _ in range(attribute.size or 2)
    ]
    raw = b"\\".join(parts)
    return raw + rng.choice(ODD) if rng.random() < oddness else raw


@pytest.mark.parametrize("key", CONVERTERS, ids=str)
@pytest.mark.parametrize("oddness", [0, 0.02, 0.3])
def test_values_are_converted_together_as_each_alone(
    key: tuple[str, str, int, bool], oddness: float
) -> None:
    attribute = CONVERTERS[key]
    convert = converter(attribute)
    rng = random.Random(str(key))
    for _ in range(20):
        raws = list(dict.fromkeys(value(rng, attribute, oddness) for _ in range(30)))
        alone = [v[: 2**14] if isinstance(v, str) else v for v in map(convert, raws)]
        together = converted_each(raws, convert)
        assert repr(together) == repr(alone)
        assert list(map(type, together)) == list(map(type, alone))
