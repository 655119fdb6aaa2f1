"""elements: both gears of the walk give the same result, and hostile structure has limits."""

import random
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
from dicomdl.headers import _elements
from dicomdl.headers._elements import Walked, Wanted, media_storage_class, walk, walk_meta
from dicomdl.headers._heads import (
    BIG_ENDIAN,
    EXPLICIT,
    IMPLICIT,
    ITEM,
    ITEM_END,
    MAX_STEPS,
    SEQUENCE_END,
    UNDEFINED,
    Step,
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


@pytest.fixture
def plain_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that switches the fast gear off."""

    def stop(buffer: bytes, at: int, *_: object) -> tuple[int, int]:
        return at, 0

    def switch() -> None:
        for name in ("_skim_explicit", "_skim_implicit"):
            monkeypatch.setattr(_elements, name, stop)

    return switch


def drawn(rng: random.Random, syntax: Syntax) -> bytes:
    """Return elements of every kind, some with a wrong length, cut at random."""
    tags = (0x00080060, 0x00280010, 0x00190010, 0x0019100C, 0x00191010, 0x52009229, 0x00200013, 0)
    wrong = (UNDEFINED, 0, 3, 0xFFFF, 0xFFFC)
    contents = (b"", b"MR", b"SIEMENS MR HEADER ", element(ITEM, b"", b"", syntax), b"x" * 30)
    raw = b""
    for _ in range(rng.randrange(9)):
        vr = rng.choice((b"CS", b"US", b"LO", b"SQ", b"UN", b"OW", b"ZZ", b"us", b"\0\0"))
        length = rng.choice(wrong) if rng.random() < 0.2 else None
        if length is not None and syntax.explicit and vr not in (b"SQ", b"UN", b"OW"):
            length &= 0xFFFF
        tag = rng.choice((*tags, 0x7FE00010, SEQUENCE_END)) if rng.random() < 0.3 else tags[0]
        raw += element(rng.choice((tag, *tags)), vr, rng.choice(contents), syntax, length)
        if rng.random() < 0.3:
            raw += element(SEQUENCE_END, b"", b"", syntax)
    return raw + b"\0" * rng.choice((0, 0, 2, 16)) if rng.random() < 0.6 else raw[:-3]


def test_both_gears_collect_the_same_values_steps_and_errors(
    plain_only: Callable[[], None],
) -> None:
    rng = random.Random(7)
    cases = [(drawn(rng, syntax), syntax) for syntax in (EXPLICIT, IMPLICIT) for _ in range(400)]

    def outcomes() -> list[object]:
        found: list[object] = []
        for raw, syntax in cases:
            trail: list[Step] = []
            bare = outcome(lambda: walk(window_on(raw), 0, syntax, WANTED))  # noqa: B023
            told = outcome(lambda: walk(window_on(raw), 0, syntax, WANTED, trail))  # noqa: B023
            assert bare == told
            found += [told, trail]
        return found

    fast = outcomes()
    plain_only()
    assert fast == outcomes()
    assert sum(isinstance(each, Walked) for each in fast) > 200


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_the_fast_gear_passes_every_ordinary_element_up_to_the_end_of_the_buffer(
    syntax: Syntax,
) -> None:
    """Each costs one of the elements that a header may have, and the pixel data six."""
    ordinary = element(0x00080060, b"CS", b"ORIG", syntax) + element(
        0x00190020, b"LO", b"OTHER\0", syntax
    )
    pixels = element(0x7FE00010, b"OW", b"\0\0", syntax)
    for count in (1, 5):
        window = window_on(ordinary * count)
        walk(window, 0, syntax, WANTED)
        assert window.elements_met == 2 * count
        window = window_on(ordinary * count + pixels)
        walk(window, 0, syntax, WANTED)
        assert window.elements_met == 2 * count + 6
    # An element needs twelve bytes in the buffer, and the last one has ten here.
    window = window_on(ordinary + element(0x00080060, b"CS", b"AB", syntax))
    assert walk(window, 0, syntax, WANTED).values[0] == b"AB"
    assert window.elements_met == 2 + 6


def test_zeros_after_the_data_set_cost_one_element_per_eight_bytes() -> None:
    window = window_on(element(0x00080060, b"CS", b"ORIG") + b"\0" * 80)
    assert walk(window, 0, EXPLICIT, WANTED).pixel_data is None
    assert window.elements_met == 1 + 9 + 6


def test_a_long_trail_ends_behind_its_limit_and_the_walk_goes_on() -> None:
    sequence = element(0x00081140, b"SQ", element(SEQUENCE_END, b""), length=UNDEFINED)
    last = element(0x00080060, b"CS", b"LAST") + element(0x7FE00010, b"OW", b"\0\0")
    for count, told in ((MAX_STEPS - 2, True), (MAX_STEPS - 1, False)):
        raw = element(0x00200013, b"IS", b"1234") * count + sequence + last
        trail: list[Step] = []
        assert walk(window_on(raw), 0, EXPLICIT, WANTED, trail).values[0] == b"LAST"
        assert (trail[-1].head.tag == 0x7FE00010) is told


# --- private blocks -------------------------------------------------------------------------------


@pytest.mark.parametrize("gear", ["fast", "plain"])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
def test_a_block_is_reserved_by_the_elements_10_to_ff_of_odd_groups(
    syntax: Syntax, gear: str, plain_only: Callable[[], None]
) -> None:
    """PS3.5 7.8.1."""
    wanted = Wanted([(0x0019000C, "ACME"), (0x001900FF, "ACME"), (0x0018000C, "ACME")])
    if gear == "plain":
        plain_only()

    def values(creator: int, *tags: int) -> tuple[bytes, ...]:
        raw = element(creator, b"LO", b" ACME\0", syntax) + b"".join(
            element(tag, b"IS", b"%02X%02X" % (tag >> 8 & 0xFF, tag & 0xFF), syntax) for tag in tags
        )
        return walk(window_on(raw), 0, syntax, wanted).values

    assert values(0x00190010, 0x0019100C, 0x001910FF) == (b"100C", b"10FF", b"")
    assert values(0x001900FF, 0x0019FF0C, 0x0019100C) == (b"FF0C", b"", b"")
    wanted = Wanted([(0xFFFF000C, "ACME")])
    assert values(0xFFFF00FF, 0xFFFFFF0C) == (b"FF0C",)
    assert values(0xFFFF0010, 0xFFFF100C) == (b"100C",)
    assert values(0xFFFF000F, 0xFFFF0F0C) == values(0xFFFF0100, 0xFFFF000C) == (b"",)
    wanted = Wanted([(0x0019000C, "ACME"), (0x0018000C, "ACME"), (0, "")])
    # No creators: numbers outside of the range, and an even group.
    assert values(0x0019000F, 0x00190F0C) == (b"", b"", b"")
    assert values(0x00190100, 0x0019000C) == (b"", b"", b"")
    assert values(0x00180010, 0x0018100C) == (b"", b"", b"")


def test_two_creators_of_a_file_reserve_two_blocks() -> None:
    wanted = Wanted([(0x0019000C, "ACME"), (0x0019000C, "OTHER"), (0, ""), (0x0019000D, "ACME")])
    raw = (
        element(0x00190010, b"LO", b"OTHER ")
        + element(0x00190011, b"LO", b"ACME")
        + element(0x0019100C, b"IS", b"10")
        + element(0x0019110C, b"IS", b"11")
        + element(0x0019110D, b"IS", b"12")
        + element(0, b"IS", b"13")
    )
    assert walk(window_on(raw), 0, EXPLICIT, wanted).values == (b"11", b"10", b"", b"12")


# --- single elements ------------------------------------------------------------------------------


@pytest.mark.parametrize("gear", ["fast", "plain"])
def test_steps_have_the_positions_of_the_file_whatever_part_of_it_is_buffered(
    gear: str, plain_only: Callable[[], None]
) -> None:
    if gear == "plain":
        plain_only()
    wanted = Wanted([(0x00190010, ""), (0x00280010, "")])
    elements = (
        element(0x00190010, b"LO", b"ACME"),
        element(0x00190011, b"LO", b"OTHER "),
        element(0x00191020, b"OB", b"\0" * 9),
        element(0x00280010, b"US", b"\7\0"),
        element(0x00290020, b"UT", b"text" * 3),
    )
    raw = b"\xff" * 7 + b"".join(elements)
    for first in (0, 7, 20, None):
        trail: list[Step] = []
        walk(window_on(raw, first), 7, EXPLICIT, wanted, trail)
        heads = [(step.head.tag, step.head.vr, step.head.length) for step in trail]
        assert heads[2:4] == [(0x00191020, b"OB", 9), (0x00280010, b"US", 2)]
        assert [step.position for step in trail] == [7, 19, 33, 54, 64]
        assert [step.head.value for step in trail] == [15, 27, 45, 62, 76]
        # A wanted element reserves no block.
        assert [step.slot for step in trail] == [0, -1, -1, 1, -1]
        assert [step.creator for step in trail] == [False, True, False, False, True]


@pytest.mark.parametrize("tag", [ITEM, ITEM_END, SEQUENCE_END])
def test_a_stray_delimiter_at_the_top_level_is_passed_and_is_no_value(tag: int) -> None:
    raw = element(tag, b"", b"ab") + element(0x00280010, b"US", b"\7\0")
    trail: list[Step] = []
    found = walk(window_on(raw), 0, EXPLICIT, WANTED, trail)
    assert found.values == (b"", b"\7\0", b"", b"", b"")
    assert [step.slot for step in trail] == [-1, 1]


def test_a_wanted_sequence_of_undefined_length_is_kept_without_its_delimiter() -> None:
    items = element(ITEM, b"", element(0x00080060, b"CS", b"XX"))
    raw = element(0x52009229, b"SQ", items + element(SEQUENCE_END, b""), length=UNDEFINED)
    raw += element(0x00280010, b"US", b"\7\0")
    wanted = Wanted([(0x52009229, ""), (0x00280010, "")])
    trail: list[Step] = []
    found = walk(window_on(raw), 0, EXPLICIT, wanted, trail)
    assert found.values == (items, b"\7\0")
    # Steps inside of a wanted sequence are not told, because its value is taken as a whole.
    assert [(step.head.tag, step.slot) for step in trail] == [(0x52009229, 0), (0x00280010, 1)]
    other: list[Step] = []
    unwanted = element(0x52009228, b"SQ", items + element(SEQUENCE_END, b""), length=UNDEFINED)
    walk(window_on(unwanted), 0, EXPLICIT, WANTED, other)
    assert [step.head.tag for step in other] == [0x52009228, ITEM, SEQUENCE_END]


@pytest.mark.parametrize("first", [None, 0])
def test_only_a_short_vr_limits_a_value_to_65534_bytes(first: int | None) -> None:
    wanted = Wanted([(0x00080060, ""), (0x52009229, "")], frozenset({0}))

    def value(tag: int, size: int) -> int:
        raw = element(tag, b"UN", b"1" * size) + element(0x00280010, b"US", b"\7\0")
        return max(map(len, walk(window_on(raw, first), 0, EXPLICIT, wanted).values))

    assert (value(0x00080060, 0xFFFE), value(0x52009229, 0x10000)) == (0xFFFE, 0x10000)
    with pytest.raises(HeaderError, match=r"\(0008,0060\) has 65535 bytes") as caught:
        value(0x00080060, 0xFFFF)
    assert caught.value.reason == "malformed"
    assert (caught.value.limit_bytes, caught.value.found_bytes) == (0xFFFE, 0xFFFF)


@pytest.mark.parametrize("tag", [0, 0xFFFC0001, 0xFFFCFFFC])
def test_padding_that_claims_more_than_the_file_ends_the_data_set(tag: int) -> None:
    raw = element(0x00080060, b"CS", b"MR") + element(tag, b"OB", b"\0" * 8, length=999)
    found = walk(window_on(raw), 0, EXPLICIT, WANTED)
    assert (found.values[0], found.pixel_data) == (b"MR", None)


@pytest.mark.parametrize("tag", [0x00000001, 0xFFFB0001, 0xFFFD0001])
def test_other_elements_that_claim_more_than_the_file_are_truncated(tag: int) -> None:
    with pytest.raises(HeaderError) as caught:
        walk(window_on(element(tag, b"OB", b"\0" * 8, length=9)), 0, EXPLICIT, WANTED)
    assert caught.value.reason == "truncated"


def test_an_element_may_end_with_its_file() -> None:
    for syntax in (EXPLICIT, IMPLICIT, BIG_ENDIAN):
        raw = element(0x00280010, b"UN", b"x" * 20, syntax)
        assert walk(window_on(raw, 0), 0, syntax, WANTED).values[1] == b"x" * 20
        with pytest.raises(HeaderError):
            walk(window_on(raw[:-1], 0), 0, syntax, WANTED)


# --- file meta information ------------------------------------------------------------------------

META = (
    element(0x00020000, b"UL", b"\x99\0\0\0")
    + element(0x00020002, b"UI", b"1.2.3\0")
    + element(0x00020010, b"UI", b"1.2.4\0")
    + element(0x00020013, b"SH", b"NAME")
)


def test_the_meta_information_ends_where_its_group_does_whatever_its_length_says() -> None:
    raw = b"\0" * 3 + META + element(0x00080060, b"CS", b"MR")
    trail: list[Step] = []
    assert walk_meta(window_on(raw), 3, trail, 5) == (b"1.2.4\0", 3 + len(META))
    assert [(step.head.tag & 0xFF, step.slot) for step in trail] == [
        (0, -1),
        (2, -1),
        (0x10, 5),
        (0x13, -1),
    ]
    assert walk_meta(window_on(META), 0, None, 5) == (b"1.2.4\0", len(META))
    assert media_storage_class(window_on(raw), 3) == b"1.2.3\0"
    without = META.replace(b"\x02\0\x02\0", b"\x02\0\x03\0").replace(
        b"\x02\0\x10\0", b"\x02\0\x11\0"
    )
    assert walk_meta(window_on(without), 0, None, 5) == (b"", len(META))
    assert media_storage_class(window_on(without), 0) == b""


def test_meta_information_that_claims_more_than_the_file_is_truncated() -> None:
    for raw in (
        element(0x00020010, b"UI", b"1.2.4\0", length=7),
        element(0x00020001, b"OB", b"\0\1", length=UNDEFINED),
    ):
        with pytest.raises(HeaderError) as caught:
            walk_meta(window_on(raw), 0, None, 5)
        assert caught.value.reason == "truncated"
    with pytest.raises(HeaderError) as caught:
        # A file of 4 GiB has room for an undefined length.
        walk_meta(Window(lambda at, count: b"", 2**33, raw), 0, None, 5)
    assert caught.value.reason == "truncated"


def test_a_meta_element_costs_as_much_as_three_thousand_others() -> None:
    window = window_on(META)
    walk_meta(window, 0, None, 5)
    assert window.elements_met == 4 * 3000


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
