"""Mutations: damaged copies of good files, for tests that any bytes give a header or a problem.

All mutations are drawn from a `random.Random`, so a seed names a file.
"""

import random
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import phantoms
import phantoms_multi
import pydicom.data
from phantoms import element

from dicomdl.headers._elements import Wanted, walk, walk_meta
from dicomdl.headers._heads import ITEM, SEQUENCE_END, UNDEFINED, Step, Syntax
from dicomdl.headers._window import Window
from dicomdl.headers.uids import DEFLATED, EXPLICIT_BIG, IMPLICIT_LITTLE

PYDICOM_FILES = Path(pydicom.data.__file__).parent / "test_files"
_SEED_FILES = (
    "CT_small MR_small MR_small_implicit MR_small_bigendian image_dfl SC_rgb_rle_2frame JPEG2000 "
    "priv_SQ rtdose UN_sequence"
)


class Seed(NamedTuple):
    """A good file, and the positions of its elements.

    The data set of a deflated file is inflated; it begins at `packed_from`, which is 0 for others.
    """

    name: str
    content: bytes
    boundaries: list[int]
    packed_from: int = 0

    def file(self, content: bytes) -> bytes:
        """Return the file of a changed content."""
        if not self.packed_from:
            return content
        deflater = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
        at = self.packed_from
        return content[:at] + deflater.compress(content[at:]) + deflater.flush()


def seed_of(path: Path) -> Seed:
    """Return the seed of one good file with a preamble."""
    content = path.read_bytes()
    meta: list[Step] = []
    raw_syntax, start = walk_meta(_window(content), 132, meta, 0)
    uid = raw_syntax.rstrip(b"\0").decode()
    packed_from = start if uid == DEFLATED else 0
    if packed_from:
        content = content[:start] + zlib.decompress(content[start:], -zlib.MAX_WBITS)
    trail: list[Step] = []
    coding = Syntax(uid != IMPLICIT_LITTLE, uid != EXPLICIT_BIG)
    walk(_window(content), start, coding, Wanted([]), trail)
    return Seed(path.name, content, [step.position for step in meta + trail], packed_from)


def _window(content: bytes) -> Window:
    return Window(lambda offset, length: content[offset : offset + length], len(content))


def phantom_seeds(folder: Path) -> list[Seed]:
    """Return seeds of phantoms: each coding of headers, and each kind of multi-frame file."""
    paths = [
        phantoms.write_series(folder / str(number), shape=(1, 5, 7), transfer_syntax=syntax)[0]
        for number, syntax in enumerate(phantoms.NATIVE_SYNTAXES)
    ]
    syntax = "1.2.840.10008.1.2.4.70"
    paths += [
        phantoms.write_multiframe(folder / "enhanced.dcm", shape=(3, 5, 7)),
        phantoms.write_multiframe(folder / "j.dcm", shape=(2, 5, 7), transfer_syntax=syntax),
        phantoms.write_segmentation_1bit(folder / "segmentation.dcm"),
        phantoms_multi.write_mosaic(folder / "mosaic.dcm", series_header=True),
        phantoms_multi.write_uih_grid(folder / "uih.dcm"),
        phantoms_multi.write_nm_volume(folder / "nm.dcm"),
    ]
    return [seed_of(path) for path in paths]


def seeds(folder: Path) -> list[Seed]:
    """Return seeds of phantoms and of files that pydicom ships."""
    found = [seed_of(PYDICOM_FILES / f"{name}.dcm") for name in _SEED_FILES.split()]
    return found + phantom_seeds(folder)


def _replace(raw: bytes, at: int, new: bytes, old_length: int | None = None) -> bytes:
    return raw[:at] + new + raw[at + (len(new) if old_length is None else old_length) :]


def _change_byte(raw: bytes, at: int, _: int, rng: random.Random) -> bytes:
    return _replace(
        raw,
        at + rng.randrange(12),
        bytes([rng.choice([0, 1, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)])]),
    )


def _change_length(raw: bytes, at: int, _: int, rng: random.Random) -> bytes:
    rest = len(raw) - at
    length = rng.choice(
        [
            0,
            1,
            3,
            0xFFFF,
            0x7FFFFFFF,
            0xFFFFFFFE,
            0xFFFFFFFF,
            rest,
            rest - 1,
            rest - 8,
            rest - 12,
            rest + 1,
        ]
    )
    if rng.random() < 0.5:
        return _replace(raw, at + 6, struct.pack("<H", length & 0xFFFF))
    return _replace(raw, at + rng.choice([4, 8]), struct.pack("<I", max(0, length)))


def _change_vr(raw: bytes, at: int, _: int, rng: random.Random) -> bytes:
    return _replace(
        raw,
        at + 4,
        rng.choice(
            [
                b"OB",
                b"SQ",
                b"UN",
                b"US",
                b"LO",
                b"DS",
                b"UT",
                b"ds",
                b"\0\0",
                b"ZZ",
                raw[at : at + 2],
            ]
        ),
    )


def _delete_element(raw: bytes, at: int, after: int, rng: random.Random) -> bytes:
    return raw[:at] + raw[after:]


def _double_element(raw: bytes, at: int, after: int, rng: random.Random) -> bytes:
    return raw[:after] + raw[at:after] + raw[after:]


def _swap_with_next(raw: bytes, at: int, after: int, rng: random.Random) -> bytes:
    return raw[:at] + raw[after : 2 * after - at] + raw[at:after] + raw[2 * after - at :]


def _insert_delimiter(raw: bytes, at: int, _: int, rng: random.Random) -> bytes:
    return _replace(
        raw,
        at,
        rng.choice([b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0", b"\xfe\xff\x00\xe0"]) + b"\0" * 4,
        0,
    )


def _delete_delimiter(raw: bytes, at: int, _: int, rng: random.Random) -> bytes:
    found = max(raw.find(b"\xfe\xff\x0d\xe0", at), raw.find(b"\xfe\xff\xdd\xe0", at))
    return _replace(raw, found, b"", 8) if found >= 0 else _insert_delimiter(raw, at, 0, rng)


def _cut_anywhere(raw: bytes, at: int, _: int, rng: random.Random) -> bytes:
    return raw[: rng.randrange(len(raw))]


def _cut_at_element(raw: bytes, at: int, _: int, rng: random.Random) -> bytes:
    return raw[:at]


def _swap_endianness(raw: bytes, at: int, _: int, rng: random.Random) -> bytes:
    return _replace(
        raw,
        at,
        raw[at + 1 : at + 2] + raw[at : at + 1] + raw[at + 3 : at + 4] + raw[at + 2 : at + 3],
    )


def _change_number(raw: bytes, at: int, after: int, rng: random.Random) -> bytes:
    text = rng.choice(
        [
            b"nan",
            b"inf",
            b"1e400",
            b"",
            b"   ",
            b"1,5",
            b"12345678901234567",
            b"\\\\\\",
            b"-1",
            b"2000000000",
        ]
    )
    room = max(0, min(after - at - 8, 16))
    return _replace(raw, after - room, text[:room].ljust(room))


def _change_transfer_syntax(raw: bytes, at: int, _: int, rng: random.Random) -> bytes:
    found = raw.find(b"1.2.840.10008.1.2")
    texts = [
        b"1.2.840.10008.1.2",
        b"1.2.840.10008.1.2.1",
        b"1.2.840.10008.1.2.2",
        b"1.2.840.10008.1.2.4.90",
        b"1.2.840.10008.1.2.1.99",
        b"9",
    ]
    length = struct.unpack_from("<H", raw, found - 2)[0] if found > 2 else 0
    return _replace(raw, found, rng.choice(texts)[:length].ljust(length, b"\0"))


def _insert_undefined(raw: bytes, at: int, _: int, rng: random.Random) -> bytes:
    """Insert a value of undefined length: a private creator, a copy of the next tag, or another."""
    tag = rng.choice([raw[at : at + 4], raw[at : at + 2] + b"\x10\0", b"\x09\0\x10\0"])
    return _replace(raw, at, tag + _undefined(rng), 0)


def _make_undefined(raw: bytes, at: int, after: int, rng: random.Random) -> bytes:
    """Replace the value of an element by one of undefined length."""
    return raw[: at + 4] + _undefined(rng) + raw[after:]


def _undefined(rng: random.Random) -> bytes:
    """VR, undefined length and value: empty, of one item, or without its delimiter."""
    vr = rng.choice([b"UN\0\0", b"SQ\0\0", b"OB\0\0", b"UT\0\0", b""])
    name = element(0x00090010, b"LO", b"GEMS_PETD_01")
    values = (
        element(SEQUENCE_END, b""),
        element(ITEM, b"") + element(SEQUENCE_END, b""),
        element(ITEM, b"", name) + element(SEQUENCE_END, b""),
        element(ITEM, b"", name, length=UNDEFINED) + element(SEQUENCE_END, b""),
        b"",
    )
    return vr + struct.pack("<I", UNDEFINED) + rng.choice(values)


def _change_value(raw: bytes, at: int, after: int, rng: random.Random) -> bytes:
    """Set all bytes of a value to one value, of which DICOM has many odd ones."""
    byte = bytes([rng.choice([0, 1, 0x20, 0x30, 0x5C, 0x7F, 0x80, 0xFE, 0xFF])])
    return _replace(raw, at + 8, byte * max(0, min(after - at - 8, 64)))


def _lengthen(raw: bytes, at: int, after: int, rng: random.Random) -> bytes:
    """Replace the value of an element with 16 bits of length by a long one of one digit or word."""
    value = rng.choice([b"7", b"7\\", b"A", b"\xff", b"1.", b"^"]) * rng.choice([200, 5000, 20000])
    return raw[: at + 6] + struct.pack("<H", len(value)) + value + raw[after:]


MUTATORS = (
    _change_byte,
    _change_byte,
    _change_length,
    _change_length,
    _change_vr,
    _delete_element,
    _double_element,
    _swap_with_next,
    _insert_delimiter,
    _delete_delimiter,
    _cut_anywhere,
    _cut_at_element,
    _swap_endianness,
    _change_number,
    _change_value,
    _insert_undefined,
    _make_undefined,
    _lengthen,
    _change_transfer_syntax,
)


def mutant(rng: random.Random, originals: Sequence[Seed]) -> bytes:
    """Return a file that differs from one of the originals in one to three places."""
    seed = rng.choice(originals)
    raw = seed.content
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        number = rng.randrange(len(seed.boundaries) - 1)
        begin, end = seed.boundaries[number : number + 2]
        raw = rng.choice(MUTATORS)(raw, begin, end, rng) or b"\0"
    if rng.random() < 0.05:
        other = rng.choice(originals).content
        raw = raw[: rng.randrange(len(raw))] + other[rng.randrange(len(other)) :]
    return seed.file(raw)
