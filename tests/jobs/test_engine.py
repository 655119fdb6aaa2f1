"""engine: whatever one file does, it becomes one row of problems and costs no other file."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import phantoms
import pytest
from pydicom.dataset import Dataset

import dicomdl
from dicomdl.headers import _ordinary, many
from dicomdl.headers._heads import SEQUENCE_END, UNDEFINED
from dicomdl.headers.privacy import extra_attributes
from dicomdl.headers.reader import HeaderReader
from dicomdl.index.table import Table
from dicomdl.jobs import engine
from dicomdl.jobs.engine import read_chunk


def written(folder: Path, numbers: dict[int, int]) -> list[bytes]:
    """Paths of a series in slice order; slice z has `numbers`[z] as the offset of a container."""

    def edit(dataset: Dataset, z: int) -> None:
        if z in numbers:
            dataset.FileOffsetInContainer = numbers[z]

    return [os.fsencode(path) for path in phantoms.write_series(folder, edit=edit)]


def maybe_a_fault(name: str) -> contextlib.AbstractContextManager[object]:
    """Expect a warning where the compiled walk is there."""
    if not many.CAN_READ:
        return contextlib.nullcontext()
    engine._warn_of_fault.cache_clear()
    return pytest.warns(RuntimeWarning, match=f"failed with {name}")


def test_a_file_whose_values_cannot_be_converted_is_a_problem_beside_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = written(tmp_path, {})
    reader = HeaderReader()
    number = [column.name for column in reader.columns].index("instance_number")
    usual = reader._schema.converters[number]

    def convert(raw: bytes) -> Any:
        if raw.strip() == b"4":
            raise RecursionError("a name")
        return usual(raw)

    converters = [*reader._schema.converters]
    converters[number] = convert
    monkeypatch.setattr(reader._schema, "converters", converters)
    with maybe_a_fault("RecursionError"):
        files, frames, problems, _ = read_chunk(reader, paths, 100)
    assert files.column("kind").to_pylist() == ["image"] * 3 + ["problem"] + ["image"] * 2
    assert frames.numbers("file").tolist() == [100, 101, 102, 104, 105]
    assert problems.numbers("file").tolist() == [103]
    assert problems.column("reason").to_pylist() == ["reader_error"]
    (detail,) = problems.column("detail").to_pylist()
    assert "RecursionError in test_engine.py" in detail and "a name" not in detail
    # The state of the file is that of a file that was read: the next scan leaves it alone.
    assert files.numbers("file_bytes").tolist() == [os.stat(path).st_size for path in paths]


@pytest.mark.skipif(not many.CAN_READ, reason="needs the compiled module")
def test_a_fault_of_the_compiled_walk_costs_no_file_and_is_warned_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise SystemError("a name")

    paths = written(tmp_path, {})
    expected = read_chunk(HeaderReader(), paths)[1].plain().arrow
    monkeypatch.setattr(_ordinary, "read_heads", fail)
    engine._warn_of_fault.cache_clear()
    with pytest.warns(RuntimeWarning, match="failed with SystemError") as caught:
        found = [read_chunk(HeaderReader(), paths)[1].plain().arrow for _ in range(2)]
    assert found == [expected] * 2
    assert len(caught) == 1 and "a name" not in str(caught[0].message)


def test_unsigned_numbers_of_64_bits_beyond_the_signed_ones_are_absent(tmp_path: Path) -> None:
    written(tmp_path / "in", {0: 2**64 - 1, 1: 2**63, 2: 2**63 - 1, 3: 5})
    index = dicomdl.scan(
        tmp_path / "in",
        out=tmp_path / "index",
        attributes=["FileOffsetInContainer"],
        progress=False,
        workers=1,
    )
    (stack,) = index.stacks
    assert [dict(frame.extra)["file_offset_in_container"] for frame in stack.frames] == [
        *(None, None, 2**63 - 1, 5, None, None)
    ]
    assert [attribute.vr for attribute in extra_attributes(["FileOffsetInContainer"])] == ["UV"]


@pytest.mark.parametrize("workers", [1, 2])
def test_no_element_of_undefined_length_ends_a_scan(tmp_path: Path, workers: int) -> None:
    paths = phantoms.write_series(tmp_path / "in")
    raw = paths[3].read_bytes()
    at = raw.index(b"\x10\0\x10\0PN")
    closed = phantoms.element(SEQUENCE_END, b"")
    odd = phantoms.element(0x00090010, b"UN", closed, length=UNDEFINED)
    paths[3].write_bytes(raw[:at] + odd + raw[at:])
    index = dicomdl.scan(tmp_path / "in", out=tmp_path / "index", progress=False, workers=workers)
    assert index.ledger["image"] == 6
    assert [stack.verdict for stack in index.stacks] == ["regular"]


@pytest.mark.parametrize("slice_number", [0, 3, 5])
def test_a_slice_cut_before_its_image_needs_a_person(tmp_path: Path, slice_number: int) -> None:
    paths = phantoms.write_series(tmp_path / "in")
    raw = paths[slice_number].read_bytes()
    paths[slice_number].write_bytes(raw[: raw.index(b"\x28\0\2\0US")])
    index = dicomdl.scan(tmp_path / "in", out=tmp_path / "index", progress=False, workers=1)
    assert (index.ledger["image"], index.ledger["no_image"]) == (5, 0)
    (problem,) = index.problems
    assert problem.reason == "no_pixel_data" and problem.path == str(paths[slice_number])
    assert len(index.check().problems) == 1


@pytest.mark.parametrize("worth_s", [-1.0, 1e9])
def test_workers_start_only_where_the_rest_of_the_files_takes_long(
    worth_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    def workers(
        chunks: Sequence[tuple[int, Sequence[bytes]]],
        reading: engine.Reading,
        count: int,
        *,
        joins: bool,
    ) -> Iterator[list[Table]]:
        assert joins
        started.append(count)
        return engine._in_process(chunks, reading, HeaderReader())

    paths = written(tmp_path, {})
    monkeypatch.setattr(engine, "CHUNK_FILES", 2)
    monkeypatch.setattr(engine, "available_cores", lambda: 4)
    monkeypatch.setattr(engine, "_in_workers", workers)
    monkeypatch.setattr(engine, "WORTH_S", worth_s)
    parts = list(engine.read_all(paths, engine.Reading(), None, progress=False))
    assert [file for part in parts for file in part[1].numbers("file")] == [*range(len(paths))]
    assert started == ([1] if worth_s < 0 else [])
