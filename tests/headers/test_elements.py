"""elements: both gears of the walk give the same result, and hostile structure has limits."""

import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pydicom.data
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phantoms import element

from dicomdl.errors import HeaderError
from dicomdl.headers._elements import Walked, Wanted, walk, walk_meta
from dicomdl.headers._heads import (
    BIG_ENDIAN,
    EXPLICIT,
    IMPLICIT,
    ITEM,
    ITEM_END,
    SEQUENCE_END,
    UNDEFINED,
    Syntax,
)
from dicomdl.headers._window import Window
from dicomdl.headers.limits import DEFAULT_LIMITS, ReadLimits

PYDICOM_FILES = Path(pydicom.data.__file__).parent / "test_files"
WANTED = Wanted(
    [
        (0x00080060, ""),
        (0x00280010, ""),
        (0x52009229, ""),
        (0x00191010, ""),
        (0x0019000C, "SIEMENS MR HEADER"),
    ]
)


def window_on(raw: bytes, first: int | None = None, limits: ReadLimits = DEFAULT_LIMITS) -> Window:
    return Window(
        lambda offset, length: raw[offset : offset + length], len(raw), raw[:first], limits
    )


def outcome(call: Callable[[], object]) -> object:
    try:
        return call()
    except HeaderError as error:
        return error.reason, str(error)


@cache
def real_headers() -> tuple[bytes, ...]:
    """The first 8 kB of some files of different kinds."""
    names = (
        "CT_small MR_small_implicit MR_small_bigendian rtdose nested_priv_SQ UN_sequence priv_SQ "
        "SC_rgb_rle_2frame liver_1frame US1_J2KR"
    )
    return tuple(
        (PYDICOM_FILES / f"{name}.dcm").read_bytes()[:8192]
        for name in names.split()
        if (PYDICOM_FILES / f"{name}.dcm").exists()
    )


# --- the walk -------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
def test_a_walk_keeps_wanted_values_and_stops_at_the_pixel_data(syntax: Syntax) -> None:
    rows = struct.pack("<H" if syntax.little else ">H", 7)
    raw = b"".join(
        [
            element(0x00080060, b"CS", b"MR", syntax),
            element(0x00190010, b"LO", b"SIEMENS MR HEADER ", syntax),
            element(0x0019100C, b"IS", b"1000", syntax),
            element(0x00280010, b"US", rows, syntax),
            element(0x7FE00010, b"OW", b"\1\2", syntax),
        ]
    )
    found = walk(window_on(raw), 0, syntax, WANTED)
    assert found.values == (b"MR", rows, b"", b"", b"1000")
    assert found.pixel_data is not None
    assert (found.pixel_data.value, found.pixel_data.length) == (len(raw) - 2, 2)


def test_a_private_tag_counts_only_in_the_block_its_creator_reserved() -> None:
    raw = (
        element(0x00190011, b"LO", b"SIEMENS MR HEADER ")
        + element(0x0019100C, b"IS", b"1 ")
        + element(0x0019110C, b"IS", b"2 ")
    )
    assert walk(window_on(raw), 0, EXPLICIT, WANTED).values[4] == b"2 "
    assert walk(window_on(element(0x0019110C, b"IS", b"3 ")), 0, EXPLICIT, WANTED).values[4] == b""


def test_one_walk_leaves_nothing_behind_for_the_next() -> None:
    walk(window_on(element(0x00190011, b"LO", b"SIEMENS MR HEADER ")), 0, EXPLICIT, WANTED)
    assert walk(window_on(element(0x0019110C, b"IS", b"3 ")), 0, EXPLICIT, WANTED).values[4] == b""


def test_unknown_length_inside_un_is_implicit_little_endian() -> None:
    inner = element(
        ITEM, b"", element(0x00080060, b"CS", b"XX", IMPLICIT), length=UNDEFINED
    ) + element(ITEM_END, b"")
    raw = element(
        0x00190020, b"UN", inner + element(SEQUENCE_END, b""), length=UNDEFINED
    ) + element(0x00280010, b"US", b"\7\0")
    assert walk(window_on(raw), 0, EXPLICIT, WANTED).values[1] == b"\7\0"


def test_a_file_that_ends_inside_an_element_is_truncated() -> None:
    with pytest.raises(HeaderError, match="needs 8 bytes") as caught:
        walk(window_on(element(0x00080060, b"CS", b"MR", length=8)), 0, EXPLICIT, WANTED)
    assert caught.value.reason == "truncated"


def test_padding_after_the_data_set_is_not_an_error() -> None:
    raw = element(0x00080060, b"CS", b"MR")
    for padding in (element(0xFFFCFFFC, b"OB", b"\0\0", length=999), b"\0" * 64):
        assert walk(window_on(raw + padding), 0, EXPLICIT, WANTED).values[0] == b"MR"


# --- two gears, one result ------------------------------------------------------------------------


def both_gears(
    raw: bytes, position: int, syntax: Syntax, first: int | None
) -> tuple[object, object]:
    """The outcome of the fast walk, and of the plain one, which a trail requires."""
    fast = outcome(lambda: walk(window_on(raw, first), position, syntax, WANTED))
    return fast, outcome(lambda: walk(window_on(raw), position, syntax, WANTED, []))


tags = st.sampled_from(
    [
        0x00080060,
        0x00280010,
        0x00190010,
        0x0019100C,
        0x00191010,
        0x52009229,
        0x7FE00010,
        ITEM,
        ITEM_END,
        SEQUENCE_END,
        0,
    ]
)
vrs = st.sampled_from([b"CS", b"US", b"LO", b"SQ", b"UN", b"OW", b"UT", b"ZZ", b"cs", b""])
lengths = st.sampled_from([None, None, None, UNDEFINED, 0, 1, 0xFFFF])
values = st.sampled_from(
    [b"", b"MR", b"SIEMENS MR HEADER ", b"\xfe\xff\x00\xe0\0\0\0\0", b"x" * 40]
)


@st.composite
def data_sets(draw: st.DrawFn) -> tuple[bytes, Syntax]:
    syntax = draw(st.sampled_from([EXPLICIT, IMPLICIT]))
    parts = []
    for _ in range(draw(st.integers(0, 12))):
        vr, length = draw(vrs), draw(lengths)
        short = vr not in (b"", b"SQ", b"UN", b"OW", b"OB", b"UT") and syntax.explicit
        parts.append(
            element(
                draw(tags),
                vr,
                draw(values),
                syntax,
                length if length is None or not short else length & 0xFFFF,
            )
        )
    raw = b"".join(parts)
    return raw[: draw(st.integers(0, len(raw)))] if draw(st.booleans()) else raw, syntax


@pytest.mark.slow
@settings(max_examples=400)
@given(data_sets(), st.sampled_from([None, 0, 30]))
def test_the_fast_and_the_plain_gear_agree_on_any_sequence_of_elements(
    case: tuple[bytes, Syntax], first: int | None
) -> None:
    fast, plain = both_gears(case[0], 0, case[1], first)
    assert fast == plain


@pytest.mark.slow
@settings(max_examples=300)
@given(
    st.integers(0, 9), st.lists(st.tuples(st.integers(132, 4095), st.integers(0, 255)), max_size=4)
)
def test_the_fast_and_the_plain_gear_agree_on_damaged_real_headers(
    which: int, changes: list[tuple[int, int]]
) -> None:
    raw = bytearray(real_headers()[which % len(real_headers())])
    for position, value in changes:
        raw[position % len(raw)] = value
    content = bytes(raw)
    try:
        _, start = walk_meta(window_on(content), 132, None, 0)
    except HeaderError:
        return
    for syntax in (EXPLICIT, IMPLICIT):
        fast, plain = both_gears(content, start, syntax, None)
        assert fast == plain


# --- limits for hostile structure -----------------------------------------------------------------


def test_elements_are_counted_over_the_whole_walk_not_a_sequence() -> None:
    limits = ReadLimits(elements=1000)
    sequence = element(
        0x00081140, b"SQ", element(ITEM, b"") * 100 + element(SEQUENCE_END, b""), length=UNDEFINED
    )
    assert isinstance(walk(window_on(sequence * 8, limits=limits), 0, EXPLICIT, WANTED), Walked)
    with pytest.raises(HeaderError) as caught:
        walk(window_on(sequence * 11, limits=limits), 0, EXPLICIT, WANTED)
    assert caught.value.reason == "too_many_elements"


def test_a_header_longer_than_the_limit_is_refused() -> None:
    limits = ReadLimits(header_bytes=2**20)
    raw = element(0x00080060, b"CS", b"MR") * 300_000
    with pytest.raises(HeaderError) as caught:
        walk(window_on(raw, 0, limits=limits), 0, EXPLICIT, WANTED)
    assert caught.value.reason == "header_too_large"
