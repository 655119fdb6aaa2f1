"""The segments of a SEG that is written: their names, codes and algorithms."""

import re
from collections.abc import Mapping
from typing import Any, Final

from dicomdl.errors import UsageError
from dicomdl.headers.annotation import Code, Segment

# A name, or what else is known: "name", "category" and "type" as codes, "algorithm".
Described = str | Segment | Mapping[str, Any]

# CID 7150 and 7151: says nothing about organ or lesion.
TISSUE: Final = Code("85756007", "SCT", "Tissue")
# Segment Number is a US.
MOST_SEGMENTS: Final = 65535
_ALGORITHMS: Final = ("AUTOMATIC", "SEMIAUTOMATIC", "MANUAL")


def described_segments(
    segments: Mapping[int, Described] | None, names: Mapping[int, str], algorithm: str
) -> list[Segment]:
    """Return the segments in the order of their numbers.

    Parameters
    ----------
    segments
        {label: name, `Segment` or mapping}; None for `names`.
    names
        The names that the labels have themselves.
    algorithm
        Segment Algorithm Type of those that state none.

    Raises
    ------
    UsageError
        There is none, or a number, name, code or algorithm is none.
    """
    given: Mapping[int, Described] = names if segments is None else segments
    if not given:
        raise UsageError("the labels have no names: segments={1: 'Liver', ...} gives them")
    by_number = _by_number(given)
    described = [_segment(number, by_number[number], algorithm) for number in sorted(by_number)]
    if described[0].number < 1 or described[-1].number > MOST_SEGMENTS:
        raise UsageError(
            f"labels {described[0].number} to {described[-1].number}: expected 1 to {MOST_SEGMENTS}"
        )
    for each in described:
        if each.algorithm not in _ALGORITHMS:
            raise UsageError(f"algorithm {each.algorithm!r}: expected one of {_ALGORITHMS}")
        if not 0 < len(each.label) <= 64:
            raise UsageError(f"segment {each.number}: expected a name of 1 to 64 characters")
    return described


def _by_number(given: Any) -> dict[int, Any]:
    """Return the segments by their numbers, which are text in JSON."""
    numbers = list(given) if isinstance(given, Mapping) else []
    wrong = [each for each in numbers if not re.fullmatch(r"[0-9]+", str(each))]
    if wrong or not isinstance(given, Mapping):
        found = f"the key {wrong[0]!r}" if wrong else f"a {type(given).__name__}"
        raise UsageError(
            f"segments has {found}: expected {{label: name}}, such as {{1: 'Liver', 2: 'Spleen'}}"
        )
    return {int(number): given[number] for number in numbers}


def _segment(number: int, given: Described, algorithm: str) -> Segment:
    if isinstance(given, str):
        return Segment(number, given, algorithm, TISSUE, TISSUE)
    if isinstance(given, Segment):
        category, kind = given.category or TISSUE, given.type or TISSUE
        return Segment(number, given.label, given.algorithm or algorithm, category, kind)
    if not isinstance(given, Mapping):
        raise UsageError(f"segment {number} is {given!r}: expected a name")
    unknown = set(given) - {"name", "category", "type", "algorithm"}
    if unknown or "name" not in given:
        raise UsageError(
            f"segment {number} has the keys {sorted(given)}: expected 'name', and perhaps "
            "'category', 'type' and 'algorithm'"
        )
    return Segment(
        number,
        str(given["name"]),
        str(given.get("algorithm", algorithm)),
        _code(number, given.get("category", TISSUE)),
        _code(number, given.get("type", TISSUE)),
    )


def _code(number: int, given: Any) -> Code:
    if isinstance(given, Code):
        return given
    if isinstance(given, str) or len(given) != 3:
        raise UsageError(
            f"segment {number} has the code {given!r}: expected (value, scheme, meaning), such as "
            "('10200004', 'SCT', 'Liver')"
        )
    return Code(*map(str, given))
