"""The two gears of the walk and the learned layouts say the same of any bytes; hostile structure has its price capped."""

import os
import random
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pydicom.data
import pytest
from conftest import CORPUS
from hypothesis import given, settings
from hypothesis import strategies as st
from phantoms import element

from dicomdl.errors import HeaderError
from dicomdl.headers import elements
from dicomdl.headers.elements import (
    BIG_ENDIAN,
    EXPLICIT,
    IMPLICIT,
    ITEM,
    ITEM_END,
    SEQUENCE_END,
    UNDEFINED,
    Step,
    Syntax,
    Walked,
    Wanted,
    Window,
    items,
    iterate,
    skip_sequence,
    walk,
    walk_meta,
)
from dicomdl.headers.reader import HeaderReader

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


def window_on(raw: bytes, first: int | None = None) -> Window:
    return Window(lambda offset, length: raw[offset : offset + length], len(raw), raw[:first])


def outcome(call: Callable[[], object]) -> object:
    try:
        return call()
    except HeaderError as error:
        return error.reason, str(error)


@cache
def real_headers() -> tuple[bytes, ...]:
    """The first 8 kB of some files of different kinds."""
    names = "CT_small MR_small_implicit MR_small_bigendian rtdose nested_priv_SQ UN_sequence priv_SQ SC_rgb_rle_2frame liver_1frame US1_J2KR"
    return tuple(
        (PYDICOM_FILES / f"{name}.dcm").read_bytes()[:8192]
        for name in names.split()
        if (PYDICOM_FILES / f"{name}.dcm").exists()
    )


# --- the walk -----------------------------------------------------------------------------------------------------


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


def test_the_items_of_a_sequence_come_out_alike_with_and_without_given_lengths() -> None:
    content = element(0x00080060, b"CS", b"MR")
    given_length = element(ITEM, b"", content) * 2
    delimited = (element(ITEM, b"", content, length=UNDEFINED) + element(ITEM_END, b"")) * 2
    assert (
        list(items(given_length, EXPLICIT))
        == list(items(delimited, EXPLICIT))
        == [content, content]
    )
    assert list(iterate(content, EXPLICIT)) == [(0x00080060, b"CS", b"MR")]


def test_a_file_that_ends_inside_an_element_is_truncated() -> None:
    with pytest.raises(HeaderError, match="needs 8 bytes") as caught:
        walk(window_on(element(0x00080060, b"CS", b"MR", length=8)), 0, EXPLICIT, WANTED)
    assert caught.value.reason == "truncated"


def test_padding_after_the_data_set_is_not_an_error() -> None:
    raw = element(0x00080060, b"CS", b"MR")
    for padding in (element(0xFFFCFFFC, b"OB", b"\0\0", length=999), b"\0" * 64):
        assert walk(window_on(raw + padding), 0, EXPLICIT, WANTED).values[0] == b"MR"


# --- two gears, one result ----------------------------------------------------------------------------------------


def both_gears(
    raw: bytes, position: int, syntax: Syntax, first: int | None
) -> tuple[object, object]:
    """The outcome of the fast walk, and of the plain one, which a trail asks for."""
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


@settings(max_examples=400)
@given(data_sets(), st.sampled_from([None, 0, 30]))
def test_the_fast_and_the_plain_gear_agree_on_any_sequence_of_elements(
    case: tuple[bytes, Syntax], first: int | None
) -> None:
    fast, plain = both_gears(case[0], 0, case[1], first)
    assert fast == plain


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


# --- learned layouts ----------------------------------------------------------------------------------------------


def corpus_files() -> list[str]:
    found = [str(path) for path in sorted(PYDICOM_FILES.rglob("*")) if path.is_file()]
    if CORPUS.is_dir():
        found += [
            os.path.join(root, name) for root, _, names in os.walk(CORPUS) for name in sorted(names)
        ]
    return found


@pytest.mark.slow
def test_a_reader_that_has_learned_says_the_same_as_a_new_one_whatever_it_saw_before() -> None:
    paths = corpus_files()
    random.Random(0).shuffle(paths)
    walking = HeaderReader()
    walking._layouts.CAPACITY = 0  # type: ignore[misc]
    expected = {path: walking.read(path) for path in paths}
    assert not walking._layouts._recent
    for order in (paths, sorted(paths)):
        learned = HeaderReader()
        different = [path for path in order if learned.read(path) != expected[path]]
        assert not different
    assert learned._layouts._recent


@cache
def readers() -> tuple[HeaderReader, HeaderReader, tuple[bytes, ...]]:
    """A reader that knows the layouts of some files, one that walks every file, and those files."""
    learned, walking = HeaderReader(), HeaderReader()
    walking._layouts.CAPACITY = 0  # type: ignore[misc]
    names = "CT_small MR_small MR_small_implicit rtdose SC_rgb_rle_2frame JPEG2000 MR_small_padded examples_jpeg2k"
    files = tuple((PYDICOM_FILES / f"{name}.dcm").read_bytes()[:65536] for name in names.split())
    for raw in files:
        learned.parse(raw, len(raw), lambda offset, length, raw=raw: raw[offset : offset + length])  # type: ignore[misc]
        assert learned._layouts._recent
    return learned, walking, files


header_bytes = st.one_of(st.integers(0, 255), st.sampled_from(list(b"ULSQOWCSIS")))


@settings(max_examples=600)
@given(
    st.integers(0, 7),
    st.lists(st.tuples(st.integers(128, 6000), header_bytes), min_size=1, max_size=3),
    st.booleans(),
)
def test_no_damaged_header_matches_a_layout_that_the_walk_reads_differently(
    which: int, changes: list[tuple[int, int]], insert: bool
) -> None:
    learned, walking, files = readers()
    raw = bytearray(files[which % len(files)])
    for position, value in changes:
        raw[position % len(raw)] = value
    if insert:
        raw[changes[0][0] % len(raw) : changes[0][0] % len(raw)] = b"AB"
    content = bytes(raw)

    def read(offset: int, length: int) -> bytes:
        return content[offset : offset + length]

    first = content[:16384]
    assert learned.parse(first, len(content), read) == walking.parse(first, len(content), read)


def test_two_lengths_of_one_element_become_one_layout() -> None:
    reader = HeaderReader()
    raw = (PYDICOM_FILES / "CT_small.dcm").read_bytes()
    at = raw.index(struct.pack("<HH", 0x0008, 0x0070) + b"LO")
    (length,) = struct.unpack_from("<H", raw, at + 6)
    longer = (
        raw[: at + 6]
        + struct.pack("<H", length + 4)
        + raw[at + 8 : at + 8 + length]
        + b"    "
        + raw[at + 8 + length :]
    )
    for content in (raw, longer, raw, longer):
        reader.parse(
            content,
            len(content),
            lambda offset, length, content=content: content[offset : offset + length],
        )  # type: ignore[misc]
    assert len(reader._layouts._recent) == 1
    assert reader._layouts.match(longer, 132) is not None


# --- what hostile structure may cost ------------------------------------------------------------------------------


def test_sequences_nested_too_deep_are_refused() -> None:
    for depth in (300, 50_000):
        opening = element(0x00081140, b"SQ", length=UNDEFINED) + element(
            ITEM, b"", length=UNDEFINED
        )
        for trail in (None, list[Step]()):
            with pytest.raises(HeaderError) as caught:
                walk(window_on(opening * depth), 0, EXPLICIT, WANTED, trail)
            assert caught.value.reason == "too_deep"


def test_a_sequence_without_delimiter_is_truncated() -> None:
    with pytest.raises(HeaderError) as caught:
        skip_sequence(window_on(element(ITEM, b"", b"12") * 3), 0, EXPLICIT)
    assert caught.value.reason == "truncated"


def test_elements_are_counted_over_the_whole_walk_not_a_sequence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(elements, "MAX_ELEMENTS", 1000)
    sequence = element(
        0x00081140, b"SQ", element(ITEM, b"") * 100 + element(SEQUENCE_END, b""), length=UNDEFINED
    )
    assert isinstance(walk(window_on(sequence * 8), 0, EXPLICIT, WANTED), Walked)
    with pytest.raises(HeaderError) as caught:
        walk(window_on(sequence * 11), 0, EXPLICIT, WANTED)
    assert caught.value.reason == "too_many_elements"


def test_a_header_longer_than_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elements, "MAX_HEADER_BYTES", 2**20)
    raw = element(0x00080060, b"CS", b"MR") * 300_000
    with pytest.raises(HeaderError) as caught:
        walk(window_on(raw, 0), 0, EXPLICIT, WANTED)
    assert caught.value.reason == "header_too_large"
