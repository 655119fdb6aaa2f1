"""Fixtures of all tests: the corpus of real files, folders for phantoms, their index, caches."""

import gc
import itertools
import multiprocessing
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from traceback import walk_tb

import pytest
from browser import Browser
from hypothesis import settings

import dicomdl
from dicomdl.storage import _slow, memory

TIME_OF_A_READ = _slow._time

# The server of "forkserver" imports these once; each worker would take 2 s for it. Absent packages
# are passed over. Workers of "spawn" still import all they need themselves.
multiprocessing.set_forkserver_preload(
    ["torch", "dicomdl.datasets.frames", "hypothesis", "imagecodecs", "pydicom.dataset", "pytest"]
)

# Arrays of tests are small, and the threads of torch spin while they wait for each other: on busy
# cores, tests of data sets take a fifth less CPU with one. It is read when torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Machines differ, so no example has a deadline. CI draws the same examples every time, so that a
# commit fails only for its own changes. Local runs search for new examples.
settings.register_profile("dicomdl", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("dicomdl")

# Tests write thousands of small files, each of which costs 0.9 ms of CPU on a disk that discards
# freed blocks, and 0.03 ms in memory. `--basetemp` puts the folders of the tests elsewhere.
IN_MEMORY = Path("/dev/shm")
if IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > 4 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))

NewFolder = Callable[[], Path]
CACHES = itertools.count()
CORPUS = Path(os.environ.get("DICOMDL_CORPUS") or Path(__file__).parents[2] / "shared" / "corpus")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark notebooks, and tests that read real files or start new processes, as slow.

    So are the cases of a test beyond those that ``quick(count)`` leaves in the quick half. Tests of
    the full size run only where ``-m`` names them.
    """
    if "full" not in config.option.markexpr:
        full = [item for item in items if item.get_closest_marker("full")]
        items[:] = [item for item in items if not item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=full)
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {}).values()
        if (
            item.path.suffix == ".ipynb"
            or "corpus" in getattr(item, "fixturenames", ())
            or item.get_closest_marker("corpus")
            or any(
                value in ("spawn", "forkserver") for value in parameters if isinstance(value, str)
            )
        ):
            item.add_marker(pytest.mark.slow)
    for item in _beyond_the_quick_ones(items):
        item.add_marker(pytest.mark.slow)


def _beyond_the_quick_ones(items: list[pytest.Item]) -> Iterator[pytest.Item]:
    """Yield the cases that ``quick(count)`` leaves out: it keeps `count`, evenly drawn."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("quick") and not item.get_closest_marker("slow"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for family in cases.values():
        marker = family[0].get_closest_marker("quick")
        assert marker is not None
        step = max(1, len(family) / marker.args[0])
        kept = {int(step * number) for number in range(marker.args[0])}
        yield from (item for number, item in enumerate(family) if number not in kept)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep what is collected out of the garbage collector.

    Thousands of tests and their modules stay to the end. A pass over them takes a second of CPU.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    """Skip a test that forks where the system cannot, but never where dicomdl needs the fork."""
    try:
        return (yield)
    except AttributeError as error:
        frames = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
        if error.name != "fork" or any(name.startswith("dicomdl") for name in frames):
            raise
        return pytest.skip("this system has no fork")


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Return a Chromium without a window; tests skip where there is none."""
    with Browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture
def corpus() -> Path:
    """The folder of real files; tests that need it are skipped by name without it."""
    if not CORPUS.is_dir():
        pytest.skip("needs the corpus (DICOMDL_CORPUS)")
    return CORPUS


@pytest.fixture(scope="session")
def new_folder(tmp_path_factory: pytest.TempPathFactory) -> NewFolder:
    """Return a function that makes an empty folder, for files that many tests read."""

    def make() -> Path:
        made = tmp_path_factory.mktemp("shared") / "dicom"
        made.mkdir()
        return made

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for files."""
    made = tmp_path / "dicom"
    made.mkdir()
    return made


def index_of(folder: Path) -> dicomdl.Index:
    """The index of a folder, beside it."""
    return dicomdl.scan(folder, folder.parent / f"{folder.name}.index", progress=False)


@pytest.fixture(autouse=True, scope="session")
def a_fast_disk() -> Generator[None]:
    """Measure no file system: a busy machine would have a slow one, and trials open files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_slow, "_time", lambda path, offset: 0.0)
        yield


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_the_disk() -> Generator[None]:
    """Replace fsync by nothing: a scan of six files waits 9 times, 70 ms, and CPUs idle meanwhile.

    Only a power failure would tell the difference. Tests of what is synchronised replace it again.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """The folder of the cache folders of all tests; what they share is made with one of its own."""
    folder = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DICOMDL_CACHE", str(folder / "shared"))
        yield folder


@pytest.fixture(autouse=True)
def cache_folder(caches: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test writes to the user's cache folder; its own is made when something is written."""
    folder = caches / str(next(CACHES))
    monkeypatch.setenv("DICOMDL_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True, scope="module")
def collections_of_what_tests_make() -> None:
    """Leave what imports and other modules made out of collections, of 0.1 s or more each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def empty_memory() -> None:
    """No test finds what another one left in the process."""
    memory.clear()
