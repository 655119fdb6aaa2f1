"""Damaged headers, codestreams, annotations and tables: typed errors, and no crash, hang or escape.

Each test has a smoke and a full size (`sizes`). A failing input stays in a folder of the test.
"""

import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults import mutants
from faults.hunting import Hunt, hunt
from faults.mutants import CODECS, PER_FOLDER, unpack
from faults.sizes import SEED, sizes

import dicomdl
from dicomdl.headers.reader import HeaderReader, read_frames

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked"),
]
Record = Callable[[str, object], None]
# A decoder may need 8 times the bytes of a frame, and its libraries must be loaded.
DECODER_MIB = 256
HEADER_MIB = 128
# The budget of the caches of a process. While they held every index open, the whole way of 8,000
# annotations took 850 MiB.
WAY_MIB = 256
FOLDERS = f"folders of {PER_FOLDER} mutants"


def require(
    found: Hunt, record_property: Record, mib: float | None = None, unit: str = "inputs"
) -> None:
    """Require that nothing has failed; record the figure."""
    figure = f"{sum(found.outcomes.values()):,} {unit}: {found.figure}"
    record_property("figure", figure)
    print(f"DICOMDL_FUZZ_SEED={SEED}: {figure}")
    assert not found.failed, f"inputs {found.failed[:20]} are kept in {found.folder}"
    assert mib is None or found.peak_mib <= mib


def quiet(take: Callable[[bytes], object]) -> Callable[[bytes], object]:
    def taken(raw: bytes) -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return take(raw)

    return taken


# --- headers --------------------------------------------------------------------------------------


@sizes("folders", smoke=6, full=500)
def test_damaged_headers_go_the_whole_way(
    folders: int, tmp_path: Path, record_property: Record
) -> None:
    torch = pytest.importorskip("torch")
    from faults.whole_way import Way

    def take(raw: bytes) -> None:
        torch.set_num_threads(1)  # the threads of the parent are not in a fork
        way = Way()
        with tempfile.TemporaryDirectory(dir=tmp_path) as scratch:
            unpack(raw, Path(scratch, "data"))
            index = way.walk(Path(scratch, "data"), Path(scratch, "index"))
        assert not way.escapes, sorted(set(way.escapes))
        assert index is not None
        assert index.ledger["files"] == PER_FOLDER
        with open(tmp_path / "frames", "a") as counted:
            counted.write(f"{way.outcomes['frame', 'fine']}\n")

    make = mutants.Headers(mutants.header_groups(tmp_path / "seeds"))
    quiet(take)(make(0))  # what children load is no growth of theirs
    found = hunt(folders, make, quiet(take), tmp_path / "hunt")
    require(found, record_property, WAY_MIB, FOLDERS)
    # Damage that leaves nothing to read would find nothing, either.
    frames = sum(map(int, (tmp_path / "frames").read_text().split()))
    assert frames > folders * PER_FOLDER // 4


REQUIRED = (
    "sop_instance_uid",
    "study_instance_uid",
    "series_instance_uid",
    "rows",
    "columns",
    "bits_allocated",
    "transfer_syntax_uid",
)
FLAGS = {
    "sop_instance_uid": "no_sop_instance_uid",
    "study_instance_uid": "no_study_uid",
    "series_instance_uid": "no_series_uid",
}


@sizes("folders", smoke=25, full=500)
def test_no_damaged_header_loses_a_required_attribute_silently(
    folders: int, tmp_path: Path, record_property: Record
) -> None:
    reader = HeaderReader()
    numbers = [[column.name for column in reader.columns].index(name) for name in REQUIRED]

    def take(raw: bytes) -> None:
        with tempfile.TemporaryDirectory(dir=tmp_path) as scratch:
            unpack(raw, Path(scratch))
            headers = [reader.read(str(path)) for path in Path(scratch).iterdir()]
        for header in headers:
            assert header.reason != "reader_error", header.detail
            for row in header.rows:
                lost = [name for name, n in zip(REQUIRED, numbers, strict=True) if not row[n]]
                silent = [name for name in lost if FLAGS.get(name) not in header.flags.split()]
                assert not silent
            assert not header.rows or header.sop_class_uid or "no_sop_class" in header.flags

    make = mutants.Headers(mutants.header_groups(tmp_path / "seeds"))
    found = hunt(folders, make, quiet(take), tmp_path / "hunt")
    require(found, record_property, HEADER_MIB, FOLDERS)


# --- codestreams ----------------------------------------------------------------------------------


def read(raw: bytes, path: Path) -> list[Any]:
    path.write_bytes(raw)
    return [dicomdl.read_frame(frame) for frame in read_frames(path)]


@pytest.mark.parametrize("codec", CODECS)
@sizes("count", smoke=100, full=15_000)
def test_damaged_codestreams_are_frames_or_typed_errors(
    codec: str, count: int, tmp_path: Path, record_property: Record
) -> None:
    make = mutants.codestreams(CODECS[codec])
    shapes = {image.shape for image in make.images}

    def take(raw: bytes) -> None:
        assert all(frame.shape in shapes for frame in read(raw, tmp_path / "a.dcm"))

    found = hunt(count, make, quiet(take), tmp_path / "hunt")
    require(found, record_property, DECODER_MIB + 8)
    assert found.slowest_s <= 3


@pytest.mark.parametrize("codec", [*CODECS, "files"])
@sizes("points", smoke=20, full=199)
def test_no_truncated_frame_is_an_array(
    codec: str, points: int, tmp_path: Path, record_property: Record
) -> None:
    if codec == "files":
        make, count = mutants.cut_files(mutants.multi_frame_files(), points)
    else:
        make, count = mutants.cut(CODECS[codec], points)

    def take(raw: bytes) -> None:
        frames = read(raw, tmp_path / "a.dcm")
        raise AssertionError(f"{len(frames)} arrays of a truncated file")

    found = hunt(count, make, quiet(take), tmp_path / "hunt")
    require(found, record_property)
    assert found.outcomes["typed error"] == count


# --- annotations and tables -----------------------------------------------------------------------


@sizes("folders", smoke=8, full=1000)
def test_damaged_annotations_go_the_whole_way(
    folders: int, tmp_path: Path, record_property: Record
) -> None:
    torch = pytest.importorskip("torch")
    from faults.whole_way import Way

    def take(raw: bytes) -> None:
        torch.set_num_threads(1)
        way = Way()
        with tempfile.TemporaryDirectory(dir=tmp_path) as scratch:
            unpack(raw, Path(scratch, "data"))
            index = way.walk(Path(scratch, "data"), Path(scratch, "index"))
        assert not way.escapes, sorted(set(way.escapes))
        assert index is not None

    make = mutants.annotations(tmp_path / "seeds")
    quiet(take)(make(0))
    found = hunt(folders, make, quiet(take), tmp_path / "hunt")
    require(found, record_property, WAY_MIB, "folders of 8 mutants")


@sizes("count", smoke=100, full=10_000)
def test_damaged_tables_are_labels_or_usage_errors(
    count: int, tmp_path: Path, record_property: Record
) -> None:
    mutants.series_with_labels(tmp_path / "data")
    index = dicomdl.scan(tmp_path / "data", tmp_path / "index", progress=False, workers=1)
    uids = sorted({index.value(number, "sop_instance_uid") for number in range(len(index))})

    def take(raw: bytes) -> None:
        kind, _, content = raw.partition(b":")
        path = tmp_path / f"labels.{kind.decode()}"
        path.write_bytes(content)
        joined = index.join(path, on={"sop_instance_uid": "id"}, on_unmatched="keep")
        repr(joined), repr(joined.joins)
        joined.to_pandas("frames")

    found = hunt(count, mutants.tables(uids), quiet(take), tmp_path / "hunt")
    require(found, record_property)
    assert found.outcomes["fine"] > count // 20
