"""layouts: learned layouts give the same result as the walk, for any bytes."""

import os
import random
import struct
from functools import cache
from pathlib import Path

import pydicom.data
import pytest
from conftest import CORPUS
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
    MAX_STEPS,
    SEQUENCE_END,
    UNDEFINED,
    Step,
    Syntax,
)
from dicomdl.headers._layouts import Layouts
from dicomdl.headers._window import Window
from dicomdl.headers.reader import HeaderReader

PYDICOM_FILES = Path(pydicom.data.__file__).parent / "test_files"


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
    names = (
        "CT_small MR_small MR_small_implicit rtdose SC_rgb_rle_2frame JPEG2000 MR_small_padded "
        "examples_jpeg2k"
    )
    files = tuple((PYDICOM_FILES / f"{name}.dcm").read_bytes()[:65536] for name in names.split())
    for raw in files:
        learned.parse(raw, len(raw), lambda offset, length, raw=raw: raw[offset : offset + length])  # type: ignore[misc]
        assert learned._layouts._recent
    return learned, walking, files


header_bytes = st.one_of(st.integers(0, 255), st.sampled_from(list(b"ULSQOWCSIS")))


@pytest.mark.slow
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


# --- layouts of small files, against the walk -----------------------------------------------------

WANTED = Wanted(
    [
        (0x00020010, ""),
        (0x00080060, ""),
        (0x00280010, ""),
        (0x0019000C, "ACME"),
        (0, ""),
        (0x52009230, ""),
        (0x00200013, ""),
    ],
    frozenset({1}),
)
CODINGS = {b"1.2.840.10008.1.2\0": IMPLICIT, b"1.2.840.10008.1.2.1\0": EXPLICIT}
Walking = tuple[tuple[bytes, ...], tuple[int, int, bytes, int]] | None


def small_file(syntax: Syntax = EXPLICIT, **changed: bytes | None) -> bytes:
    """Return a file of the elements that a layout treats in different ways, some changed.

    A change to None leaves the element out.
    """
    uid = next(uid for uid, coding in CODINGS.items() if coding == syntax)
    items = element(ITEM, b"", element(0x00080100, b"SH", b"code", syntax)) + element(
        SEQUENCE_END, b""
    )
    parts = {
        "meta": element(0x00020010, b"UI", uid),
        "first": element(0x00080005, b"CS", b"ISO_IR 100", syntax),
        "modality": element(0x00080060, b"CS", b"MR", syntax),
        "name": element(0x00080070, b"LO", b"ACME", syntax),
        "open": element(0x00081140, b"SQ", items, syntax, UNDEFINED),
        "creator": element(0x00190010, b"LO", b"ACME", syntax),
        "private": element(0x0019100C, b"IS", b"10", syntax),
        "number": element(0x00200013, b"IS", b"12", syntax),
        "rows": element(0x00280010, b"US", b"\7\0", syntax),
        "text": element(0x00291020, b"UT", b"free text ", syntax),
        "groups": element(0x52009230, b"SQ", items, syntax, UNDEFINED),
        "pixels": element(0x7FE00010, b"OW", b"\1\2\3\4", syntax),
    }
    assert set(changed) <= set(parts)
    return b"".join(value for value in (parts | changed).values() if value is not None)


def told(walked: Walked | None) -> Walking:
    assert walked is None or walked.pixel_data is not None
    return None if walked is None else (walked.values, tuple(walked.pixel_data or ()))  # type: ignore[return-value]


def walked(raw: bytes, layouts: Layouts | None = None, known: int | None = None) -> Walking:
    """Return what the walk says of a file, None if it refuses it; `layouts` learn it.

    The layouts have only the first `known` bytes.
    """
    window = Window.on(raw)
    meta: list[Step] = []
    steps: list[Step] = []
    try:
        uid, start = walk_meta(window, 0, meta, 0)
        syntax = CODINGS[uid]
        found = walk(window, start, syntax, WANTED, steps)
    except (HeaderError, KeyError):
        return None
    if found.pixel_data is None:
        return None
    if layouts is not None:
        layouts.learn(raw[:known], 0, syntax, meta, steps)
    found = found._replace(values=(uid, *found.values[1:]))
    return told(found)


def matched(layouts: Layouts, raw: bytes) -> Walking:
    found = layouts.match(raw, 0)
    if found is None:
        return None
    values, pixels = told(found.walked) or ((), (0, 0, b"", 0))
    assert found.transfer_syntax == values[0] and found.syntax == CODINGS[values[0]]
    return values, pixels


def value_of(name: str, syntax: Syntax, value: bytes) -> bytes:
    tag, vr = {
        "modality": (0x00080060, b"CS"),
        "name": (0x00080070, b"LO"),
        "private": (0x0019100C, b"IS"),
        "number": (0x00200013, b"IS"),
        "text": (0x00291020, b"UT"),
        "pixels": (0x7FE00010, b"OW"),
    }[name]
    return element(tag, vr, value, syntax)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT], ids=["explicit", "implicit"])
def test_files_whose_values_have_other_lengths_match_at_once_and_again(syntax: Syntax) -> None:
    for name in ("modality", "name", "private", "number", "text", "pixels"):
        layouts = Layouts(WANTED)
        raw = small_file(syntax)
        assert walked(raw, layouts) == matched(layouts, raw)
        for value in (b"", b"A", b"CHANGED ", b"MR", b"AB" * 40):
            other = small_file(syntax, **{name: value_of(name, syntax, value)})
            for _ in range(2):
                assert matched(layouts, other) == walked(other) != None, (name, value)  # noqa: E711
                assert matched(layouts, raw) == walked(raw)
        # All lengths changed, and each run was split where they did.
        everything = {
            each: value_of(each, syntax, b"all changed ")
            for each in ("modality", "name", "private", "number", "text", "pixels")
        }
        other = small_file(syntax, **everything)
        assert matched(layouts, other) == walked(other)
        assert matched(layouts, raw) == walked(raw)
        assert len(layouts._recent) == 1


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT], ids=["explicit", "implicit"])
def test_wanted_sequences_of_undefined_length_match_whatever_their_items(syntax: Syntax) -> None:
    layouts = Layouts(WANTED)
    walked(small_file(syntax), layouts)
    for count in (0, 1, 3):
        inside = element(ITEM, b"", element(0x00080100, b"SH", b"x" * 6, syntax)) * count
        inside += element(
            ITEM,
            b"",
            element(0x00080100, b"SH", b"y", syntax) + element(ITEM_END, b""),
            length=UNDEFINED,
        )
        groups = element(0x52009230, b"SQ", inside + element(SEQUENCE_END, b""), syntax, UNDEFINED)
        raw = small_file(syntax, groups=groups)
        found = matched(layouts, raw)
        assert found == walked(raw) and found is not None and found[0][5] == inside


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT], ids=["explicit", "implicit"])
def test_a_value_longer_than_its_vr_allows_is_left_to_the_walk(syntax: Syntax) -> None:
    def modality(size: int) -> bytes:
        return small_file(syntax, modality=element(0x00080060, b"UN", b"A" * size, syntax))

    for split in (False, True):
        for size, known in ((0xFFFE, True), (0xFFFF, False)):
            layouts = Layouts(WANTED)
            walked(modality(2), layouts)
            if split:
                assert matched(layouts, modality(4)) == walked(modality(4))
            assert matched(layouts, modality(size)) == walked(modality(size))
            assert (walked(modality(size)) is not None) is known
    # The VR of another wanted element has a length of 32 bits.
    layouts = Layouts(WANTED)
    for size in (2, 0x10000, 0x20000):
        raw = small_file(syntax, number=element(0x00200013, b"UN", b"1" * size, syntax))
        if size == 2:
            walked(raw, layouts)
        assert matched(layouts, raw) == walked(raw) != None  # noqa: E711


STRUCTURES: dict[str, dict[str, bytes | None]] = {
    "another first element": {"first": element(0x00080005, b"CS", b"ISO_IR 13")},
    "another tag": {"name": element(0x00080071, b"LO", b"ACME")},
    "another VR": {"name": element(0x00080070, b"ST", b"ACME")},
    "a longer header": {"name": element(0x00080070, b"UT", b"ACME")},
    "one element less": {"name": None},
    "one element less at the end": {"text": None},
    "no first element": {"first": None},
    "another creator": {"creator": element(0x00190010, b"LO", b"EMCA")},
    "a longer creator": {"creator": element(0x00190010, b"LO", b"ACME  ")},
    "another block": {"creator": element(0x00190011, b"LO", b"ACME")},
    "a defined length": {"groups": element(0x52009230, b"SQ", element(ITEM, b"", b""))},
    "an unwanted sequence of defined length": {
        "open": element(0x00081140, b"SQ", element(ITEM, b"", b""))
    },
    "another item": {
        "open": element(
            0x00081140,
            b"SQ",
            element(ITEM, b"", element(0x00080100, b"SH", b"co")) + element(SEQUENCE_END, b""),
            length=UNDEFINED,
        )
    },
    "an undefined length": {"text": element(0x00291020, b"UT", b"", length=UNDEFINED)},
    "pixels of undefined length": {"pixels": element(0x7FE00010, b"OB", b"", length=UNDEFINED)},
    "a value beyond the file": {"pixels": element(0x00290021, b"UT", b"ab", length=99)},
    "a text beyond the file": {"text": element(0x00291020, b"UT", b"ab", length=9999)},
    "a value longer than its VR allows": {"modality": element(0x00080060, b"CS", b"A" * 8)},
    "a sequence that is cut": {
        "groups": element(0x52009230, b"SQ", b"", length=UNDEFINED),
        "pixels": None,
    },
    "nothing after the sequence": {"rows": None, "text": None, "groups": None, "pixels": None},
}


@pytest.mark.parametrize("twice", [False, True], ids=["whole runs", "split runs"])
@pytest.mark.parametrize("name", STRUCTURES)
def test_another_structure_is_never_read_differently_than_by_the_walk(
    name: str, twice: bool
) -> None:
    layouts = Layouts(WANTED)
    raw = small_file()
    walked(raw, layouts)
    if twice:
        for each in ("modality", "name", "private", "number", "text"):
            matched(layouts, small_file(**{each: value_of(each, EXPLICIT, b"split ")}))
    other = small_file(**STRUCTURES[name])
    expected = walked(other)
    for _ in range(2):
        found = matched(layouts, other)
        assert found is None or found == expected
    assert matched(layouts, raw) == walked(raw)


def test_layouts_of_changed_small_files_say_what_the_walk_says() -> None:
    """Bytes are changed, removed and inserted at random."""
    rng = random.Random(11)
    hits = 0
    for syntax in (EXPLICIT, IMPLICIT):
        raw = small_file(syntax)
        layouts = Layouts(WANTED)
        walked(raw, layouts)
        for _ in range(1200):
            content = bytearray(raw)
            for _ in range(rng.randrange(1, 3)):
                at = rng.randrange(len(content))
                way = rng.randrange(4)
                if way == 0:
                    del content[at : at + rng.choice((1, 2, 8))]
                elif way == 1:
                    content[at:at] = rng.choice((b"\0", b"AB", b"\0" * 8, b"UT\0\0"))
                else:
                    content[at] = rng.choice((0, 1, 2, 4, 8, 0xFF, rng.randrange(256)))
            changed = bytes(content)
            found = matched(layouts, changed)
            hits += found is not None
            assert found is None or found == walked(changed)
    assert hits > 200


def test_the_last_eight_layouts_are_kept_and_the_one_that_matched_comes_first() -> None:
    layouts = Layouts(WANTED)
    files = [small_file(first=element(0x00080005, b"CS", b"x" * 2 * n)) for n in range(10)]
    for raw in files[:8]:
        walked(raw, layouts)
    assert [matched(layouts, raw) is not None for raw in files] == [True] * 8 + [False] * 2
    assert matched(layouts, files[0]) == walked(files[0])
    walked(files[8], layouts)
    walked(files[9], layouts)
    # Files 1 and 2 matched least recently.
    assert [matched(layouts, raw) is not None for raw in files] == [
        True, False, False, True, True, True, True, True, True, True
    ]  # fmt: skip
    assert len(layouts._recent) == Layouts.CAPACITY == 8


def test_a_layout_serves_files_that_begin_at_the_same_byte_only() -> None:
    layouts = Layouts(WANTED)
    raw = small_file()
    walked(raw, layouts)
    assert layouts.match(b"\0" * 132 + raw, 132) is None
    assert layouts.match(raw, 0) is not None


def test_learning_is_worthwhile_at_first_and_rarely_after_64_misses() -> None:
    layouts = Layouts(WANTED)
    worth = [layouts.worth_learning() for _ in range(200)]
    assert worth == [n < 64 or n % 32 == 0 for n in range(1, 201)]
    walked(small_file(), layouts)
    assert layouts.match(small_file(), 0) is not None
    assert all(layouts.worth_learning() for _ in range(63)) and layouts.worth_learning()
    assert not layouts.worth_learning()


def test_what_no_layout_can_hold_is_walked_each_time() -> None:
    raw = small_file()
    pixels = raw.index(b"\xe0\x7f\x10\0")
    cases = {
        "a header that is longer than what was read": (raw, pixels + 11, 0),
        "a header that was read up to the pixels": (raw, pixels + 12, 1),
        "no transfer syntax": (small_file(meta=element(0x00020002, b"UI", b"1.2\0")), None, 0),
        "two transfer syntaxes": (
            small_file(meta=element(0x00020010, b"UI", b"1.2.840.10008.1.2.1\0") * 2),
            None,
            0,
        ),
        "an element without a VR": (
            small_file(name=element(0x00080070, b"LO", b"ACME", IMPLICIT)),
            None,
            0,
        ),
    }
    for name, (content, known, count) in cases.items():
        layouts = Layouts(WANTED)
        walked(content, layouts, known)
        assert len(layouts._recent) == count, name
    layouts = Layouts(WANTED)
    steps: list[Step] = []
    walk(Window.on(raw), 0, EXPLICIT, WANTED, steps)
    layouts.learn(raw, 0, EXPLICIT, steps[:1], [])
    layouts.learn(raw, 0, BIG_ENDIAN, steps[:1], steps[1:])
    assert not layouts._recent
    # A small file without its text has twelve steps.
    for count, learned in ((MAX_STEPS, 1), (MAX_STEPS + 1, 0)):
        walked(small_file(text=element(0x00291021, b"SH", b"") * (count - 12)), layouts)
        assert len(layouts._recent) == learned
        layouts = Layouts(WANTED)


def test_values_that_change_twice_split_their_run() -> None:
    """The unchanged elements around them are then compared at once again."""
    layouts = Layouts(WANTED)
    walked(small_file(), layouts)
    (layout,) = layouts._recent
    before = len(layout.segments)
    for number in range(3):
        raw = small_file(number=value_of("number", EXPLICIT, b"%02d" % number))
        assert matched(layouts, raw) == walked(raw)
        assert (len(layout.segments) > before) is (number == 2)
    changing = next(n for n, step in enumerate(layout.steps) if step.head.tag == 0x00200013)
    assert changing in layout.varying
    segments = len(layout.segments)
    for number in range(9):
        # A run of three elements or fewer is as quick as its parts.
        assert matched(layouts, small_file(rows=element(0x00280010, b"US", bytes([number, 0]))))
    assert len(layout.segments) == segments
    assert {layout.steps[n].head.tag for n in layout.varying} == {0x00200013, 0x7FE00010}


def test_elements_that_vary_in_one_series_vary_in_the_next_one_from_the_start() -> None:
    layouts = Layouts(WANTED)
    walked(small_file(), layouts)
    assert matched(layouts, small_file(number=value_of("number", EXPLICIT, b"123 "))) is not None
    walked(small_file(name=None), layouts)
    newest = layouts._recent[0]
    assert {newest.steps[n].head.tag for n in newest.varying} == {0x00200013, 0x7FE00010}
