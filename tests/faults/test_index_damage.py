"""Damage of an index on the disk: no answer is wrong, the check finds it, and a scan heals it."""

import os
import pickle
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import phantoms
import phantoms_labels
import pytest

import dicomdl
from dicomdl.errors import IndexDamaged, IndexFolderError, UsageError
from dicomdl.index import (
    _cell_readers,
    _stored_selections,
    stored_generation,
)
from dicomdl.index.schema import TABLES
from dicomdl.storage import checksums, memory

pytestmark = pytest.mark.slow
SHAPE: Final = (4, 5, 7)
Ask = Callable[[dicomdl.Index], Any]


def content(index: dicomdl.Index) -> Any:
    """Return every row of every table, through the columns of Arrow."""
    generation = index._generation
    return {name: repr(getattr(generation, name).plain().arrow.to_pylist()) for name in TABLES}


def stack_facts(index: dicomdl.Index) -> Any:
    return [
        (
            repr(stack),
            repr(stack.affine),
            stack.detail,
            stack.paths,
            repr(stack.positions),
            stack.is_constant("rescale_slope"),
            [(each.kind, each.status) for each in stack.annotations],
        )
        for stack in index.stacks
    ]


def selections(index: dicomdl.Index) -> Any:
    parts = index.split((0.5, 0.5), seed=1)
    selected = index.select(modality="CT", min_slices=2)
    return [part.rows().tolist() for part in (*parts, selected)]


QUESTIONS: Final[Mapping[str, Ask]] = {
    "frames": lambda index: [repr(index.frame(i)) for i in range(len(index))],
    "last frame": lambda index: repr(index.frame(-1)),
    "sources": lambda index: [repr(index.source(i).file) for i in range(len(index))],
    "one value": lambda index: index.value(len(index) // 2, "rescale_intercept"),
    "stacks": stack_facts,
    "selections": selections,
    "overview": lambda index: str(index).replace(index.path, ""),
    "facts": lambda index: repr(dict(index.manifest)),
    "problems": lambda index: [(p.path, p.reason) for p in index.problems],
    "pickle": lambda index: repr(pickle.loads(pickle.dumps(index)).stacks),
    "tables": content,
}


@pytest.fixture
def count() -> int:
    """Return the number of flips; 1000 is the nightly run."""
    return int(os.environ.get("DICOMDL_FUZZ_COUNT", "20"))


@pytest.fixture
def rng() -> random.Random:
    seed = int(os.environ.get("DICOMDL_FUZZ_SEED", "20261129"))
    print(f"DICOMDL_FUZZ_SEED={seed}")
    return random.Random(seed)


@pytest.fixture(params=[2**16, 256], ids=["blocks of 64 KiB", "blocks of 256 bytes"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of images, labels and a problem; with small blocks, a cell verifies few of them."""
    for module in (checksums, stored_generation):
        monkeypatch.setattr(module, "BLOCK_BYTES", request.param)
    if request.param < 2**16:
        monkeypatch.setattr(_cell_readers, "SMALL_BYTES", 0)
        monkeypatch.setattr(_cell_readers, "CHUNK_BITS", 1)
    folder = tmp_path / "root"
    write_root(folder, 5)
    return folder


def write_root(folder: Path, patients: int) -> None:
    for number in range(patients):
        phantoms.write_series(
            folder / str(number),
            shape=SHAPE,
            seed=number,
            intercept=[-1000 - z for z in range(SHAPE[0])],
            patient_id=f"P{number}",
            study_uid=phantoms.uid("study", number),
            frame_of_reference=phantoms.uid("frame of reference", number),
            instance_numbers=range(1, SHAPE[0] + 1),
        )
    first = next((folder / "0").iterdir())
    square = phantoms_labels.contour([[0, 0, 0], [3, 0, 0], [3, 3, 0], [0, 3, 0]])
    phantoms_labels.write_structure_set(folder / "rt.dcm", first, {"square": [square]})
    (folder / "cut.dcm").write_bytes(first.read_bytes()[:300])


def files_of(out: Path) -> list[Path]:
    return sorted(path for path in out.rglob("*") if path.is_file())


def damages(rng: random.Random, out: Path, other: Path, count: int) -> Iterator[tuple[Path, bytes]]:
    """Yield (file, its damaged bytes): flips, and per 20 of them 4 cuts, a swap and an empty file.

    A file is swapped for another one of the index, or for the same one of another index.
    """
    files = files_of(out)
    sizes = [path.stat().st_size for path in files]
    for number in range(count):
        (path,) = rng.choices(files, sizes if number % 2 else None)
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        yield path, bytes(data)
        if number % 5 == 0:
            path = rng.choice(files)
            data = bytearray(path.read_bytes())
            yield path, bytes(data[: rng.choice([rng.randrange(len(data)), len(data) - 1])])
        if number % 20 == 0:
            path = rng.choice(files)
            twin = other / path.relative_to(out)
            if not twin.exists():
                twin = next((other / "generations").iterdir()) / path.name
            yield path, rng.choice([p for p in (*files, twin) if p != path]).read_bytes()
            yield rng.choice(files), b""


def replace(path: Path, data: bytes) -> None:
    """Put bytes in the place of a file, which others may have mapped."""
    new = path.with_suffix(".new")
    new.write_bytes(data)
    os.replace(new, path)


def asked(out: Path, ask: Ask) -> Any:
    """Return an answer of a process that has verified nothing yet."""
    memory.clear()
    return ask(dicomdl.open_index(out))


@pytest.mark.timeout(1800)
def test_a_damaged_index_gives_no_wrong_answer_and_the_check_finds_it(
    root: Path, tmp_path: Path, rng: random.Random, count: int
) -> None:
    """A failing index stays in the folder of the test."""
    out, other = tmp_path / "index", tmp_path / "other"
    dicomdl.scan(root, out, progress=False)
    write_root(tmp_path / "more", 6)
    dicomdl.scan(tmp_path / "more", other, progress=False)
    right = {name: asked(out, ask) for name, ask in QUESTIONS.items()}
    asked(out, lambda index: index.check())
    outcomes = {"error": 0, "unused": 0}
    for path, data in damages(rng, out, other, count):
        whole = path.read_bytes()
        replace(path, data)
        for name, ask in QUESTIONS.items():
            try:
                answer = asked(out, ask)
            except IndexFolderError:
                outcomes["error"] += 1
            else:
                assert answer == right[name], (name, path)
                outcomes["unused"] += 1
        if data != whole:
            with pytest.raises(IndexFolderError, match="scan"):
                asked(out, lambda index: index.check())
        replace(path, whole)
    print(outcomes)
    assert outcomes["error"] > count


def test_a_scan_heals_a_damaged_index(
    root: Path, tmp_path: Path, rng: random.Random, count: int
) -> None:
    out = tmp_path / "index"
    right = content(dicomdl.scan(root, out, progress=False))
    for path, data in [*damages(rng, out, out, max(2, count // 20))]:
        if not path.exists():
            continue
        replace(path, data)
        memory.clear()
        index = dicomdl.scan(root, out, progress=False)
        assert content(index) == right, path
        index.check()
        for generation in (out / "generations").iterdir():
            if generation.name != index.generation:
                shutil.rmtree(generation)


@pytest.mark.parametrize("part", ["selections", "joins"])
def test_damaged_files_of_the_cache_are_errors_and_are_written_anew(
    part: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rng: random.Random,
    count: int,
    cache_folder: Path,
) -> None:
    monkeypatch.setattr(_stored_selections, "INLINE_RANGES", 0)
    write_root(tmp_path / "root", 3)
    index = dicomdl.scan(tmp_path / "root", tmp_path / "index", progress=False)

    def made() -> dicomdl.Index:
        joined = index.join({"P0": "a", "P1": "b", "P2": "c"}, on="patient_id", label="label")
        return joined.select(instance_number=[1, 3])

    def answer(pickled: bytes) -> Any:
        opened = pickle.loads(pickled)
        return opened.rows().tolist(), [opened.value(i, "label") for i in range(len(opened))]

    pickled = pickle.dumps(made())
    right = answer(pickled)
    files = files_of(cache_folder / part)
    assert len(files) == (1 if part == "selections" else 2)
    for number in range(count):
        path = rng.choice(files)
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        replace(path, bytes(data[: rng.randrange(len(data))] if number % 5 == 0 else data))
        with pytest.raises(IndexDamaged, match="damaged") as caught:
            answer(pickled)
        assert caught.value.table == part.removesuffix("s")
        assert answer(pickle.dumps(made())) == right
        assert answer(pickled) == right


def test_a_damaged_split_file_moves_no_group(
    tmp_path: Path, rng: random.Random, count: int
) -> None:
    write_root(tmp_path / "root", 3)
    index = dicomdl.scan(tmp_path / "root", tmp_path / "index", progress=False)
    path = tmp_path / "split.json"
    index.split((0.5, 0.5), seed=1).save(path)
    right, whole = dicomdl.load_split(path), path.read_bytes()
    refused = 0
    for _ in range(5 * count):
        data = bytearray(whole)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            assert dicomdl.load_split(path) == right
        except UsageError:
            refused += 1
    assert refused > 4 * count
