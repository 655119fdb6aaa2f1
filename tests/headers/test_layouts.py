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
