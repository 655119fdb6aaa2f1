"""Mutation testing: the share of small changes of the code that its tests notice.

``python tests/mutation_testing.py`` changes the files of `COVERED_BY` in one place at a time (see
`code_mutants`), and runs the quick tests of the file that reach the place, until one fails. It
prints the survivors with line and change, and exits with 1 if fewer than 85 % are killed in a file.

    python tests/mutation_testing.py                      # 60 mutants per file, drawn by --seed
    python tests/mutation_testing.py --all geometry/grid  # every mutant of one file
    python tests/mutation_testing.py --all geometry/grid --lines 60-95

A process per file collects the tests once. It forks per mutant, replaces the code of the changed
function, and runs the tests that reach the line, the quickest first, up to --seconds of CPU. A
change of what runs at import, such as a constant, is made in a process that has not imported the
file yet. This needs fork. mutmut 3.8 leaves out properties and decorated functions, and changes
every text of an error; cosmic-ray starts pytest per mutant.
"""

import argparse
import ast
import collections
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import itertools
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import coverage
import pytest
from code_mutants import Mutant, code_of, compiled, mutants
from hypothesis import Phase, settings

ROOT: Final = Path(__file__).parents[1]
# The test files of each file of code, by their names below tests/geometry or tests/headers.
COVERED_BY: Final = {
    "geometry/grid": "grid verdict stacks",
    "geometry/verdict": "verdict grid",
    "geometry/stacks": "stacks contrast runs joining",
    "geometry/_dimensions": "dimensions candidates",
    "geometry/_candidates": "candidates stacks contrast",
    "geometry/regular": "regular grid",
    "geometry/_splitting": "stacks joining runs contrast one_position",
    "geometry/_runs": "runs stacks",
    "geometry/_joining": "joining stacks",
    "geometry/_judge": "stacks contrast runs joining",
    "headers/_elements": "elements layouts reader",
    "headers/_layouts": "layouts reader",
    "headers/reader": "reader coding flags mosaic attribute_items ordinary limits",
}
LEAST_KILLED: Final = 0.85
# Imported before any fork, because they do not know dicomdl.
_OTHERS: Final = "numpy pydicom SimpleITK pyarrow.parquet imagecodecs nibabel pandas"
_SURVIVED, _KILLED, _TIMEOUT, _NO_TEST = "survived", "killed", "timeout", "no test"
# A mutant may allocate without end.
_MEMORY_BYTES: Final = 4 * 2**30


class Result(NamedTuple):
    """What became of a mutant, and the test that noticed it."""

    outcome: str
    mutant: str
    test: str = ""


class Reached(NamedTuple):
    """Which tests reach which lines of a file, and the CPU seconds of each test."""

    tests: dict[int, list[str]]
    seconds: dict[str, float]


def in_child(work: Callable[[], Any], cpu_seconds: float = 0) -> Any:
    """Return what `work` returns in a fork, as JSON keeps it; None if a signal ended the fork."""
    with tempfile.TemporaryFile("w+") as answer:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                if cpu_seconds:
                    _limit(cpu_seconds)
                json.dump(work(), answer)
                answer.flush()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        _, ended = os.waitpid(child, 0)
        if os.WIFSIGNALED(ended):
            return None
        if os.WEXITSTATUS(ended):
            raise SystemExit("a process of the tests failed, see above")
        answer.seek(0)
        return json.load(answer)


def _limit(cpu_seconds: float) -> None:
    """End this process after so much CPU, or after 20 times as many seconds of waiting."""
    resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_seconds) + 1, int(cpu_seconds) + 3))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY_BYTES,) * 2)
    if os.fork() == 0:  # a watch that a test's own alarms do not switch off
        watched = os.getppid()
        for _ in range(int(20 * cpu_seconds)):
            time.sleep(1)
            if os.getppid() != watched:
                os._exit(0)
        os.kill(watched, signal.SIGKILL)
        os._exit(0)


class _Session:
    """The plugin that takes pytest's collected tests, and does `work` with them."""

    def __init__(self, work: Callable[[Sequence[pytest.Item]], Any]) -> None:
        self._work = work
        self.result: Any = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.result = self._work(session.items)
        return True

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self) -> None:
        # A failure is all that is asked for, not the smallest example of it.
        phases = (Phase.explicit, Phase.generate)
        settings.register_profile(
            "mutants", deadline=None, derandomize=True, database=None, phases=phases
        )
        settings.load_profile("mutants")


def with_tests(paths: Sequence[str], work: Callable[[Sequence[pytest.Item]], Any]) -> Any:
    """Collect the quick tests of `paths`, and return `work` of them."""
    plugin = _Session(work)
    options = ["-o", "addopts=--import-mode=importlib", "-m", "not slow"]
    quiet = ["-p", "no:cacheprovider", "-p", "no:terminal"]
    code = pytest.main([*options, *quiet, f"--rootdir={ROOT}", *paths], plugins=[plugin])
    if code == pytest.ExitCode.INTERNAL_ERROR:
        raise RuntimeError("pytest failed")
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise SystemExit(f"pytest cannot collect {' '.join(paths)}: {code!r}")
    return plugin.result


def first_failure(items: Sequence[pytest.Item], seconds: Mapping[str, float] | None = None) -> str:
    """Run tests until one fails; return its name, "" if none does.

    A test that takes ten times its `seconds` of CPU, and one more, ends the process.
    """
    failed: list[str] = []

    class Reports:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                failed.append(report.nodeid)

    if items:
        items[0].config.pluginmanager.register(Reports())
    for number, item in enumerate(items):
        following = items[number + 1] if number + 1 < len(items) else None
        if seconds is not None:
            signal.setitimer(signal.ITIMER_VIRTUAL, 1 + 10 * seconds[item.nodeid])
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if failed:
            return failed[0]
    return ""


def reached(path: Path, items: Sequence[pytest.Item]) -> Reached:
    """Run all tests, and return which lines of a file each of them reaches."""
    measured = coverage.Coverage(data_file=None, include=[str(path)], config_file=False)
    seconds: dict[str, float] = {}
    measured.start()
    for number, item in enumerate(items):
        measured.switch_context(item.nodeid)
        before = time.process_time()
        failed = first_failure([item])
        if failed:
            raise SystemExit(f"{failed} fails without a mutant")
        seconds[item.nodeid] = time.process_time() - before
        if number % 400 == 0:
            print(f"  {number} of {len(items)} tests", file=sys.stderr, flush=True)
    measured.stop()
    lines = measured.get_data().contexts_by_lineno(str(path))
    return Reached({n: [t for t in names if t] for n, names in lines.items()}, seconds)


def _live(module: types.ModuleType, name: str) -> types.FunctionType:
    """Return a function of a module by its qualified name, without its decorators."""
    found: Any = module
    for part in name.split("."):
        found = vars(found)[part]
    while not isinstance(found, types.FunctionType):
        found = next(
            getattr(found, each)
            for each in ("fget", "func", "__func__", "__wrapped__")
            if hasattr(found, each)
        )
    return found


class _Importer(importlib.abc.MetaPathFinder, importlib.machinery.SourceFileLoader):
    """The import of one module from a changed tree."""

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        super().__init__(name, str(path))
        self._tree = tree

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)

    def get_code(self, name: str) -> types.CodeType:
        return compiled(self._tree, self.path)


class FileUnderTest:
    """One file of dicomdl, its mutants, and the tests that reach it."""

    def __init__(self, name: str, seconds: float) -> None:
        self.name = name
        self.seconds = seconds
        self.module = "dicomdl." + name.replace("/", ".")
        self.path = ROOT / "dicomdl" / f"{name}.py"
        folder = ROOT / "tests" / self.path.parent.name
        self.test_files = [str(folder / f"test_{each}.py") for each in COVERED_BY[name].split()]
        self.tree = ast.parse(self.path.read_text())
        self.mutants = mutants(self.tree)
        self.kills: collections.Counter[str] = collections.Counter()

    def drawn(self, count: int, seed: int, lines: range | None) -> list[Mutant]:
        """Return `count` mutants (0: all), those of some lines only."""
        found = [m for m in self.mutants if lines is None or m.lines.start in lines]
        if count and count < len(found):
            chosen = random.Random(f"{seed} {self.name}").sample(range(len(found)), count)
            found = [found[number] for number in sorted(chosen)]
        return found

    def run(self, chosen: Sequence[Mutant]) -> list[Result]:
        """Return the result of each mutant."""
        inside = [m for m in chosen if m.function]
        answer = in_child(lambda: with_tests(self.test_files, lambda i: self._inside(i, inside)))
        if answer is None:
            raise SystemExit(f"{self.name}: the process of its tests ended")
        results = [Result(*each) for each in answer[0]]
        every = {name: answer[1][name] for name in self._in_order(answer[1])}
        at_import = [self._at_import(m, every) for m in chosen if not m.function]
        return results + at_import

    def _is_own(self, test: str) -> bool:
        """Whether a test is in the test file of this file."""
        return f"/test_{self.path.stem.lstrip('_')}.py::" in test

    def _in_order(self, seconds: dict[str, float]) -> list[str]:
        """Return the tests to run, up to `self.seconds`.

        Those that noticed most mutants come first, then those of the file itself, the quickest
        first.
        """
        order = sorted(
            seconds,
            key=lambda test: (-self.kills[test], not self._is_own(test), seconds[test]),
        )
        spent = itertools.accumulate(seconds[test] for test in order)
        return [test for test, cost in zip(order, spent, strict=True) if cost <= self.seconds]

    def _inside(
        self, items: Sequence[pytest.Item], chosen: Sequence[Mutant]
    ) -> tuple[list[Result], dict[str, float]]:
        """Return the results of mutants inside functions, and the cost of all tests of the file."""
        named = {item.nodeid: item for item in items}
        # JSON turns numbers of lines into texts.
        tests, seconds = in_child(lambda: reached(self.path, items))
        at = {int(line): names for line, names in tests.items()}
        results = []
        for number, mutant in enumerate(chosen):
            wanted = {name for line in mutant.lines for name in at.get(line, ())}
            order = self._in_order({name: seconds[name] for name in wanted})
            ordered = [named[name] for name in order]
            noticed = functools.partial(self._noticed, mutant, ordered, seconds)
            answer = in_child(noticed, 5 + 3 * sum(seconds[name] for name in order))
            results.append(self._result(mutant, answer, bool(order)))
            if number % 20 == 19:
                print(f"  {number + 1} of {len(chosen)} mutants", file=sys.stderr, flush=True)
        # A test that only compares a constant reaches no line.
        used = {name for names in at.values() for name in names} | set(filter(self._is_own, named))
        return results, {name: seconds[name] for name in used}

    def _result(self, mutant: Mutant, answer: str | None, has_tests: bool) -> Result:
        if answer is None:
            return Result(_TIMEOUT, str(mutant))
        if answer:
            self.kills[answer] += 1
            return Result(_KILLED, str(mutant), answer)
        return Result(_SURVIVED if has_tests else _NO_TEST, str(mutant))

    def _noticed(
        self, mutant: Mutant, items: Sequence[pytest.Item], seconds: Mapping[str, float]
    ) -> str:
        mutant.apply()
        changed = code_of(compiled(self.tree, str(self.path)), mutant.function)
        _live(sys.modules[self.module], mutant.function).__code__ = changed
        return first_failure(items, seconds)

    def _at_import(self, mutant: Mutant, order: Mapping[str, float]) -> Result:
        rank = {name: number for number, name in enumerate(order)}

        def run(items: Sequence[pytest.Item]) -> str:
            wanted = [item for item in items if item.nodeid in rank]
            return first_failure(sorted(wanted, key=lambda item: rank[item.nodeid]), order)

        def noticed() -> str:
            mutant.apply()
            sys.meta_path.insert(0, _Importer(self.module, self.path, self.tree))
            try:
                return str(with_tests(self.test_files, run))
            except SystemExit:
                return "the collection"

        return self._result(mutant, in_child(noticed, 200), bool(order))


def main() -> int:
    arguments = _arguments()
    os.chdir(ROOT)
    os.environ["CI"] = "1"
    for name in _OTHERS.split():
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    worst = 1.0
    for name in arguments.files or COVERED_BY:
        file = FileUnderTest(name, arguments.seconds)
        count = 0 if arguments.all else arguments.count
        results = file.run(file.drawn(count, arguments.seed, arguments.lines))
        outcomes = collections.Counter(result.outcome for result in results)
        killed = outcomes[_KILLED] + outcomes[_TIMEOUT]
        share = killed / max(len(results), 1)
        worst = min(worst, share)
        told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
        print(f"{name}: {share:.1%} of {len(results)} mutants killed ({told})")
        for result in results:
            if result.outcome in (_SURVIVED, _NO_TEST):
                print(f"  {result.outcome} {result.mutant}")
            elif arguments.verbose:
                print(f"  {result.outcome} {result.mutant}  by {result.test}")
        sys.stdout.flush()
    return 0 if worst >= LEAST_KILLED else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help="such as geometry/grid")
    parser.add_argument("--count", type=int, default=60, help="mutants per file")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--seconds", type=float, default=8, help="CPU of the tests of a mutant")
    parser.add_argument("--all", action="store_true", help="every mutant")
    parser.add_argument("--lines", type=_span, help="only of these lines: 60-95")
    parser.add_argument("--verbose", action="store_true", help="killed mutants, too")
    arguments = parser.parse_args()
    unknown = set(arguments.files) - set(COVERED_BY)
    if unknown:
        parser.error(f"not among the files: {', '.join(sorted(unknown))}")
    return arguments


def _span(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


if __name__ == "__main__":
    raise SystemExit(main())
