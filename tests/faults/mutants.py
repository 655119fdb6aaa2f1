"""Inputs of the hunts: damaged headers, codestreams, annotations and tables, made from a number."""

import io
import random
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import phantoms
import phantoms_labels
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
from faults.sizes import SEED
from faults.writing import JPEG, JPEG_2000, JPEG_LOSSLESS, JPEG_LS, PIXEL_DATA, RLE, us
from faults.writing import encapsulated as in_items
from faults.writing import image_file as file_of
from mutations import Seed, mutant, seed_of, seeds
from numpy.typing import NDArray
from phantoms import element

from dicomdl.headers._heads import SEQUENCE_END

SHAPE = (4, 5, 7)
PER_FOLDER = 40
CODECS = {
    "RLE": RLE,
    "JPEG": JPEG,
    "lossless JPEG": JPEG_LOSSLESS,
    "JPEG-LS": JPEG_LS,
    "JPEG 2000": JPEG_2000,
}


def chance(kind: str, number: int) -> random.Random:
    """Return the chance of one input, which its kind and number name."""
    return random.Random(f"{SEED}-{kind}-{number}")


def packed(files: dict[str, bytes]) -> bytes:
    """Return files as one input."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return raw.getvalue()


def unpack(raw: bytes, folder: Path) -> None:
    """Write the files of one input."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        for name in archive.namelist():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(name))


@dataclass(frozen=True, slots=True)
class Headers:
    """Folders of damaged files: of one series with its labels, of all seeds, or of one file."""

    groups: Sequence[Sequence[Seed]]

    def __call__(self, number: int) -> bytes:
        """Return a folder of mutants."""
        rng = chance("headers", number)
        group = rng.choice([*self.groups, [rng.choice(self.groups[-1])]])
        return packed({f"{k:02}.dcm": mutant(rng, group) for k in range(PER_FOLDER)})


def series_with_labels(folder: Path) -> tuple[list[Path], list[Path]]:
    """Write a series, and a structure set, a SEG and a dose of it."""
    images = phantoms.write_series(folder / "good", shape=SHAPE)
    square = phantoms_labels.contour([[0, 0, 0], [3, 0, 0], [3, 3, 0], [0, 3, 0]])
    masks = [(1, (0.0, 0.0, float(2 * z)), np.ones(SHAPE[1:], np.uint8)) for z in range(SHAPE[0])]
    others = folder / "labels"
    labels = [
        phantoms_labels.write_structure_set(others / "rt.dcm", images[0], {"square": [square]}),
        phantoms_labels.write_seg(others / "seg.dcm", images[0], masks),
        phantoms_labels.write_dose(others / "d.dcm", images[0], np.ones(SHAPE, np.uint16)),
    ]
    return images, labels


def header_groups(folder: Path) -> list[list[Seed]]:
    """Return the groups of files of which the mutants of one folder are."""
    images, labels = series_with_labels(folder)
    series = [seed_of(path) for path in (*images[:2], *labels)]
    return [series, [*series, *seeds(folder / "seeds")]]


@dataclass(frozen=True, slots=True)
class Annotations:
    """Folders of one sound series with damaged SEGs, structure sets and doses.

    Their sequences have undefined lengths, so that elements within items are damaged, too.
    """

    images: dict[str, bytes]
    seeds: Sequence[Seed]

    def __call__(self, number: int) -> bytes:
        """Return a folder of the series and 8 mutants."""
        rng = chance("annotations", number)
        return packed(self.images | {f"l{k}.dcm": mutant(rng, self.seeds) for k in range(8)})


def annotations(folder: Path) -> Annotations:
    images, labels = series_with_labels(folder)
    for path in labels:
        dataset = pydicom.dcmread(path)
        for each in dataset.iterall():
            if each.VR == "SQ":
                each.is_undefined_length = True
                for item in each.value:
                    item.is_undefined_length_sequence_item = True
        dataset.save_as(path)
    return Annotations(
        {path.name: path.read_bytes() for path in images}, [seed_of(path) for path in labels]
    )


def codestream(syntax: bytes, image: NDArray[np.unsignedinteger]) -> bytes:
    """Return a codestream of an image of 8 or 16 bits, or of colours."""
    raw = phantoms.encode_frame(image, syntax.decode(), 8 * image.itemsize)
    return raw + bytes(len(raw) % 2)


def image_of(stream: bytes, syntax: bytes, image: NDArray[np.unsignedinteger]) -> bytes:
    """Return the file of a codestream of an image."""
    bits, colours = 8 * image.itemsize, image.ndim == 3
    return file_of(
        {
            0x00280002: us(3 if colours else 1),
            0x00280004: (b"CS", b"RGB " if colours else b"MONOCHROME2 "),
            0x00280006: us(0) if colours else None,
            0x00280100: us(bits),
            0x00280101: us(bits),
            0x00280102: us(bits - 1),
            PIXEL_DATA: in_items(stream + bytes(len(stream) % 2)),
        },
        syntax,
        shape=image.shape[:2],
    )


def ramps(syntax: bytes) -> list[NDArray[np.unsignedinteger]]:
    """Return images that a codec takes: 8 bits, colours and, but for JPEG, 16 bits."""
    ramp = np.arange(31) + 7 * np.arange(24)[:, None]
    colours = np.random.default_rng(5).integers(0, 256, (24, 31, 3)).astype(np.uint8)
    images: list[NDArray[np.unsignedinteger]] = [ramp.astype(np.uint8), colours]
    return images if syntax == JPEG else [*images, ramp.astype(np.uint16)]


@dataclass(frozen=True, slots=True)
class Codestreams:
    """Files of one damaged codestream."""

    syntax: bytes
    images: Sequence[NDArray[np.unsignedinteger]]
    streams: Sequence[bytes]

    def __call__(self, number: int) -> bytes:
        """Return a file with one to four damages of its codestream."""
        which = number % len(self.images)
        stream = damaged(self.streams[which], chance(self.syntax.decode(), number))
        return image_of(stream, self.syntax, self.images[which])


def codestreams(syntax: bytes) -> Codestreams:
    images = ramps(syntax)
    return Codestreams(syntax, images, [codestream(syntax, image) for image in images])


def damaged(stream: bytes, rng: random.Random) -> bytes:
    """Return a stream with one to four changes, half of them near its begin, and an end marker."""
    raw = bytearray(stream)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(rng.choice([min(200, len(raw)), len(raw)]))
        length = rng.randint(1, 40)
        change = rng.randrange(4)
        if change == 0:
            raw[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFE, 0xFF])
        elif change == 1:
            raw[at] ^= 1 << rng.randrange(8)
        elif change == 2 and len(raw) > 100:
            del raw[at : at + length]
        else:
            raw[at:at] = raw[at : at + length]
    # Without its end, any stream is refused before it is decoded.
    return bytes(raw) if raw.rstrip(b"\0").endswith(b"\xff\xd9") else bytes(raw) + b"\xff\xd9"


def cut(syntax: bytes, points: int) -> tuple[Callable[[int], bytes], int]:
    """Return files of codestreams that are cut at some points each, and their number."""
    images = ramps(syntax)
    streams = [codestream(syntax, image).rstrip(b"\0") for image in images]

    def make(number: int) -> bytes:
        which, point = divmod(number, points)
        length = len(streams[which]) * point // points
        return image_of(streams[which][:length], syntax, images[which])

    return make, points * len(images)


def cut_files(files: Sequence[bytes], points: int) -> tuple[Callable[[int], bytes], int]:
    """Return files that are cut at some points within their pixels, and their number.

    The sequence delimiter behind encapsulated frames is no part of them.
    """

    def make(number: int) -> bytes:
        which, point = divmod(number, points)
        raw = files[which]
        begin = raw.rindex(struct.pack("<HH", PIXEL_DATA >> 16, PIXEL_DATA & 0xFFFF)) + 12
        end = len(raw) - 8 * raw.endswith(element(SEQUENCE_END, b""))
        return raw[: begin + (end - begin) * point // points]

    return make, points * len(files)


def multi_frame_files() -> list[bytes]:
    """Return native and encapsulated files of one and of three frames."""
    three = {0x00280008: (b"IS", b"3 ")}
    image = (np.arange(5) + 7 * np.arange(4)[:, None]).astype(np.uint16)
    native = (b"OW", image.tobytes() * 3)
    coded = [codestream(syntax, image) for syntax in (JPEG_2000, JPEG_LS, RLE)]
    return [
        file_of(),
        file_of({**three, PIXEL_DATA: native}),
        *(
            file_of({**three, PIXEL_DATA: in_items(stream, stream, stream)}, syntax)
            for stream, syntax in zip(coded, (JPEG_2000, JPEG_LS, RLE), strict=True)
        ),
    ]


def tables(uids: Sequence[str]) -> Callable[[int], bytes]:
    """Return damaged CSV and Parquet files of labels, with their suffix in front."""
    rows = {"id": list(uids), "label": list(range(len(uids))), "text": [f"a,{u}" for u in uids]}
    lines = ["id,label,text", *(f'{u},{n},"a,{u}"' for n, u in enumerate(uids))]
    parquet = io.BytesIO()
    pq.write_table(pa.table(rows), parquet)
    originals = (b"csv:" + "\n".join(lines).encode(), b"parquet:" + parquet.getvalue())

    def make(number: int) -> bytes:
        rng = chance("tables", number)
        kind, _, raw = originals[number % 2].partition(b":")
        changed = bytearray(raw)
        for _ in range(rng.randint(1, 3)):
            at, length = rng.randrange(len(changed)), rng.randint(1, 40)
            new = rng.choice(
                [
                    b"",
                    b"\0",
                    b'"',
                    b"\n",
                    b",",
                    b"\xff\xfe",
                    b"=cmd()",
                    rng.randbytes(4),
                    b"9" * 400,
                ]
            )
            changed[at : at + (length if rng.random() < 0.5 else len(new))] = new
        return kind + b":" + bytes(changed)

    return make
