"""Ordinary files: the compiled walk gives the tables that the reader gives, or leaves a file."""

import os
import random
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mutations
import phantoms
import pytest
from faults.cases import CASES
from phantoms import element
from pydicom.dataset import Dataset

from dicomdl._kernels import both
from dicomdl.headers import _ordinary, many
from dicomdl.headers._heads import ITEM, ITEM_END, SEQUENCE_END, UNDEFINED
from dicomdl.headers._ordinary import pure_read_heads, read_heads
from dicomdl.headers.limits import ReadLimits
from dicomdl.headers.privacy import extra_attributes
from dicomdl.headers.reader import HeaderReader
from dicomdl.index.table import Table
from dicomdl.jobs.engine import read_chunk

pytestmark = pytest.mark.skipif(
    both(pure_read_heads) is None, reason="this installation has no compiled walk"
)


def rows(tables: Sequence[Table]) -> list[list[dict[str, Any]]]:
    return [table.plain().arrow.to_pylist() for table in tables]


def compared(
    paths: Sequence[Path], monkeypatch: pytest.MonkeyPatch, reader: HeaderReader | None = None
) -> list[int]:
    """Assert that both ways give the same tables; return the places of the ordinary files."""
    reader = reader or HeaderReader()
    names = [os.fsencode(path) for path in paths]
    with monkeypatch.context() as patch:
        taken: list[int] = []
        usual = many.ordinary_among

        def spied(*arguments: Any) -> Any:
            found = usual(*arguments)
            taken.extend(() if found is None else found.places.tolist())
            return found

        patch.setattr("dicomdl.jobs.engine.ordinary_among", spied)
        compiled = read_chunk(reader, names, 7)
        patch.setattr("dicomdl.jobs.engine.ordinary_among", lambda *_: None)
        pure = read_chunk(HeaderReader(reader.extra, reader.limits), names, 7)
    # Not-a-number equals itself as text only.
    assert repr(rows(compiled)) == repr(rows(pure))
    schemas = [table.plain().arrow.schema for table in compiled]
    assert schemas == [table.plain().arrow.schema for table in pure]
    return taken


COMPRESSED = "1.2.840.10008.1.2.4.70"


@pytest.mark.parametrize(
    "syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", COMPRESSED, "1.2.840.10008.1.2.5"]
)
def test_all_slices_of_a_series_are_ordinary(
    tmp_path: Path, syntax: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = phantoms.write_series(tmp_path, transfer_syntax=syntax)
    extra = extra_attributes(["ContrastBolusRoute", "FilterType"])
    taken = compared(paths, monkeypatch, HeaderReader(extra))
    assert taken == list(range(len(paths)))


def test_ordinary_and_other_files_keep_the_order_of_their_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slices = phantoms.write_series(tmp_path / "slices")
    (tmp_path / "text.dcm").write_text("no image")
    many_frames = phantoms.write_multiframe(tmp_path / "enhanced.dcm")
    report = phantoms.write_structured_report(tmp_path / "report.dcm")
    absent = tmp_path / "absent.dcm"
    paths = [slices[0], tmp_path / "text.dcm", slices[1], many_frames, absent, report, *slices[2:]]
    assert compared(paths, monkeypatch) == [0, 2, *range(6, len(paths))]


def edited(at: int, change: Callable[[bytes, int], bytes]) -> Callable[[bytes], bytes]:
    """Return a function that changes a file in front of one of its elements."""

    def edit(raw: bytes) -> bytes:
        position = raw.index(struct.pack("<HH", at >> 16, at & 0xFFFF), 132)
        return change(raw, position)

    return edit


def before(tag: int, added: bytes) -> Callable[[bytes], bytes]:
    return edited(tag, lambda raw, at: raw[:at] + added + raw[at:])


NESTED = element(ITEM, b"", element(0x00080100, b"SH", b"A "), length=UNDEFINED)
CLOSED = element(ITEM_END, b"") + element(SEQUENCE_END, b"")
DEEP = b"".join(
    element(ITEM, b"", element(0x00081140, b"SQ", length=UNDEFINED), length=UNDEFINED)
    for _ in range(20)
)
SEQUENCE = element(0x00081110, b"SQ", NESTED + CLOSED, length=UNDEFINED)
PATIENT, ROWS, SERIES, PIXELS = 0x00100020, 0x00280010, 0x0020000E, 0x7FE00010
SIEMENS = element(0x00190010, b"LO", b"SIEMENS MR HEADER ")
B_VALUE = element(0x0019100C, b"IS", b"5 ")
# What is done to an explicit file, and whether it stays ordinary.
CHANGES: dict[str, tuple[Callable[[bytes], bytes], bool]] = {
    "a sequence": (before(PATIENT, SEQUENCE), True),
    "a sequence of unknown elements": (
        before(PATIENT, element(0x00091001, b"UN", CLOSED[8:], length=UNDEFINED)),
        True,
    ),
    "a sequence without end": (
        before(PATIENT, element(0x00081110, b"SQ", NESTED, length=UNDEFINED)),
        False,
    ),
    "a deep sequence": (before(PATIENT, element(0x00081110, b"SQ", DEEP, length=UNDEFINED)), False),
    "a private element": (before(ROWS, SIEMENS + B_VALUE), True),
    "a private element without its creator": (before(ROWS, B_VALUE), True),
    "two creators of one block": (before(ROWS, SIEMENS + SIEMENS + B_VALUE), False),
    "an element twice": (before(ROWS, element(PATIENT, b"LO", b"other ")), True),
    "a long header": (before(ROWS, element(0x00091001, b"OB", bytes(100_000))), True),
    "a longer header": (before(ROWS, element(0x00091001, b"OB", bytes(300_000))), False),
    "a long wanted value": (before(PATIENT, element(0x0008103E, b"UT", b"A" * 70_000)), False),
    "an escape in a text": (before(PATIENT, element(0x0008103E, b"LO", b"A\x1b$B ")), False),
    "a text beyond ASCII": (before(PATIENT, element(0x0008103E, b"LO", b"\xe4\xe4")), False),
    "a preamble of a program": (lambda raw: b"MZ" + raw[2:], False),
    "no preamble": (lambda raw: raw[132:], False),
    "bytes behind the pixels": (lambda raw: raw + element(0xFFFCFFFC, b"OB", bytes(8)), False),
    "a lost end": (lambda raw: raw[:-5], False),
    "a stray delimiter": (before(ROWS, element(SEQUENCE_END, b"")), False),
    "an element without a VR": (before(ROWS, b"\x09\0\x01\x10\0\0\0\0"), False),
    "functional groups": (
        before(ROWS, element(0x52009229, b"SQ", NESTED + CLOSED, length=UNDEFINED)),
        False,
    ),
    "a mosaic": (before(ROWS, element(0x00080008, b"CS", b"ORIGINAL\\MOSAIC ")), False),
    "a vector": (before(ROWS, element(0x00540080, b"US", b"\1\0")), False),
    "several slopes": (before(PIXELS, element(0x00281053, b"DS", b"1\\2 ")), False),
    "a slope that is no number": (before(PIXELS, element(0x00281053, b"DS", b"one ")), False),
    "a blank Series": (before(ROWS, element(SERIES, b"UI", b"")), False),
    "a table of values": (
        before(ROWS, element(0x00283000, b"SQ", NESTED + CLOSED, length=UNDEFINED)),
        True,
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_file_is_read_the_same_both_ways(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, is_ordinary = CHANGES[name]
    paths = phantoms.write_series(tmp_path, shape=(3, 5, 7))
    paths[1].write_bytes(change(paths[1].read_bytes()))
    assert compared(paths, monkeypatch) == ([0, 1, 2] if is_ordinary else [0, 2])


END = element(SEQUENCE_END, b"")
FRAGMENT = element(ITEM, b"", bytes(8))


@pytest.mark.parametrize(
    ("change", "is_ordinary"),
    [
        (lambda raw: raw, True),
        (lambda raw: raw + b"\0", True),
        (lambda raw: raw + bytes(9), False),
        (lambda raw: raw[:-8], False),
        (lambda raw: raw[:-30], False),
        (lambda raw: raw[:-8] + FRAGMENT + END, False),
        (lambda raw: raw.replace(b"\xfe\xff\0\xe0\0\0\0\0", element(ITEM, b"", bytes(4))), True),
        (lambda raw: raw.replace(b"\xfe\xff\0\xe0\0\0\0\0", element(ITEM, b"", bytes(8))), False),
        (lambda raw: raw.replace(b"\xfe\xff\0\xe0\0\0\0\0", END), False),
    ],
)
def test_only_a_whole_fragment_at_the_end_is_ordinary(
    change: Callable[[bytes], bytes],
    is_ordinary: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = phantoms.write_series(tmp_path, shape=(3, 5, 7), transfer_syntax=COMPRESSED)
    # Without an offset in its table, whatever wrote the file.
    raw = paths[1].read_bytes()
    at = raw.index(b"\xe0\x7f\x10\0OB") + 12
    length = 8 + int.from_bytes(raw[at + 4 : at + 8], "little")
    plain = raw[:at] + element(ITEM, b"") + raw[at + length :]
    paths[1].write_bytes(change(plain))
    assert compared(paths, monkeypatch) == ([0, 1, 2] if is_ordinary else [0, 2])


@pytest.mark.parametrize(
    ("maker", "sequence", "is_ordinary"),
    [("GE MEDICAL", "EP", False), ("GE MEDICAL", "SE", True), ("SIEMENS", "EP", True)],
)
def test_an_echo_planar_image_of_ge_gets_its_second_look(
    maker: str, sequence: str, is_ordinary: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def edit(dataset: Dataset, _: int) -> None:
        dataset.Manufacturer, dataset.ScanningSequence = maker, sequence

    paths = phantoms.write_series(tmp_path, shape=(3, 5, 7), edit=edit)
    assert bool(compared(paths, monkeypatch)) is is_ordinary


def test_an_image_of_a_breast_without_a_view_gets_its_second_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def edit(dataset: Dataset, z: int) -> None:
        dataset.ViewPosition = ("CC", "", "MLO")[z]

    paths = phantoms.write_series(tmp_path, modality="MG", shape=(3, 5, 7), edit=edit)
    assert compared(paths, monkeypatch) == [0, 2]


def test_an_image_of_philips_gets_its_second_look_if_it_has_the_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def edit(dataset: Dataset, _: int) -> None:
        dataset.Manufacturer = "Philips"

    paths = phantoms.write_series(tmp_path, shape=(3, 5, 7), edit=edit)
    creator = element(0x20050010, b"LO", b"Philips MR Imaging DD 005 ")
    item = element(0x2005100F, b"SQ", NESTED + CLOSED, length=UNDEFINED)
    raw = paths[1].read_bytes()
    at = raw.index(b"\xe0\x7f\x10\0")
    paths[1].write_bytes(raw[:at] + creator + item + raw[at:])
    assert compared(paths, monkeypatch) == [0, 2]


def test_low_limits_and_values_of_few_files_are_left_to_the_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = phantoms.write_series(tmp_path, shape=(3, 5, 7))
    limited = HeaderReader(limits=ReadLimits(elements=3000))
    assert compared(paths, monkeypatch, limited) == []
    assert compared(paths, monkeypatch, HeaderReader(limits=ReadLimits(frames=1))) == [0, 1, 2]


def test_after_few_ordinary_files_few_are_tried(tmp_path: Path) -> None:
    ordinary = phantoms.write_series(tmp_path / "in", shape=(2, 5, 7))
    other = phantoms.write_multiframe(tmp_path / "enhanced.dcm")
    reader = HeaderReader()
    names = [os.fsencode(path) for path in ordinary]
    assert reader.read_ordinary([os.fsencode(other)] * 9) is None
    found = reader.read_ordinary(names * 30)
    assert found is not None and len(found.places) == 32
    found = reader.read_ordinary(names * 30)
    assert found is not None and len(found.places) == 60


def test_threads_find_what_one_of_them_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (
        phantoms.write_series(tmp_path / name, shape=(5, 5, 7), seed=seed)
        for name, seed in (("a", 1), ("b", 2))
    )
    other = phantoms.write_multiframe(tmp_path / "enhanced.dcm")
    names = [os.fsencode(path) for path in (*first, other, *second, *first[:3], other)]
    alone = HeaderReader().read_ordinary(names)
    monkeypatch.setattr(_ordinary, "_PER_THREAD", 4)
    together = HeaderReader(threads=3).read_ordinary(names)
    assert alone is not None and together is not None
    assert together.places.tolist() == [*range(5), *range(6, 14)]
    for name in ("places", "states", "offsets", "lengths"):
        assert getattr(together, name).tolist() == getattr(alone, name).tolist()
    assert repr(together.columns) == repr(alone.columns)
    assert together.sop_classes == alone.sop_classes
    assert HeaderReader(threads=3).read_ordinary([os.fsencode(other)] * 9) is None


def test_values_of_a_column_differ_and_each_is_in_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spellings, models = ("1", "1.0", "0", "-0", "2"), ("A", "B", "A", "B", "of a damaged file")

    def edit(dataset: Dataset, z: int) -> None:
        dataset.SliceThickness = spellings[z]
        dataset.ManufacturerModelName = models[z]

    paths = phantoms.write_series(tmp_path, shape=(5, 5, 7), edit=edit)
    paths[4].write_bytes(paths[4].read_bytes()[:-5])
    assert compared(paths, monkeypatch) == [0, 1, 2, 3]
    frames = read_chunk(HeaderReader(), [os.fsencode(path) for path in paths[:4]])[1]
    assert frames.is_encoded("manufacturer_model_name")
    for name in ("slice_thickness", "manufacturer_model_name", "sop_instance_uid"):
        codes, values = frames.codes(name)
        # As in the index, 0.0 and -0.0 differ.
        assert len({*map(repr, values)}) == len(values)
        assert set(codes.tolist()) == {*range(len(values))}


def test_files_of_one_folder_and_of_many_are_found_by_their_own_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, folder in enumerate(("a", "b", "a/c")):
        phantoms.write_series(tmp_path / folder, shape=(3, 5, 7), seed=seed)
    inside = {
        folder: [path for path in sorted((tmp_path / folder).iterdir()) if path.is_file()]
        for folder in ("a", "b", "a/c")
    }
    (tmp_path / "link").symlink_to(tmp_path / "b")
    (tmp_path / "a" / "link").symlink_to(inside["b"][1])
    one, two, deep = inside.values()
    paths = [
        *one,
        *deep,
        *(tmp_path / "a" / name for name in ("absent", "link")),
        *two,
        one[0],
        *(tmp_path / "link" / path.name for path in two),
        *(Path("b") / path.name for path in two),
        *(tmp_path / "gone" / path.name for path in two),
        one[1],
    ]
    found = HeaderReader().read_ordinary([os.fsencode(path) for path in paths])
    assert found is not None
    exists = [place for place, path in enumerate(paths) if path.exists()]
    assert found.places.tolist() == exists
    inodes = [os.stat(paths[place]).st_ino for place in exists]
    assert found.states[:, 3].tolist() == inodes


def test_what_is_no_file_is_left_to_the_reader(tmp_path: Path) -> None:
    (path,) = phantoms.write_series(tmp_path / "in", shape=(1, 5, 7))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    names = [os.fsencode(tmp_path / name) for name in ("pipe", "empty", "absent", "in")]
    found = HeaderReader().read_ordinary([*names, b"a\0b", os.fsencode(path)])
    assert found is not None and found.places.tolist() == [5]


@pytest.mark.parametrize(
    "plan",
    [
        (struct.pack("=Ii", 8, 1), (), b"\0", 0),
        (struct.pack("=Ii", 8, -1), (), b"\0", 0),
        (b"", (), b"\0", 1),
        (b"", (), b"", 0),
        (b"", (), bytes(5000), 0),
        (b"", ((9, b"A", struct.pack("=Ii", 1, 7)),), b"\0", 0),
    ],
)
def test_a_plan_that_is_none_is_refused(plan: Any) -> None:
    with pytest.raises(ValueError, match="slot"):
        read_heads((), plan, os.O_RDONLY, 1024, 0)


def test_the_cases_of_the_faults_are_read_the_same_both_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = []
    for number, case in enumerate(CASES.values()):
        (tmp_path / str(number)).mkdir()
        paths.append(tmp_path / str(number) / case.file_name)
        paths[-1].write_bytes(case.make())
    assert compared(paths, monkeypatch)


@pytest.mark.slow
def test_the_real_files_are_read_the_same_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (corpus := os.environ.get("DICOMDL_CORPUS")):
        pytest.skip("DICOMDL_CORPUS is not set")
    paths = sorted(path for path in Path(corpus).rglob("*") if path.is_file())
    assert len(compared(paths, monkeypatch)) > len(paths) // 20


def hunt(folder: Path, seed: int, count: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Compare both ways on damaged files; return how many were ordinary."""
    (folder / "seeds").mkdir()
    rng = random.Random(seed)
    originals = mutations.seeds(folder / "seeds")
    taken = 0
    for _ in range(0, count, 50):
        paths = [folder / f"{number}.dcm" for number in range(50)]
        for path in paths:
            path.write_bytes(mutations.mutant(rng, originals))
        taken += len(compared(paths, monkeypatch))
    return taken


def test_150_damaged_files_are_read_the_same_both_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hunt(tmp_path, 20261130, 150, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_damaged_files_are_read_the_same_both_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = int(os.environ.get("DICOMDL_FUZZ_SEED", "20261123"))
    print(f"DICOMDL_FUZZ_SEED={seed}")
    count = int(os.environ.get("DICOMDL_FUZZ_COUNT", "2000"))
    assert hunt(tmp_path, seed, count, monkeypatch) > count // 50


def test_without_the_compiled_walk_no_file_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = pure_read_heads((b"a",), (b"", (), b"\0", 0), os.O_RDONLY, 1024, 0)
    assert heads == (b"", b"", b"", [], 1024)
    monkeypatch.setattr(_ordinary, "CAN_READ", False)
    assert HeaderReader().read_ordinary([b"a"]) is None
