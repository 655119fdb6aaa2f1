"""Decoders that die or hang: what reaches the user's code, and that no process is left behind."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forked_scripts import ForkedScript, ScriptServer
from phantoms_codec import write_codec, write_coded

import dicomdl

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX"),
]
METHODS = ["fork", "spawn", "forkserver"]
DEATHS = ("abort", "segfault", "kill", "exit")

BEGIN = """
import json, sys
import torch
import dicomdl
from dicomdl.datasets import _deaths
from torch.utils.data import DataLoader

def loader(dataset, workers, method, **how):
    if workers:
        how["multiprocessing_context"] = method
        torch.multiprocessing.set_forkserver_preload(["torch", "dicomdl.datasets.frames"])
    return DataLoader(dataset, batch_size=2, num_workers=workers, **how)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptServer]:
    """Return the server of scripts whose `imagecodecs` does what codestreams tell it."""
    codec = write_codec(tmp_path_factory.mktemp("deaths") / "codec")
    running = ScriptServer([str(codec), *filter(None, sys.path)])
    yield running
    running.end()


@pytest.fixture
def run(server: ScriptServer, tmp_path: Path) -> Callable[..., ForkedScript]:
    """Return a function that starts a script of these lines, with arguments."""

    def start(body: str, *arguments: Any) -> ForkedScript:
        script = tmp_path / "script.py"
        script.write_text(BEGIN + "\nif __name__ == '__main__':\n" + body)
        return server.run(script, *arguments)

    return start


@pytest.fixture
def answer(run: Callable[..., ForkedScript]) -> Callable[..., Any]:
    """Return a function that returns what a script prints as JSON."""

    def ask(body: str, *arguments: Any) -> Any:
        with run(body, *arguments) as process:
            output = process.stdout.read()
        assert process.wait() == 0
        return json.loads(output)

    return ask


def indexed(folder: Path, words: list[str], seed: int = 0) -> tuple[Path, list[Path]]:
    """Write a series, and return its index and files."""
    paths = write_coded(folder / f"set-{seed}", words, seed)
    index = folder / f"index-{seed}"
    dicomdl.scan(folder / f"set-{seed}", out=index, progress=False, workers=1)
    return index, paths


# --- isolation off --------------------------------------------------------------------------------

DIE = """
    import gc
    method, indexes = sys.argv[1], sys.argv[2:]
    found = []
    # The workers of a loader end with its error, and wait for no collection.
    gc.disable()
    for index in indexes:
        dataset = dicomdl.FrameDataset(index, "modality", isolation="none", on_error="skip")
        try:
            # An interpreter takes seconds to start.
            for batch in loader(dataset, 1 if method == "spawn" else 2, method):
                pass
        except RuntimeError as error:
            names = "path", "frame_number", "decoder"
            facts = {name: getattr(error, name, None) for name in names}
            found.append([type(error).__name__, str(error), facts])
        except BaseException as error:
            found.append([type(error).__name__, str(error), {}])
        assert torch.multiprocessing.active_children() == []
    print(json.dumps(found))
"""


@pytest.mark.parametrize(("method", "count"), [("fork", 20), ("spawn", 4), ("forkserver", 4)])
def test_every_death_of_a_worker_names_the_frame_that_it_decoded(
    method: str, count: int, tmp_path: Path, answer: Callable[..., Any]
) -> None:
    indexes, poisoned = [], []
    for seed in range(count):
        at = (7 * seed + 3) % 9
        words = [DEATHS[seed % 4] if z == at else "" for z in range(9)]
        index, paths = indexed(tmp_path, words, seed)
        indexes.append(index)
        poisoned.append(str(paths[at]))
    found = answer(DIE, method, *indexes)
    assert [kind for kind, *_ in found] == ["WorkerDied"] * count
    assert [facts["path"] for *_, facts in found] == poisoned
    for _, message, facts in found:
        assert facts["frame_number"] == 1 and facts["decoder"] == "imagecodecs.jpegxl_decode"
        assert facts["path"] in message
        assert "exited" in message or "killed by signal" in message


BETWEEN = """
    import time
    index, poison = sys.argv[1:]
    dataset = dicomdl.FrameDataset(index, "modality", isolation="none")
    batches = iter(loader(dataset, 1, "fork", prefetch_factor=8))
    try:
        next(batches)
        time.sleep(60)  # as a step of training, during which the worker dies
    except RuntimeError as error:
        print(json.dumps([type(error).__name__, error.path == poison]))
"""


def test_a_death_between_two_batches_is_named_where_it_interrupts_the_training(
    tmp_path: Path,
    answer: Callable[..., Any],
) -> None:
    index, paths = indexed(tmp_path, [""] * 6 + ["abort"])
    assert answer(BETWEEN, index, paths[6]) == ["WorkerDied", True]


THREAD = """
    import threading
    from torchdata.stateful_dataloader import StatefulDataLoader
    index, poison = sys.argv[1:]
    found = []

    def read(kind, workers):
        dataset = dicomdl.FrameDataset(index, "modality", isolation="none")
        try:
            for batch in kind(dataset, batch_size=2, num_workers=workers):
                pass
        except RuntimeError as error:
            found.append([type(error).__name__, getattr(error, "path", "") == poison])

    thread = threading.Thread(target=read, args=(DataLoader, 1))
    thread.start()
    thread.join()
    read(StatefulDataLoader, 1)
    print(json.dumps(found))
"""


def test_deaths_are_named_in_other_threads_and_by_stateful_loaders(
    tmp_path: Path, answer: Callable[..., Any]
) -> None:
    pytest.importorskip("torchdata")
    index, paths = indexed(tmp_path, [""] * 3 + ["kill"])
    assert answer(THREAD, index, paths[3]) == [["WorkerDied", True]] * 2


HANG = """
    index, poison = sys.argv[1:]
    dataset = dicomdl.FrameDataset(index, "modality", isolation="none")
    try:
        for batch in loader(dataset, 1, "fork", timeout=4):
            pass
    except RuntimeError as error:
        print(json.dumps([type(error).__name__, *error.__notes__]), flush=True)
        (found,) = [each for each in dicomdl.last_decoded() if not each.is_done]
        assert found.path == poison
"""


def test_a_hang_that_the_loader_gives_up_is_noted_with_its_frame(
    tmp_path: Path, answer: Callable[..., Any]
) -> None:
    index, paths = indexed(tmp_path, [""] * 3 + ["sleep"])
    kind, note = answer(HANG, index, paths[3])
    assert kind == "RuntimeError" and f"has been decoding {paths[3]}, frame 1" in note


OTHER = """
    import os
    class Dies(torch.utils.data.Dataset):
        def __len__(self):
            return 4
        def __getitem__(self, row):
            values = frames[row]
            os._exit(3)
    frames = dicomdl.FrameDataset(sys.argv[1], "modality", isolation="none")
    try:
        list(loader(Dies(), 1, "fork"))
    except RuntimeError as error:
        chain = [error, error.__cause__]
        notes = [note for each in chain for note in getattr(each, "__notes__", [])]
        print(json.dumps([type(error).__name__, notes]))
"""


def test_no_frame_is_blamed_for_a_worker_that_died_elsewhere(
    tmp_path: Path, answer: Callable[..., Any]
) -> None:
    index, paths = indexed(tmp_path, [""] * 4)
    kind, notes = answer(OTHER, index)
    assert kind == "RuntimeError"
    assert notes and all("was not decoding" in note and str(paths[0]) in note for note in notes)


# --- isolation on ---------------------------------------------------------------------------------

EPOCH = """
    method, workers, kind, index = sys.argv[1:]
    isolation = dicomdl.Isolation(timeout_s=1, memory_bytes=2**29)
    dataset = dicomdl.FrameDataset(index, "modality", isolation=isolation, on_error="skip")
    if kind == "stream":
        dataset = dicomdl.StackStream(dataset)
    delivered = [value for batch in loader(dataset, int(workers), method)
                 for value in batch["image"][:, 0, 0, 0].tolist()]
    skipped = (dataset.dataset if kind == "stream" else dataset).skipped
    print(json.dumps([delivered, [[each.row, each.error] for each in skipped]]))
"""
POISON = (*DEATHS, "hang", "abort", "segfault", "kill", "exit", "allocate")


@pytest.mark.parametrize(
    ("method", "workers", "kind"),
    [
        ("fork", 0, "map"),
        ("fork", 1, "map"),
        ("fork", 2, "map"),
        ("spawn", 2, "map"),
        ("forkserver", 2, "map"),
        ("fork", 2, "stream"),
    ],
)
def test_an_isolated_epoch_delivers_all_other_samples_and_reports_each_poisoned_one(
    method: str, workers: int, kind: str, tmp_path: Path, answer: Callable[..., Any]
) -> None:
    words = [""] * 200
    for number, word in enumerate(POISON):
        words[20 * number + 7] = word
    index, paths = indexed(tmp_path, words)
    delivered, skipped = answer(EPOCH, method, workers, kind, index)
    assert sorted(delivered) == [float(z) for z in range(200) if not words[z]]
    assert sorted(row for row, _ in skipped) == [z for z in range(200) if words[z]]
    for row, error in skipped:
        if words[row] == "hang":
            assert error.startswith("DecoderTimeout")
        elif words[row] != "allocate":
            assert error.startswith("DecoderDied")
        assert f"file: {paths[row]}, frame 1" in error


# --- nothing is left behind -----------------------------------------------------------------------

STAY = """
    import os, pathlib, signal
    method, isolation, index = sys.argv[1:]
    dataset = dicomdl.FrameDataset(index, "modality", isolation=isolation)
    batches = iter(loader(dataset, 2, method, prefetch_factor=4))
    next(batches)
    # The poison is read by one worker, the other waits.
    while not any(not found.is_done for found in dicomdl.last_decoded()):
        pass
    print(json.dumps(os.getpid()), flush=True)
    next(batches)
    next(batches)
"""


def descendants(process: int) -> set[int]:
    """Return the processes below one, from /proc."""
    children: dict[int, set[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), set()).add(int(entry.parent.name))
    found: set[int] = set()
    waiting = [process]
    while waiting:
        new = children.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found


def is_alive(process: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("method", "isolation", "word"),
    [
        ("fork", "process", "hang"),
        ("spawn", "process", "hang"),
        ("forkserver", "process", "hang"),
        ("fork", "none", "sleep"),
        ("spawn", "none", "sleep"),
        ("forkserver", "none", "sleep"),
    ],
)
def test_no_worker_and_no_helper_outlives_a_main_process_that_is_killed(
    method: str, isolation: str, word: str, tmp_path: Path, run: Callable[..., ForkedScript]
) -> None:
    index, _ = indexed(tmp_path, [""] * 4 + [word] + [""] * 3)
    shared = set(os.listdir("/dev/shm"))
    with run(STAY, method, isolation, index) as process:
        assert int(process.stdout.readline()) == process.pid
        below = descendants(process.pid)
        assert len(below) >= (4 if isolation == "process" else 2)
        process.kill()
    for _ in range(1200):
        left = {each for each in below if is_alive(each)}
        if not left:
            break
        time.sleep(0.05)
    assert left == set()
    assert {name for name in set(os.listdir("/dev/shm")) - shared if "dicomdl" in name} == set()
