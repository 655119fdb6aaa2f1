"""The scan: every file counts once, an update equals a fresh scan, an old index stays valid."""

import contextlib
import functools
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pydicom
import pytest
from faults import bombs
from phantoms import uid, write_secondary_capture, write_series, write_structured_report

import dicomdl
from dicomdl.cli.main import main
from dicomdl.errors import IndexFolderError, StorageError, UsageError
from dicomdl.headers.reader import HeaderReader
from dicomdl.index import generations as generations_module
from dicomdl.index.index import Index
from dicomdl.jobs import _digests as digests_module
from dicomdl.jobs import engine as engine_module
from dicomdl.jobs import roots as roots_module
from dicomdl.jobs import scan as scanner
from dicomdl.jobs.engine import WorkerWarning
from dicomdl.storage import folders as folders_module
from dicomdl.storage import locks
from dicomdl.storage import publishing as storage

posix_only = pytest.mark.skipif(
    os.name != "posix", reason="links, modes and signals are those of POSIX"
)
TABLES = ("files", "frames", "stacks", "problems")
ALL_TABLES = (*TABLES, "annotations")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six CT slices, a report, a text file, an empty file and a truncated one."""
    folder = tmp_path / "root"
    paths = write_series(folder / "ct")
    write_structured_report(folder / "report.dcm")
    (folder / "notes.dcm").write_text("no DICOM, whatever the name says")
    (folder / "empty.dcm").write_bytes(b"")
    (folder / "cut").write_bytes(paths[0].read_bytes()[:-20])
    paths[0].rename(paths[0].with_name("slice.txt"))
    return folder


@pytest.fixture
def out(tmp_path: Path) -> str:
    return str(tmp_path / "index")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files whose header was read, in order."""
    seen: list[str] = []
    original = HeaderReader.read

    def counting(self: HeaderReader, path: str) -> Any:
        seen.append(os.path.basename(path))
        return original(self, path)

    monkeypatch.setattr(HeaderReader, "read", counting)
    # So that each file is read by itself.
    monkeypatch.setattr(HeaderReader, "read_ordinary", lambda *_: None)
    return seen


def scan(*roots: Any, out: Any = None, **options: Any) -> Index:
    return dicomdl.scan(list(roots), out=out, progress=False, **options)


def content(index: Index, tables: Sequence[str] = TABLES) -> dict[str, list[str]]:
    """Tables of an index as text, independent of the encoding of columns.

    As text, because NaN does not equal itself. Without digests of pixels, which an index keeps of
    frames that were compared once.
    """
    found = {}
    for name in tables:
        arrow = getattr(index._generation, name).plain().arrow
        columns = [column for column in arrow.column_names if column != "pixel_digest"]
        found[name] = [repr(row) for row in arrow.select(columns).to_pylist()]
    return found


def names(index: Index) -> list[str]:
    return sorted(
        os.path.basename(os.fsdecode(path))
        for path in index._generation.files.column("path").to_pylist()
    )


def all_bytes(folder: str | Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file())


# --- the ledger -----------------------------------------------------------------------------------


def test_the_ledger_adds_up_and_every_file_is_of_one_kind(root: Path, out: str) -> None:
    index = scan(root, out=out)
    assert dict(index.ledger) == {
        "files": 10,
        "image": 6,
        "no_image": 1,
        "not_dicom": 1,
        "problem": 2,
    }
    assert sorted(problem.reason for problem in index.problems) == ["empty", "truncated"]
    assert len(index) == 6
    assert [stack.verdict for stack in index.stacks] == ["regular"]


def test_the_ledger_of_the_corpus_adds_up(corpus: Path, out: str) -> None:
    index = scan(corpus, out=out)
    ledger = dict(index.ledger)
    assert (
        ledger.pop("files")
        == sum(ledger.values())
        == sum(len(found) for _, _, found in os.walk(corpus))
    )
    assert ledger["problem"] == len(index.problems)
    with_frames = set(index._generation.frames.numbers("file").tolist())
    assert len(with_frames) == ledger["image"]


def test_problems_name_the_file_and_quote_no_value(root: Path, out: str) -> None:
    problems = {os.path.basename(problem.path): problem for problem in scan(root, out=out).problems}
    assert set(problems) == {"empty.dcm", "cut"}
    assert "70 bytes" in problems["cut"].detail
    assert "RAMP" not in repr(problems)


def test_an_empty_folder_is_an_empty_index_that_prints(tmp_path: Path, out: str) -> None:
    (tmp_path / "nothing").mkdir()
    index = scan(tmp_path / "nothing", out=out)
    assert len(index) == len(index.stacks) == 0
    assert "0 frames" in str(index)
    assert index._repr_html_()
    assert len(index.select(modality="CT")) == 0
    assert [len(part) for part in index.split((0.5, 0.5))] == [0, 0]
    assert scan(tmp_path / "nothing", out=out).generation == index.generation


# --- roots and the walk ---------------------------------------------------------------------------


def test_roots_may_be_several_overlapping_and_single_files(
    root: Path, out: str, tmp_path: Path
) -> None:
    other = write_series(tmp_path / "other", shape=(2, 5, 7), seed=3)
    index = scan(root / "ct", root, other[0], str(other[0]), os.fsencode(other[1]), out=out)
    assert index.ledger["files"] == 12
    assert index.ledger["image"] == 8


def test_one_root_may_be_given_as_a_string_a_path_or_bytes(root: Path, out: str) -> None:
    generations = {
        dicomdl.scan(one, out=out, progress=False).generation
        for one in (str(root), root, os.fsencode(root))
    }
    assert len(generations) == 1


def test_hidden_folders_are_passed_over_and_counted_but_not_hidden_files(
    root: Path, out: str
) -> None:
    shutil.move(root / "ct", root / ".hidden")
    shutil.copy(root / "report.dcm", root / ".report")
    index = scan(root, out=out)
    assert index.ledger["image"] == 0
    assert index.ledger["no_image"] == 2
    assert index.manifest["passed_over"]["hidden_folders"] == 1
    assert scan(root / ".hidden", out=out + "2").ledger["image"] == 6


@posix_only
def test_file_links_are_followed_and_each_file_is_read_once(
    root: Path, out: str, tmp_path: Path, reads: list[str]
) -> None:
    outside = write_series(tmp_path / "outside", shape=(1, 5, 7), seed=5)[0]
    (root / "link-out").symlink_to(outside)
    (root / "link-in").symlink_to(root / "ct" / "slice.txt")
    os.link(root / "ct" / "slice.txt", root / "hard")
    (root / "dangling").symlink_to(root / "nowhere")
    index = scan(root, out=out)
    assert index.ledger["image"] == 6
    assert len(reads) == 10
    passed = index.manifest["passed_over"]
    assert (passed["outside_links"], passed["special_files"]) == (1, 1)
    assert "passed over: 1 outside link, 1 special file" in repr(index)
    assert scan(root, out=out).generation == index.generation
    assert scan(root, out=out + "2", follow_links=True).ledger["image"] == 7


@pytest.mark.slow
@posix_only
def test_a_link_that_leaves_the_roots_is_seen_by_the_next_scan(
    root: Path, out: str, tmp_path: Path
) -> None:
    assert "passed over" not in repr(scan(root, out=out))
    outside = write_series(tmp_path / "outside", shape=(1, 5, 7), seed=5)[0]
    (root / "more").symlink_to(outside)
    assert "passed over: 1 outside link" in repr(scan(root, out=out))


@pytest.mark.quick(1)
@posix_only
@pytest.mark.parametrize("spelling", ["{root}/ct", "{root}/ct/../ct/", "{tmp}/alias", "../ct"])
def test_links_below_a_root_stay_inside_however_they_and_the_root_are_written(
    spelling: str, root: Path, out: str, tmp_path: Path
) -> None:
    (tmp_path / "alias").symlink_to(root / "ct")
    (root / "links").mkdir()
    target = spelling.format(root=root, tmp=tmp_path)
    (root / "links" / "one").symlink_to(os.path.join(target, "slice.txt"))
    (tmp_path / "alias-of-root").symlink_to(root)
    for place in (root, tmp_path / "alias-of-root"):
        assert "passed over" not in repr(scan(place, out=out))


@pytest.mark.slow
@posix_only
def test_the_work_tree_of_git_annex_is_read_where_the_root_holds_its_objects(
    tmp_path: Path, out: str
) -> None:
    repository = tmp_path / "dataset"
    objects = repository / ".git" / "annex" / "objects"
    for number, path in enumerate(write_series(tmp_path / "raw", shape=(3, 5, 7))):
        held = objects / f"k{number}" / f"SHA256E-s1--{number}.dcm" / f"SHA256E-s1--{number}.dcm"
        held.parent.mkdir(parents=True)
        shutil.move(path, held)
        link = repository / "sub-01" / f"{number}.dcm"
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(os.path.relpath(held, link.parent))
    # A file that was not fetched: `datalad get` would bring it.
    (repository / "sub-01" / "3.dcm").symlink_to("../.git/annex/objects/k3/k3/k3")
    index = scan(repository, out=out)
    assert (index.ledger["image"], index.manifest["passed_over"]["special_files"]) == (3, 1)
    below = scan(repository / "sub-01", out=out + "2")
    assert (below.ledger["image"], below.manifest["passed_over"]["outside_links"]) == (0, 4)
    assert scan(repository / "sub-01", out=out + "3", follow_links=True).ledger["image"] == 3


@pytest.mark.slow
@posix_only
def test_folder_links_are_followed_only_when_told_and_loops_end(
    root: Path, out: str, tmp_path: Path
) -> None:
    write_series(tmp_path / "outside", shape=(2, 5, 7), seed=5)
    (root / "out").symlink_to(tmp_path / "outside")
    for name in ("self", "again"):
        (root / name).symlink_to(root)
    (root / "knot").symlink_to(root / "knot")
    index = scan(root, out=out)
    assert index.ledger["image"] == 6
    assert index.manifest["passed_over"]["linked_folders"] == 3
    assert scan(root, out=out + "2", follow_links=True).ledger["image"] == 8


@posix_only
def test_pipes_and_sockets_are_counted_and_do_not_hang_the_scan(
    root: Path, out: str, tmp_path: Path, monkeypatch: Any
) -> None:
    os.mkfifo(root / "pipe.dcm")
    # the path of a socket is at most 107 bytes
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.dcm")
        index = scan(root, out=out)
    assert index.ledger["files"] == 10
    assert index.manifest["passed_over"]["special_files"] == 2
    with pytest.raises(UsageError, match="neither a folder nor a file"):
        scan(root / "pipe.dcm", out=out + "2")


@pytest.mark.quick(1)
@posix_only
@pytest.mark.parametrize(
    "name",
    [b"\xff\xfe.dcm", b"a" * 255, b"new\nline", b"tab\t", b"-dash", "\u00fc\u0308\u202e".encode()],
)
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_any_name_that_a_file_may_have_is_kept(
    tmp_path: Path, out: str, name: bytes, workers: int, monkeypatch: Any
) -> None:
    monkeypatch.setattr(engine_module, "CHUNK_FILES", 1)
    paths = write_series(tmp_path / "root", shape=(2, 5, 7))
    try:
        os.rename(os.fsencode(paths[0]), os.path.join(os.fsencode(tmp_path / "root"), name))
    except OSError:
        pytest.skip("this file system does not take the name")
    index = scan(tmp_path / "root", out=out, workers=workers)
    found = [os.path.basename(os.fsencode(index.frame(i).path)) for i in range(2)]
    assert name in found
    assert all(os.path.exists(index.source(i).path) for i in range(2))
    assert scan(tmp_path / "root", out=out).generation == index.generation
    index.to_parquet(tmp_path / "exported")


@pytest.mark.slow
def test_a_file_that_vanishes_between_walk_and_read_is_a_problem_once(
    root: Path, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = folders_module.walk

    def walk_then_remove(*args: Any, **options: Any) -> folders_module.Walk:
        found = original(*args, **options)
        (root / "ct" / "slice.txt").unlink()
        return found

    monkeypatch.setattr(roots_module, "walk", walk_then_remove)
    index = scan(root, out=out)
    assert [p.reason for p in index.problems if p.path.endswith("slice.txt")] == ["unreadable"]
    monkeypatch.undo()
    monkeypatch.setenv("DICOMDL_CACHE", out + "-cache")
    assert scan(root, out=out).ledger["files"] == 9


@posix_only
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_a_problem_or_listed(root: Path, out: str) -> None:
    (root / "ct" / "slice.txt").chmod(0)
    (root / "closed").mkdir(mode=0)
    index = scan(root, out=out)
    assert [p.reason for p in index.problems if p.path.endswith("slice.txt")] == ["unreadable"]
    assert index.manifest["passed_over"]["unreadable"] == [str(root / "closed")]
    (root / "closed").chmod(0o700)


def test_an_unreadable_folder_is_listed_and_the_scan_goes_on(
    root: Path, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.scandir

    def refuse(path: Any) -> Any:
        if os.path.basename(os.fsencode(path)) == b"ct":
            raise PermissionError(13, "Permission denied")
        return original(path)

    monkeypatch.setattr(os, "scandir", refuse)
    index = scan(root, out=out)
    monkeypatch.undo()
    assert index.ledger["files"] == 4
    assert index.manifest["passed_over"]["unreadable"] == [str(root / "ct")]


@pytest.mark.slow
def test_the_index_folder_inside_the_root_is_left_out_however_the_root_is_written(
    root: Path,
) -> None:
    first = scan(root, out=root / "index")
    second = scan(root, out=root / "index")
    assert first.ledger["files"] == second.ledger["files"] == 10
    assert first.generation == second.generation
    if os.name == "posix":
        alias = root.parent / "alias"
        alias.symlink_to(root)
        assert scan(alias, out=root / "index").ledger["files"] == 10


# --- updates --------------------------------------------------------------------------------------


def test_an_unchanged_folder_is_not_read_again_and_keeps_its_generation(
    root: Path, out: str, reads: list[str]
) -> None:
    first = scan(root, out=out)
    assert len(reads) == 10
    second = scan(root, out=out)
    assert len(reads) == 10
    assert second.generation == first.generation


@pytest.mark.slow
def test_pixels_are_compared_once_and_only_those_that_nothing_tells_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    read_frame = digests_module.read_frame

    def counting(source: Any) -> Any:
        decoded.append(source.path)
        return read_frame(source)

    monkeypatch.setattr(digests_module, "read_frame", counting)
    copies = write_series(tmp_path / "data", repeat=(2,))
    first = dicomdl.scan(tmp_path / "data", tmp_path / "index", progress=False)
    assert sorted(decoded) == sorted(str(path) for path in copies[2:4])
    write_secondary_capture(tmp_path / "data" / "another.dcm")
    second = dicomdl.scan(tmp_path / "data", tmp_path / "index", progress=False)
    assert len(decoded) == 2 and len(second) == len(first) + 1
    assert [len(index.select(min_duplicate_of=0)) for index in (first, second)] == [1, 1]


def test_pixels_that_only_their_files_were_compared_for_are_unchecked(tmp_path: Path) -> None:
    # They code far more pixels than their bytes justify, and have other UIDs.
    bombs.write(tmp_path / "data", "two progressive JPEGs at one position")
    (stack,) = dicomdl.scan(tmp_path / "data", tmp_path / "index", progress=False).stacks
    assert (stack.verdict, stack.detail["pixels"]) == ("duplicates", "unchecked")


@pytest.mark.slow
def test_an_update_reads_only_what_is_new_or_changed_and_forgets_the_deleted(
    root: Path, out: str, reads: list[str]
) -> None:
    scan(root, out=out)
    new = write_series(root / "new", shape=(2, 5, 7), seed=4)
    changed = root / "notes.dcm"
    changed.write_text("something else")
    (root / "empty.dcm").unlink()
    (root / "ct" / "slice.txt").unlink()
    reads.clear()
    index = scan(root, out=out)
    assert sorted(reads) == sorted([*(path.name for path in new), "notes.dcm"])
    assert dict(index.ledger) == {
        "files": 10,
        "image": 7,
        "no_image": 1,
        "not_dicom": 1,
        "problem": 1,
    }
    assert content(index) == content(scan(root, out=out + "-fresh"))


@pytest.mark.slow
def test_a_change_in_place_with_the_same_size_and_restored_time_is_noticed(
    root: Path, out: str
) -> None:
    """A restored modification time does not restore the change time."""
    first = scan(root, out=out)
    path = root / "ct" / "slice.txt"
    status, data = path.stat(), path.read_bytes()
    path.write_bytes(data.replace(b"RAMP-1", b"RAMP-9"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = scan(root, out=out)
    assert second.generation != first.generation
    assert len(second.select(patient_id="RAMP-9")) == 1


@pytest.mark.slow
def test_updates_in_many_small_steps_equal_one_fresh_scan(tmp_path: Path, out: str) -> None:
    source, root = tmp_path / "source", tmp_path / "root"
    write_series(source, shape=(5, 5, 7))
    write_series(source, orientation=(0, 1, 0, 0, 0, -1), shape=(3, 5, 7))
    write_secondary_capture(source / "capture", frames=2)
    write_structured_report(source / "report")
    root.mkdir()
    files = sorted(path for path in source.rglob("*") if path.is_file())
    for step in range(0, len(files), 2):
        for path in files[step : step + 2]:
            shutil.copy2(path, root / path.name)
        scan(root, out=out)
    (root / files[0].name).unlink()
    index = scan(root, out=out)
    assert content(index) == content(scan(root, out=out + "-fresh"))


@posix_only
@pytest.mark.quick(1)
@pytest.mark.parametrize("seed", range(4))
def test_an_update_after_any_changes_has_the_tables_of_a_fresh_scan(
    root: Path, out: str, seed: int
) -> None:
    """Files appear, vanish, change, take the place of others, and become folders or links."""
    chance = random.Random(seed)
    write_series(root / "mr", shape=(4, 5, 7), modality="MR")
    scan(root, out=out)
    for step in range(6):
        for _ in range(chance.choice((1, 1, 3))):
            change_something(root, chance, f"{step}")
        index, fresh = scan(root, out=out), scan(root, out=f"{out}-{step}")
        assert content(index, ALL_TABLES) == content(fresh, ALL_TABLES)
        assert index.ledger == fresh.ledger
        assert scan(root, out=out).generation == index.generation


def change_something(root: Path, chance: random.Random, name: str) -> None:
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    path, other = chance.sample(files, 2)
    new = path.with_name(f"{chance.choice('!0z~')}{chance.random()}{name}")
    match chance.randrange(8):
        case 0:
            path.unlink()
        case 1:
            shutil.copyfile(path, new)
        case 2:
            path.write_bytes(other.read_bytes())
        case 3:
            path.rename(new)
        case 4:
            path.rename(other)
        case 5:
            path.unlink()
            shutil.copytree(root / "mr", path)
        case 6:
            new.symlink_to(path)
        case 7:
            os.link(path, new)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "options",
    [
        {"attributes": ["ContrastBolusAgent"]},
        {"patient_id": "hash"},
        {"follow_links": True},
        {"tolerances": dicomdl.Tolerances(tilt=0.5)},
    ],
)
def test_other_options_scan_again(
    root: Path, out: str, reads: list[str], options: dict[str, Any]
) -> None:
    first = scan(root, out=out)
    reads.clear()
    second = scan(root, out=out, **options)
    assert len(reads) == 10
    assert second.generation != first.generation
    assert scan(root, out=out, **options).generation == second.generation


def test_another_version_of_dicomdl_scans_again(
    root: Path, out: str, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan(root, out=out)
    reads.clear()
    monkeypatch.setattr(scanner, "__version__", "99")
    scan(root, out=out)
    assert len(reads) == 10


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("damage", ["removed", "emptied", "cut"])
def test_a_damaged_index_is_made_anew(root: Path, out: str, name: str, damage: str) -> None:
    index = scan(root, out=out)
    before = content(index)
    path = Path(out, "generations", index.generation, f"{name}.arrow")
    data = path.read_bytes()
    path.unlink()
    if damage != "removed":
        path.write_bytes(b"" if damage == "emptied" else data[: len(data) // 2])
    again = scan(root, out=out)
    assert again.generation != index.generation
    assert content(again) == before


def test_without_out_the_index_lies_in_the_cache_folder_and_is_updated_there(
    root: Path, cache_folder: Path
) -> None:
    first = scan(root)
    assert Path(first.path).parent == cache_folder / "indexes"
    assert scan(root).generation == first.generation
    assert scan(root, follow_links=True).path != first.path


# --- interrupted scans ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("point", ["read_chunk", "build_stacks", "encoded", "publish"])
def test_an_exception_in_mid_scan_leaves_the_old_index_whole(
    root: Path, out: str, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    old = content(scan(root, out=out))
    write_series(root / "new", seed=4)

    def interrupt(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    module = {"read_chunk": engine_module, "encoded": generations_module}.get(point, scanner)
    monkeypatch.setattr(module, point, interrupt)
    with pytest.raises(KeyboardInterrupt):
        scan(root, out=out)
    monkeypatch.undo()
    assert content(dicomdl.open_index(out)) == old


KILLED = """
import os, signal, sys
import dicomdl
from dicomdl.index import generations
from dicomdl.jobs import engine
from dicomdl.storage import publishing as storage

def die(*args, **options):
    os.kill(os.getpid(), signal.SIGKILL)

where = sys.argv[3]
if where == "read":
    engine.read_chunk = die
elif where == "tables":
    original, calls = generations._write_table, []
    def write(path, table):
        calls.append(path)
        die() if len(calls) == 3 else original(path, table)
    generations._write_table = write
elif where == "before the rename":
    os.rename = die
elif where == "before the manifest":
    storage.write_whole = die
elif where == "half a manifest":
    os.replace = die
elif where == "after the manifest":
    storage.remove_old = die
dicomdl.scan(sys.argv[1], out=sys.argv[2], progress=False)
"""


@pytest.mark.slow
@posix_only
@pytest.mark.parametrize(
    "where",
    [
        "read",
        "tables",
        "before the rename",
        "before the manifest",
        "half a manifest",
        "after the manifest",
    ],
)
def test_a_killed_scan_leaves_the_old_index_or_the_new_one_and_what_is_left_is_cleaned(
    root: Path, out: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = content(scan(root, out=out))
    write_series(root / "new", seed=4)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(root), out, where],
        env=environment(),
        check=False,
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    found = content(dicomdl.open_index(out))
    new = content(scan(root, out=out + "-fresh"))
    assert found == (new if where == "after the manifest" else old)
    scan(root, out=out)
    left = [name for name in os.listdir(os.path.join(out, "generations")) if name.endswith(".tmp")]
    # Without flock nobody knows whether the writer lives: its folder goes when it is old.
    assert not (left and locks.available())
    monkeypatch.setattr(generations_module, "GRACE_S", -1.0)
    write_series(root / "newer", seed=5)
    index = scan(root, out=out)
    assert sorted(os.listdir(out)) == ["generations", "manifest.json"]
    assert os.listdir(os.path.join(out, "generations")) == [index.generation]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@pytest.mark.slow
@pytest.mark.parametrize("call", ["fsync", "replace", "rename"])
def test_a_full_disk_is_one_storage_error_and_the_old_index_stays(
    root: Path, out: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = content(scan(root, out=out))
    before = sorted(os.listdir(os.path.join(out, "generations")))
    write_series(root / "new", seed=4)

    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(StorageError, match="No space left") as caught:
        scan(root, out=out)
    monkeypatch.undo()
    assert caught.value.errno == 28
    assert content(dicomdl.open_index(out)) == old
    # the generation is then complete but not named; a later scan removes it
    if call != "replace":
        assert sorted(os.listdir(os.path.join(out, "generations"))) == before


@pytest.mark.slow
@posix_only
def test_a_file_size_limit_is_one_storage_error_and_the_old_index_stays(
    root: Path, out: str
) -> None:
    old = content(scan(root, out=out))
    write_series(root / "new", seed=4)
    program = (
        "import resource, sys\nimport dicomdl, dicomdl.jobs.scan\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "try:\n    dicomdl.scan(sys.argv[1], out=sys.argv[2], progress=False)\n"
        "except dicomdl.DicomdlError as error:\n    print(type(error).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(root), out],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "StorageError\n", done.stderr
    assert content(dicomdl.open_index(out)) == old
    assert len(os.listdir(os.path.join(out, "generations"))) == 1


# --- wrong use ------------------------------------------------------------------------------------


def test_a_missing_folder_is_a_usage_error_and_makes_nothing(tmp_path: Path, out: str) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        scan(tmp_path / "nowhere", out=out)
    assert not os.path.exists(out)


def test_no_roots_wrong_workers_and_wrong_patient_id_are_usage_errors(root: Path, out: str) -> None:
    for roots, options in (
        ([], {}),
        ([root], {"workers": 0}),
        ([root], {"patient_id": "drop"}),
        ([root], {"attributes": ["Nonsense"]}),
    ):
        with pytest.raises(UsageError):
            scan(*roots, out=out, **options)
    assert not os.path.exists(out)


def test_a_folder_that_another_scan_makes_meanwhile_is_no_file(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "index"
    is_folder = os.path.isdir

    def made_after_a_look(path: Any) -> bool:
        found = is_folder(path)
        if path == str(out):
            out.mkdir(exist_ok=True)
        return found

    monkeypatch.setattr(scanner.os.path, "isdir", made_after_a_look)
    assert len(scan(root, out=out)) > 0


def test_a_folder_with_other_files_is_refused_as_out(root: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="holds other files"):
        scan(root, out=tmp_path / "mine")
    with pytest.raises(UsageError, match="is a file"):
        scan(root, out=tmp_path / "mine" / "thesis.tex")
    assert os.listdir(tmp_path / "mine") == ["thesis.tex"]


# --- workers --------------------------------------------------------------------------------------


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Chunks of two files, so that small folders keep several workers busy."""
    monkeypatch.setattr(engine_module, "CHUNK_FILES", 2)
    yield


@pytest.mark.slow
def test_two_workers_make_exactly_the_index_of_one(
    root: Path, out: str, small_chunks: None
) -> None:
    one, two = (
        scan(root, out=out + "1", workers=1),
        scan(root, out=out + "2", workers=2, attributes=[]),
    )
    assert content(one) == content(two)
    for name in TABLES:
        folders = [
            os.path.join(index.path, "generations", index.generation, f"{name}.arrow")
            for index in (one, two)
        ]
        assert Path(folders[0]).read_bytes() == Path(folders[1]).read_bytes()


@pytest.mark.slow
def test_workers_know_the_extra_attributes(root: Path, out: str, small_chunks: None) -> None:
    for path in (root / "ct").iterdir():
        path.unlink()
    write_series(
        root / "ct", edit=lambda dataset, z: setattr(dataset, "ContrastBolusAgent", "IODINE")
    )
    index = scan(root, out=out, workers=2, attributes=["ContrastBolusRoute"])
    assert {index.value(i, "contrast_bolus_agent") for i in range(len(index))} == {"IODINE"}


@pytest.mark.slow
@posix_only
def test_a_worker_that_is_killed_in_mid_scan_loses_nothing(
    root: Path, out: str, small_chunks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, started = engine_module._start_worker, []

    def start(extra: Any) -> Any:
        started.append(original(extra))
        if len(started) == 1:
            started[0].end()
        return started[-1]

    monkeypatch.setattr(engine_module, "_start_worker", start)
    with pytest.warns(WorkerWarning, match="1 of 2 worker processes") as told:
        index = scan(root, out=out, workers=2)
    assert len(told) == 1
    assert content(index) == content(scan(root, out=out + "-fresh", workers=1))


@pytest.mark.slow
def test_workers_that_all_end_at_their_start_lose_nothing_and_it_is_said_once(
    root: Path, out: str, small_chunks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "_WORKER", "no_such_module:answering")
    with pytest.warns(WorkerWarning) as told:
        index = scan(root, out=out, workers=2)
    assert len(told) == 1
    assert "2 of 2 worker processes" in str(told[0].message)
    assert "No module named 'no_such_module'" in str(told[0].message)
    assert content(index) == content(scan(root, out=out + "-fresh", workers=1))


@pytest.mark.slow
def test_no_worker_outlives_the_scan(
    root: Path, out: str, small_chunks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, started = engine_module._start_worker, []

    def start(extra: Any) -> Any:
        started.append(original(extra))
        return started[-1]

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine_module, "_start_worker", start)
    scan(root, out=out, workers=2)
    monkeypatch.setattr(engine_module, "from_bytes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        scan(root, out=out + "2", workers=2)
    assert len(started) == 4
    assert not any(worker.is_alive for worker in started)


def test_a_worker_that_cannot_start_says_what_to_do(
    root: Path, out: str, small_chunks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/python")
    with pytest.raises(StorageError, match="workers=1"):
        scan(root, out=out, workers=2)


def test_inside_another_program_without_a_python_command_this_process_reads(
    root: Path, out: str, small_chunks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "")
    assert scan(root, out=out, workers=2).ledger["files"] == 10


SCRIPT = """
import dicomdl, dicomdl.jobs.scan
dicomdl.jobs.scan.CHUNK_FILES = 2
index = dicomdl.scan({root!r}, out={out!r}, workers=2, progress=False)
print(index.ledger["files"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["standard input", "script without a main guard", "notebook cell"])
def test_workers_start_from_anywhere(root: Path, out: str, tmp_path: Path, way: str) -> None:
    program = SCRIPT.format(root=str(root), out=out)
    command, given = [sys.executable, "-"], program
    if way == "script without a main guard":
        (tmp_path / "script.py").write_text(program)
        command, given = [sys.executable, str(tmp_path / "script.py")], ""
    elif way == "notebook cell":
        command, given = (
            [
                sys.executable,
                "-c",
                f"exec(compile({program!r}, '<cell 1>', 'exec'), {{'__name__': '__main__'}})",
            ],
            "",
        )
    done = subprocess.run(
        command,
        input=given,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "10\n", done.stderr


# --- patients -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_hashed_patients_are_stable_and_blank_ones_stay_blank(tmp_path: Path, out: str) -> None:
    root = tmp_path / "root"
    write_series(root / "a", patient_id="SECRET-4711", shape=(2, 5, 7))
    write_series(root / "b", patient_id="", shape=(2, 5, 7), seed=2)
    first = scan(root, out=out, patient_id="hash")
    hashed = {stack.patient_id for stack in first.stacks}
    assert "" in hashed
    assert all(value == "" or (value.startswith("hash:") and len(value) == 37) for value in hashed)
    write_series(root / "c", patient_id="SECRET-4711", shape=(2, 5, 7), seed=3)
    write_series(root / "d", patient_id="hash:SECRET", shape=(2, 5, 7), seed=4)
    second = scan(root, out=out, patient_id="hash")
    assert {stack.patient_id for stack in second.stacks} > hashed
    assert len({stack.patient_id for stack in second.stacks}) == 3
    assert content(second) == content(scan(root, out=out + "-fresh", patient_id="hash"))
    assert b"SECRET" not in all_bytes(out)


@pytest.mark.slow
def test_another_key_gives_other_hashes_in_an_index_of_its_own(
    root: Path, out: str, cache_folder: Path
) -> None:
    first = scan(root, out=out, patient_id="hash")
    assert (
        stat.S_IMODE((cache_folder / "patient_id.key").stat().st_mode) == 0o600
        or os.name != "posix"
    )
    (cache_folder / "patient_id.key").unlink()
    second = scan(root, out=out + "-again", patient_id="hash")
    assert first.stacks[0].patient_id != second.stacks[0].patient_id


def test_identifying_values_are_nowhere_in_the_index_folder(tmp_path: Path, out: str) -> None:
    canaries = {
        "PatientName": "CANARY^NAME",
        "PatientBirthDate": "19010203",
        "PatientAddress": "CANARY STREET",
        "ReferringPhysicianName": "CANARY^DOCTOR",
        "AccessionNumber": "CANARYACC",
        "InstitutionName": "CANARY HOSPITAL",
        "OtherPatientIDs": "CANARYOTHER",
        "OperatorsName": "CANARY^OPERATOR",
        "PatientComments": "CANARY COMMENT",
    }

    def plant(dataset: Any, z: int) -> None:
        for keyword, value in canaries.items():
            setattr(dataset, keyword, value)

    paths = write_series(tmp_path / "root", edit=plant)
    (tmp_path / "root" / "cut").write_bytes(paths[0].read_bytes()[:-30])
    index = scan(tmp_path / "root", out=out)
    told = (
        all_bytes(out)
        + (str(index) + index._repr_html_() + repr(index.problems) + repr(index.frame(0))).encode()
    )
    assert b"CANARY" not in told
    assert b"19010203" not in told
    assert b"RAMP-1" in all_bytes(out)  # PatientID is kept: labels are joined by it


def test_identifying_attributes_need_to_be_allowed(root: Path, out: str) -> None:
    with pytest.raises(UsageError, match="allow_phi"):
        scan(root, out=out, attributes=["PatientName"])
    shutil.rmtree(root / "ct")
    write_series(
        root / "ct", edit=lambda dataset, z: setattr(dataset, "PatientBirthDate", "19700102")
    )
    index = scan(root, out=out, attributes=["PatientBirthDate"], allow_phi=True)
    assert index.value(0, "patient_birth_date") == "19700102"


def test_a_person_name_that_is_allowed_is_text(root: Path, out: str) -> None:
    index = scan(root, out=out, attributes=["PatientName"], allow_phi=True)
    assert index.value(0, "patient_name") == "RAMP^PHANTOM"


@pytest.mark.slow
def test_further_attributes_are_columns_that_select_and_frames_know(root: Path, out: str) -> None:
    def with_agent(dataset: Any, z: int) -> None:
        dataset.ContrastBolusRoute = "IV" if z < 2 else ""

    write_series(root / "contrast", seed=6, series_uid=uid("contrast"), edit=with_agent)
    index = scan(root, out=out, attributes=["ContrastBolusRoute"])
    assert len(index.select(contrast_bolus_route="IV")) == 2
    assert dict(index.select(contrast_bolus_route="IV").frame(0).extra) == {
        "contrast_bolus_route": "IV"
    }
    assert content(index) == content(
        scan(root, out=out + "-2", attributes=["ContrastBolusRoute"], workers=1)
    )


@posix_only
def test_folders_and_files_of_an_index_are_their_owners_only(root: Path, out: str) -> None:
    before = os.umask(0o022)
    try:
        index = scan(root, out=out)
    finally:
        os.umask(before)
    found = {
        (path.is_dir(), stat.S_IMODE(path.stat().st_mode))
        for path in [Path(index.path), *Path(out).rglob("*")]
    }
    assert found == {(True, 0o700), (False, 0o600)}


def test_progress_is_shown_only_when_asked_for(
    root: Path, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    scan(root, out=out)
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_two_scans_at_once_leave_one_whole_index(root: Path, out: str) -> None:
    program = "import sys, dicomdl; dicomdl.scan(sys.argv[1], out=sys.argv[2], progress=False)"
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(root), out], env=environment())
        for _ in range(2)
    ]
    while any(process.poll() is None for process in running):
        with contextlib.suppress(IndexFolderError):  # until the first of them has published
            assert len(dicomdl.open_index(out)) == 6
    assert [process.returncode for process in running] == [0, 0]
    assert content(dicomdl.open_index(out)) == content(scan(root, out=out + "-fresh"))
    assert storage.cache_folder()


def test_a_scan_that_finds_nothing_new_returns_its_own_index_where_another_replaced_it(
    root: Path, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one has other roots, and publishes while this one walks."""
    first, walk = scan(root, out=out), scanner.walk_roots

    def meanwhile(*given: Any) -> Any:
        monkeypatch.setattr(scanner, "walk_roots", walk)
        assert len(scan(root / "report.dcm", out=out)) == 0
        return walk(*given)

    monkeypatch.setattr(scanner, "walk_roots", meanwhile)
    index = scan(root, out=out)
    assert content(index) == content(first) and index.manifest["options"]["roots"] == [str(root)]
    assert dicomdl.open_index(out).generation == index.generation


def test_files_of_others_are_never_removed_however_old_and_whatever_they_are_called(
    tmp_path: Path,
) -> None:
    write_series(tmp_path / "dicom", shape=(2, 5, 7))
    foreign = tmp_path / "mine" / "generations" / "epoch_10"
    foreign.mkdir(parents=True)
    (foreign / "weights.bin").write_text("precious")
    (tmp_path / "mine" / "thesis.tmp").write_text("precious")
    for path in (foreign, tmp_path / "mine" / "thesis.tmp"):
        os.utime(path, (0, 0))
    with pytest.raises(UsageError, match="other files"):
        scan(tmp_path / "dicom", out=tmp_path / "mine")
    assert (foreign / "weights.bin").exists() and (tmp_path / "mine" / "thesis.tmp").exists()


def test_going_over_to_hashed_patients_leaves_no_raw_identifier_behind(tmp_path: Path) -> None:
    write_series(tmp_path / "dicom", shape=(2, 5, 7), patient_id="SECRETPATIENT")
    scan(tmp_path / "dicom", out=tmp_path / "i")
    scan(tmp_path / "dicom", out=tmp_path / "i", patient_id="hash")
    held = [
        path
        for path in (tmp_path / "i").rglob("*")
        if path.is_file() and b"SECRETPATIENT" in path.read_bytes()
    ]
    assert held == []


def test_series_without_a_uid_are_one_only_within_a_folder_and_say_so(tmp_path: Path) -> None:
    def blank(dataset: object, z: int) -> None:
        dataset.SeriesInstanceUID = dataset.StudyInstanceUID = dataset.PatientID = ""

    for number, folder in enumerate(("a", "b")):
        write_series(
            tmp_path / "dicom" / folder,
            shape=(3, 5, 7),
            origin=(0, 0, 6 * number),
            edit=blank,
            seed=number,
        )
    index = scan(tmp_path / "dicom", out=tmp_path / "i")
    assert [stack.slices for stack in index.stacks] == [3, 3]
    assert all(stack.detail["series_instance_uid"] == "blank" for stack in index.stacks)


def test_empty_names_are_refused(tmp_path: Path) -> None:
    for roots, out in (("", None), (["", str(tmp_path)], None), (tmp_path, "")):
        with pytest.raises(UsageError, match="empty name"):
            dicomdl.scan(roots, out=out, progress=False)


@pytest.mark.slow
def test_frames_with_equal_indices_and_other_palettes_are_no_copies_but_the_same_file_twice_is(
    tmp_path: Path,
) -> None:
    def palette(shade: int, dataset: Any, _: int) -> None:
        dataset.PhotometricInterpretation = "PALETTE COLOR"
        for colour in ("Red", "Green", "Blue"):
            setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
            setattr(
                dataset,
                f"{colour}PaletteColorLookupTableData",
                bytes(range(256)) * 2 if shade else bytes(512),
            )

    for shade in (0, 1):
        edit = functools.partial(palette, shade)
        write_series(
            tmp_path / "data",
            shape=(4, 5, 7),
            bits_allocated=8,
            edit=edit,
            series_uid="1.2.3",
            seed=shade,
        )
    index = dicomdl.scan(tmp_path / "data", tmp_path / "index", progress=False)
    assert [stack.verdict for stack in index.stacks] == ["duplicates"] and len(
        index.select(min_duplicate_of=0)
    ) == 0
    shutil.copytree(tmp_path / "data", tmp_path / "twice" / "a")
    shutil.copytree(tmp_path / "data", tmp_path / "twice" / "b")
    twice = dicomdl.scan(tmp_path / "twice", tmp_path / "index of twice", progress=False)
    assert len(twice.select(min_duplicate_of=0)) == 8


def test_a_file_that_nothing_can_decode_is_a_copy_of_the_same_bytes(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "data", transfer_syntax="1.2.840.10008.1.2.5")
    damaged = paths[2].read_bytes()
    place = damaged.rindex(b"\xfe\xff\x00\xe0") + 8
    paths[2].write_bytes(damaged[:place] + b"\xff" * 4 + damaged[place + 4 :])
    shutil.copy(paths[2], tmp_path / "data" / "again.dcm")
    index = dicomdl.scan(tmp_path / "data", tmp_path / "index", progress=False)
    assert [(stack.verdict, stack.slices) for stack in index.stacks] == [("regular", 6)]
    assert len(index.select(min_duplicate_of=0)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("out", ["index", None])
def test_a_move_takes_over_the_files_that_did_not_change_and_reads_the_others(
    out: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DICOMDL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for patient in "ABC":
        write_series(tmp_path / "old" / patient, shape=(4, 5, 7), patient_id=patient)
    first = scan("old", out=out)
    shutil.copytree("old", "new")
    shutil.rmtree("old")
    shutil.rmtree("new/C")
    write_series(tmp_path / "new" / "D", shape=(4, 5, 7), patient_id="D")
    os.utime(changed := next((tmp_path / "new" / "B").iterdir()), ns=(1, 1))
    read: list[bytes] = []

    def reading(paths: list[bytes], *arguments: object, **more: object) -> object:
        read.extend(paths)
        return engine_module.read_all(paths, *arguments, **more)

    monkeypatch.setattr(scanner, "read_all", reading)
    moved = scan("new", out=out, move={"old": "new"})
    names = {os.path.basename(os.path.dirname(os.fsdecode(path))) for path in read}
    assert names == {"B", "D"} and len(read) == 5 and os.fsencode(changed) in read
    assert {stack.patient_id for stack in moved.stacks} == {"A", "B", "D"}
    assert all(dicomdl.read_volume(stack).shape == (4, 5, 7) for stack in moved.stacks)
    assert content(moved) == content(scan("new", out="fresh"))
    read.clear()
    assert scan("new", out=out).generation == moved.generation and not read
    assert first.path == moved.path or out is None


@pytest.mark.slow
def test_the_command_line_moves_an_index_without_naming_its_other_roots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_series(tmp_path / "old", shape=(4, 5, 7), patient_id="A")
    write_series(tmp_path / "other", shape=(4, 5, 7), patient_id="B")
    assert main(["scan", "old", "other", "-o", "i", "-q"]) == 0
    (tmp_path / "old").rename(tmp_path / "new")
    assert main(["scan", "--move", "old", "new", "-o", "i", "-q"]) == 0
    assert all(
        dicomdl.read_volume(stack).shape == (4, 5, 7) for stack in dicomdl.open_index("i").stacks
    )
    assert len(dicomdl.open_index("i").stacks) == 2
    capsys.readouterr()
    assert main(["scan", "--move", "absent", "new", "-o", "i", "-q"]) == 2
    assert main(["scan", "-o", "i", "-q"]) == 2
    assert "--move OLD NEW" in capsys.readouterr().err


@pytest.mark.slow
def test_hashes_of_another_key_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DICOMDL_CACHE", str(tmp_path / "cache"))
    write_series(tmp_path / "data", shape=(2, 5, 7), patient_id="SECRET")
    first = scan(tmp_path / "data", out=tmp_path / "index", patient_id="hash")
    monkeypatch.setenv("DICOMDL_CACHE", str(tmp_path / "another"))
    # Without new files no hash is needed.
    same = scan(tmp_path / "data", out=tmp_path / "index", patient_id="hash")
    assert same.generation == first.generation
    write_series(tmp_path / "data", shape=(3, 5, 7), patient_id="SECRET", seed=2)
    with pytest.raises(UsageError, match=r"hashes of another key.*DICOMDL_CACHE"):
        scan(tmp_path / "data", out=tmp_path / "index", patient_id="hash")
    # The key of the first scan, copied to where the cache is now.
    shutil.copy(tmp_path / "cache" / "patient_id.key", tmp_path / "another" / "patient_id.key")
    again = scan(tmp_path / "data", out=tmp_path / "index", patient_id="hash")
    assert {stack.patient_id for stack in again.stacks} == {first.stacks[0].patient_id}


def test_a_text_of_thousands_of_digits_does_not_end_the_scan(tmp_path: Path, out: str) -> None:
    """Python's int refuses more than 4300 digits."""
    for number, digit in enumerate("21"):
        for path in write_series(tmp_path / "data" / digit, shape=(3, 5, 7)):
            dataset = pydicom.dcmread(path)
            dataset.SOPInstanceUID += f".{number}"
            dataset.SequenceName = f"echo {digit * 5000}"
            dataset.PixelData = bytes([number]) * len(dataset.PixelData)
            dataset.save_as(path)
    index = scan(tmp_path / "data", out=out)
    assert index.ledger["image"] == 6
    names = [stack.dimension["sequence_name"] for stack in index.stacks]
    assert names == [f"echo {digit * 5000}" for digit in "12"]


@pytest.mark.parametrize("other_uid", ["1.2.1", "1.2.9"])
def test_copies_of_copies_name_the_frame_that_is_in_a_stack(
    other_uid: str, tmp_path: Path, out: str
) -> None:
    """A slice, a second file of it, and the same pixels under another SOP Instance UID."""
    paths = write_series(tmp_path / "data", shape=(4, 5, 7))
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.SOPInstanceUID = f"1.2.5.{dataset.InstanceNumber}"
        dataset.save_as(path)
    shutil.copy(paths[1], tmp_path / "data" / "again.dcm")
    dataset = pydicom.dcmread(paths[1])
    dataset.SOPInstanceUID = other_uid
    dataset.save_as(tmp_path / "data" / "other.dcm")
    index = scan(tmp_path / "data", out=out)
    copies = [index.frame(row).duplicate_of for row in range(6)]
    assert copies[:4] == [-1] * 4
    assert copies[4] == copies[5] in range(4)
    assert sum(len(part) for part in index.split((0.5, 0.5))) == 6


def test_a_key_of_patient_hashes_that_others_know_ends_the_scan(
    root: Path, out: str, cache_folder: Path
) -> None:
    scan(root, out=out, patient_id="hash")
    (cache_folder / "patient_id.key").write_bytes(b"")
    with pytest.raises(StorageError, match="has 0 bytes, expected 32"):
        scan(root, out=out + "-again", patient_id="hash")
    assert not os.path.exists(out + "-again")


def test_a_scan_that_forgets_the_hash_does_not_bring_identities_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DICOMDL_CACHE", str(tmp_path / "cache"))
    write_series(tmp_path / "data", shape=(2, 5, 7), patient_id="SECRET")
    first = scan(tmp_path / "data", out=tmp_path / "index", patient_id="hash")
    with pytest.raises(UsageError, match="holds hashes instead of PatientID"):
        scan(tmp_path / "data", out=tmp_path / "index")
    assert main(["scan", str(tmp_path / "data"), "-o", str(tmp_path / "index"), "-q"]) == 2
    assert "pass --patient-id hash" in capsys.readouterr().err
    assert dicomdl.open_index(tmp_path / "index").generation == first.generation
    assert scan(tmp_path / "data", out=tmp_path / "other").stacks[0].patient_id == "SECRET"


def test_a_cache_folder_that_cannot_be_made_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the place of the cache folder")
    monkeypatch.setenv("DICOMDL_CACHE", str(tmp_path / "file" / "cache"))
    write_series(tmp_path / "data", shape=(2, 5, 7))
    with pytest.raises(StorageError, match=r"set DICOMDL_CACHE .* out="):
        scan(tmp_path / "data")
    index = scan(tmp_path / "data", out=tmp_path / "index")
    with pytest.raises(StorageError, match="set DICOMDL_CACHE"):
        dicomdl.VolumeDataset(index, cache="disk")[0]
