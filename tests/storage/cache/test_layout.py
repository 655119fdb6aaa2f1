"""layout: every damaged, foreign or truncated entry is detected, and computed again."""

import functools
import os
import pickle
import random
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cache_entries import (
    FORMATS,
    Maker,
    assert_content,
    assert_made_again,
    content,
    entry_file,
    flip,
    in_a_fork,
    key_of,
    never,
    posix_only,
)

from dicomdl.storage.cache import _layout as layout_module
from dicomdl.storage.cache.disk import DiskCache
from dicomdl.storage.cache.entries import Arrays
from dicomdl.storage.cache.stats import CacheWarning


def test_without_libdeflate_the_checksums_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = layout_module.checksum_of()
    layout_module.checksum_of.cache_clear()
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    slow = layout_module.checksum_of()
    layout_module.checksum_of.cache_clear()
    data = np.random.default_rng(0).integers(0, 255, 70001).astype(np.uint8)
    assert fast(data) == slow(data)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_every_flipped_bit_is_found_and_made_again(format: Any, tmp_path: Path) -> None:
    DiskCache(tmp_path / "c", format=format).get(key_of(0), Maker())
    path = entry_file(tmp_path / "c", key_of(0))
    whole = path.read_bytes()
    rng = random.Random(f"flips of {format}")
    bytes_of_header = [(byte, rng.randrange(8)) for byte in range(0, 140)]
    for byte, bit in [
        *bytes_of_header,
        *((rng.randrange(len(whole)), rng.randrange(8)) for _ in range(150)),
    ]:
        path.write_bytes(whole)
        flip(path, byte, bit)
        assert_made_again(tmp_path / "c", 0)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_every_truncation_and_every_tail_is_found(format: Any, tmp_path: Path) -> None:
    DiskCache(tmp_path / "c", format=format).get(key_of(0), Maker())
    path = entry_file(tmp_path / "c", key_of(0))
    whole = path.read_bytes()
    rng = random.Random(1)
    for length in [
        0,
        1,
        127,
        128,
        4095,
        4096,
        len(whole) - 1,
        *(rng.randrange(len(whole)) for _ in range(40)),
    ]:
        path.write_bytes(whole[:length])
        assert_made_again(tmp_path / "c", 0)
    path.write_bytes(whole + b"\0")
    assert_made_again(tmp_path / "c", 0)
    # The state that a power cut leaves.
    path.write_bytes(whole[: len(whole) // 2].ljust(len(whole), b"\0"))
    assert_made_again(tmp_path / "c", 0)


def test_the_entry_of_another_key_is_not_taken(tmp_path: Path) -> None:
    made = DiskCache(tmp_path / "c")
    for number in (0, 1):
        made.get(key_of(number), functools.partial(content, number))
    a, b = (entry_file(tmp_path / "c", key_of(number)) for number in (0, 1))
    for source, target in ((a, tmp_path / "aside"), (b, a), (tmp_path / "aside", b)):
        os.replace(source, target)
    for number in (0, 1):
        assert_made_again(tmp_path / "c", number)


def test_another_version_byte_order_or_format_is_a_miss(tmp_path: Path) -> None:
    DiskCache(tmp_path / "c").get(key_of(0), Maker())
    path = entry_file(tmp_path / "c", key_of(0))
    whole = path.read_bytes()
    for offset, new in (
        (8, struct.pack("<I", 0)),
        (8, struct.pack("<I", 2)),
        (56, b">i2\0"),
        (56, b"|O8\0"),
        (64, b"zfp\0"),
        (72, b"\x09"),
    ):
        changed = bytearray(whole)
        changed[offset : offset + len(new)] = new
        sealed(changed)
        path.write_bytes(changed)
        assert_made_again(tmp_path / "c", 0)


def sealed(header: bytearray) -> None:
    """Correct the checksum of a changed header."""
    header[12:16] = bytes(4)
    header[12:16] = struct.pack("<I", zlib.crc32(header[:4096]))


def test_headers_with_true_checksums_and_absurd_sizes_are_misses_that_allocate_nothing(
    tmp_path: Path,
) -> None:
    DiskCache(tmp_path / "c").get(key_of(0), Maker())
    path = entry_file(tmp_path / "c", key_of(0))
    whole = path.read_bytes()
    rng = random.Random(2)
    for _ in range(150):
        changed = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(72, 128) // 4 * 4
            changed[at : at + 4] = struct.pack(
                "<I", rng.choice([0, 1, 2, 40, 50, 2**16, 2**31 - 1, 2**32 - 1])
            )
        sealed(changed)
        path.write_bytes(changed)
        made = DiskCache(tmp_path / "c")
        # By chance the entry is complete; otherwise it is not found.
        assert made._find(key_of(0).digest) is None or made.get(key_of(0), never).shape


def test_whatever_has_an_entrys_name_is_a_miss_and_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    DiskCache(folder)
    path = entry_file(folder, key_of(0))
    outside = tmp_path / "outside"
    DiskCache(tmp_path / "other").get(key_of(0), Maker())
    os.rename(entry_file(tmp_path / "other", key_of(0)), outside)
    before = outside.read_bytes()

    def pickled() -> None:
        path.write_bytes(pickle.dumps(content(0)))

    def npy() -> None:
        with open(path, "wb") as file:
            np.save(file, np.array([{}], object), allow_pickle=True)

    for put in (
        lambda: path.symlink_to(outside),
        lambda: os.mkfifo(path),
        lambda: path.write_bytes(layout_module.MAGIC * 999),
        pickled,
        npy,
    ):
        put()
        assert_made_again(folder, 0)
        path.unlink()
    assert outside.read_bytes() == before
    path.mkdir()
    with pytest.warns(CacheWarning, match="cannot store"):
        assert_content(DiskCache(folder).get(key_of(0), Maker()), 0)


@pytest.mark.slow
@posix_only
def test_hostile_files_run_no_code(tmp_path: Path) -> None:
    DiskCache(tmp_path / "c").get(key_of(0), Maker())
    path = entry_file(tmp_path / "c", key_of(0))
    whole = path.read_bytes()
    bad = (
        "pickle.find_class",
        "os.system",
        "os.exec",
        "subprocess.Popen",
        "exec",
        "compile",
        "marshal.loads",
        "import",
    )

    def child() -> None:
        rng = random.Random(3)
        armed = True

        def hook(event: str, _: Any) -> None:
            if armed and event in bad:
                os._exit(1)

        assert_content(DiskCache(tmp_path / "c").get(key_of(0), never), 0)
        DiskCache(tmp_path / "c").get(key_of(1), Maker(1))  # imports what locks need
        sys.addaudithook(hook)
        for _ in range(150):
            data = bytearray(rng.choice([whole, pickle.dumps(print), rng.randbytes(5000)]))
            for _ in range(rng.randrange(20)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            path.write_bytes(data)
            assert_content(
                DiskCache(tmp_path / "c").get(key_of(0), functools.partial(content, 0)), 0
            )

    assert in_a_fork(child) == 0


# --- the format -----------------------------------------------------------------------------------


def golden(values: bytes, mask: bytes, digest: str) -> bytes:
    """An entry of 2 x 3 x 4 int16 with a mask, written from the description of the format alone."""
    blocks = [values[:24], values[24:], mask[:3], mask[3:]]
    checksums = struct.pack("<4I", *map(zlib.crc32, blocks))

    def header(checksum: int) -> bytes:
        return struct.pack(
            "<8s I I Q 32s 8s 8s I I 4Q 3I I",
            b"\x89DCMDL\r\n",
            1,
            checksum,
            4096 + 48 + 6,
            bytes.fromhex(digest),
            b"<i2",
            b"raw",
            3,
            1,
            *(2, 3, 4, 0),
            *(1, 3, 4),
            0x12345678,
        )

    blank = (header(0) + checksums).ljust(4096, b"\0")
    return header(zlib.crc32(blank)) + blank[128:] + values + mask


@pytest.fixture
def tiny() -> Arrays:
    mask = np.zeros((2, 3, 4), bool)
    mask[0, 0, 0] = mask[1, 2, 3] = True
    return Arrays(np.arange(24, dtype="<i2").reshape(2, 3, 4), mask)


@pytest.mark.skipif(sys.byteorder == "big", reason="values are in the byte order of the machine")
def test_an_entry_as_the_format_describes_it_is_read(tiny: Arrays, tmp_path: Path) -> None:
    made = DiskCache(tmp_path / "c")
    masks = bytes([0x80, 0, 0, 0, 0, 0x10])
    entry_file(tmp_path / "c", key_of(0)).write_bytes(
        golden(tiny.values.tobytes(), masks, key_of(0).digest)
    )
    entry = made.get(key_of(0), never)
    assert np.array_equal(entry.part(), tiny.values)
    assert np.array_equal(entry.mask_part(), tiny.mask)


@pytest.mark.skipif(sys.byteorder == "big", reason="values are in the byte order of the machine")
def test_an_entry_is_written_as_the_format_describes_it(
    tiny: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout_module.secrets, "randbits", lambda _: 0x12345678)
    pieces = layout_module.file_pieces(key_of(0).digest, tiny, "raw")
    masks = bytes([0x80, 0, 0, 0, 0, 0x10])
    assert b"".join(map(bytes, pieces)) == golden(tiny.values.tobytes(), masks, key_of(0).digest)


def test_bytes_of_another_meaning_need_another_version() -> None:
    """A change of the golden entry requires a new version, and a new number here."""
    assert layout_module.FORMAT_VERSION == 1
