"""The goals R1 to R26 of reliability, each measured by its tests: python tests/faults/goals.py.

    python tests/faults/goals.py                  # smoke size
    python tests/faults/goals.py --full           # the sizes that the goals name, about an hour
    python tests/faults/goals.py --full --page --only R1 R2 R4 R5   # 3 minutes
    python tests/faults/goals.py --only R4 R5     # some goals
    python tests/faults/goals.py --page           # also writes docs/concepts/robustness.md

A goal passes if all its tests do and none records a shortfall. A test says what it found by the
property "figure", and what it missed by "short". A goal without a test is not measured.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "concepts" / "robustness.md"
_START, _END = "<!-- goals: begin -->", "<!-- goals: end -->"


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal.

    Attributes
    ----------
    name, subject, goal
        Its number, what it is about, and the figure to reach.
    tests
        ``"file::test"`` below tests/, or a file.
    beyond
        What no test measures.
    """

    name: str
    subject: str
    goal: str
    tests: tuple[str, ...]
    beyond: str = ""


HUNTS, CASES, SCAN = "faults/test_hunts.py::", "faults/test_cases.py::", "jobs/test_scan.py::"
DISK, EPOCHS = "storage/cache/test_disk.py::", "datasets/test_epochs.py::"
ASSEMBLY, TRANSPORT = "datasets/test_assembly.py::", "datasets/test_transport.py::"
LAYOUT, KEYS = "storage/cache/test_layout.py::", "storage/cache/test_keys.py::"

GOALS = (
    Goal(
        "R1",
        "damaged headers",
        "20,000: no escape, crash or hang, 2 s and 128 MiB at most",
        (
            f"{HUNTS}test_damaged_headers_go_the_whole_way",
            f"{HUNTS}test_no_damaged_header_loses_a_required_attribute_silently",
        ),
    ),
    Goal(
        "R2",
        "silent loss of required attributes",
        "none in 20,000 damaged headers",
        (f"{HUNTS}test_no_damaged_header_loses_a_required_attribute_silently",),
    ),
    Goal(
        "R3",
        "hand-made odd files",
        "at least 120, each with one outcome; all scanned in 20 s",
        ("faults/test_cases.py",),
    ),
    Goal(
        "R4",
        "damaged codestreams",
        "15,000 per codec: no escape, crash or hang, 3 s and 256 MiB at most",
        (f"{HUNTS}test_damaged_codestreams_are_frames_or_typed_errors",),
    ),
    Goal(
        "R5",
        "truncated pixels",
        "199 points per codec, native, multi-frame: no array",
        (f"{HUNTS}test_no_truncated_frame_is_an_array",),
    ),
    Goal(
        "R6",
        "bombs",
        "1.5 s of CPU and 200 MiB each",
        ("faults/test_bombs.py", "headers/test_limits.py"),
    ),
    Goal(
        "R7",
        "accounting of an epoch",
        "20 of 200 samples unreadable: none lost, none unnamed",
        (
            "faults/test_epochs.py",
            f"{ASSEMBLY}test_no_error_ends_an_epoch_without_a_word",
            f"{ASSEMBLY}test_no_error_ends_the_epoch_of_a_worker_without_a_word",
            "datasets/test_stream.py::test_no_error_ends_an_epoch_silently",
        ),
    ),
    Goal(
        "R8",
        "errors travel",
        "every error pickles with its facts and leaves a worker whole",
        ("test_errors.py", "datasets/test_worker.py"),
    ),
    Goal(
        "R9",
        "decoders that crash or hang",
        "10 poison of 200: 190 delivered, 10 reported; 20 of 20 deaths name their file",
        ("pixels/test_isolation.py", "pixels/test_recorder.py", "datasets/test_deaths.py"),
    ),
    Goal(
        "R10",
        "odd folders",
        "no hang, each file once, nothing outside; 100,000 files, 1,000 levels",
        ("faults/test_trees.py", f"{SCAN}test_a_file_that_vanishes_between_walk_and_read"),
    ),
    Goal(
        "R11",
        "names and identifiers that are paths",
        "2,000: nothing written outside",
        ("faults/test_traversal.py", f"{KEYS}test_only_hexadecimal_digits_can_be_a_key"),
    ),
    Goal(
        "R12",
        "kill -9 while writing",
        "no wrong read, an index is old or new, no rubbish",
        (
            "storage/cache/test_folder.py::test_killed_writers_leave_no_wrong_entry",
            "storage/cache/test_folder.py::test_a_kill_at_any_system_call",
            f"{SCAN}test_a_killed_scan_leaves_the_old_index_or_the_new_one",
            "storage/test_publishing.py::test_a_reader_beside_a_killed_writer_sees_a_whole_file",
        ),
    ),
    Goal(
        "R13",
        "bit rot",
        "every flip, cut and swap in a cache or an index is found",
        (
            f"{LAYOUT}test_every_flipped_bit_is_found_and_made_again",
            f"{LAYOUT}test_every_truncation_and_every_tail_is_found",
            "storage/cache/test_ring.py::test_a_damaged_byte_is_found_counted_and_made_again",
            "faults/test_index_damage.py",
        ),
    ),
    Goal(
        "R14",
        "computed once",
        "many processes, one computation per entry; killed ones cost no more than themselves",
        (
            f"{DISK}test_many_processes_compute_each_entry_once",
            f"{DISK}test_with_kills_no_more_is_computed_than_was_killed",
            f"{DISK}test_without_locks_the_results_are_the_same",
        ),
    ),
    Goal(
        "R15",
        "stale entries",
        "every change of source or options is another entry",
        (
            f"{KEYS}test_a_source_file_that_changes_changes_the_key",
            f"{KEYS}test_slices_their_order_frames_instances_options_and_versions",
            "volumes/test_blocks.py::test_another_quantity_another_rescale_or_a_changed_file",
            f"{SCAN}test_a_change_in_place_with_the_same_size_and_restored_time_is_noticed",
            "pixels/test_read.py::test_a_file_that_changed_since_the_scan_is_refused",
        ),
    ),
    Goal(
        "R16",
        "full disks",
        "samples are delivered, one warning, nothing partial",
        (
            f"{DISK}test_a_disk_that_refuses_costs_the_entry_not_the_value",
            f"{DISK}test_a_limit_of_file_size_is_a_full_disk",
            f"{DISK}test_a_folder_that_cannot_be_made_costs_one_warning",
            f"{SCAN}test_a_full_disk_is_one_storage_error_and_the_old_index_stays",
            f"{SCAN}test_a_file_size_limit_is_one_storage_error_and_the_old_index_stays",
        ),
    ),
    Goal(
        "R17",
        "no code from data",
        "2,000 hostile index and cache files: nothing run",
        (
            "faults/test_no_code.py",
            "test_house.py::test_a_module_keeps_all_rules",
        ),
    ),
    Goal(
        "R18",
        "memory of workers",
        "a pickled dataset of 1 MiB at most; 30 MiB growth over 1,000,000 frames",
        (
            "datasets/test_frames.py::test_a_dataset_pickles_as_a_few_hundred_bytes",
            "index/test_index.py::test_an_index_its_selections_and_stacks_pickle_small",
            "faults/test_workers.py::test_a_million_frames_cost_a_worker_little_memory",
        ),
    ),
    Goal(
        "R19",
        "handles",
        "descriptors constant over epochs, nothing left of killed processes",
        (
            f"{TRANSPORT}test_descriptors_and_maps_do_not_become_more_with_the_epochs",
            f"{TRANSPORT}test_nothing_outlives_processes_that_are_killed",
            f"{TRANSPORT}test_buffers_take_no_descriptors_of_the_receiver",
            f"{DISK}test_a_disk_cache_has_nothing_open_until_it_is_used",
            "volumes/test_volume.py::test_reading_leaves_no_thread_and_no_open_file_behind",
        ),
    ),
    Goal(
        "R20",
        "start methods",
        "fork, spawn and forkserver, 20 runs in three states of the parent: no hang, equal batches",
        (
            "datasets/test_frames.py::test_a_loader_gives_the_same_batches_with_every_start",
            "storage/cache/test_memory.py::test_workers_of_every_start_method_share_a_cache",
            "storage/test_memory.py::test_a_fork_in_the_midst_of_a_locked_region",
            "faults/test_workers.py::test_twenty_loaders_in_a_row_start_and_give_equal_batches",
        ),
    ),
    Goal(
        "R21",
        "seeds",
        "no draw twice; the same sample for any number of workers and after a resumption",
        (
            f"{EPOCHS}test_workers_draw_anew_in_every_pass",
            f"{EPOCHS}test_a_plain_loader_draws_anew_in_every_pass",
            f"{EPOCHS}test_workers_give_the_samples_that_one_process_gives",
            "datasets/test_samplers.py::test_a_plain_loader_resumes_at_every_batch",
        ),
    ),
    Goal(
        "R22",
        "series",
        "at least 30: right voxels and affine, or a verdict; none silently wrong",
        ("test_defects.py",),
    ),
    Goal(
        "R23",
        "identities",
        "no canary in index, cache, messages, reprs or logs",
        (
            f"{SCAN}test_identifying_values_are_nowhere_in_the_index_folder",
            f"{SCAN}test_folders_and_files_of_an_index_are_their_owners_only",
            f"{SCAN}test_problems_name_the_file_and_quote_no_value",
            f"{KEYS}test_nothing_of_a_patient_is_in_names_or_bytes_of_a_cache",
            "faults/test_canaries.py",
        ),
    ),
    Goal(
        "R24",
        "texts",
        "15 character sets and hostile texts: no error, nothing commands a terminal or a page",
        (
            "faults/test_texts.py",
            "index/test_index.py::test_the_html_escapes_what_files_say",
        ),
    ),
    Goal(
        "R25",
        "polyglots",
        "preambles of programs, PDF, ZIP, TIFF are flagged",
        ("headers/test_flags.py", "faults/test_cases.py"),
    ),
    Goal(
        "R26",
        "versions",
        "declared floors are pinned, and pydicom's is enforced",
        (
            "test_house.py::test_the_oldest_versions_are_the_floors_of_pyproject",
            "headers/test_requirement.py",
        ),
        "the quick tests with the oldest versions run in .ci/run; no audit service is reached",
    ),
)


@dataclass(slots=True)
class Result:
    """What the tests of one goal found."""

    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: int = 0
    figures: list[str] = field(default_factory=list)
    short: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        if self.failed or self.short:
            return "short"
        if not self.passed:
            return "not measured"
        return "in part" if self.missing else "pass"

    @property
    def found(self) -> str:
        """The figures, the number of tests, and what is missing."""
        counts = f"{self.passed} tests pass"
        counts += f", {len(self.failed)} fail: {'; '.join(self.failed[:3])}" if self.failed else ""
        counts += f", {self.skipped} skipped" if self.skipped else ""
        missing = [f"not measured: {'; '.join(self.missing)}"] if self.missing else []
        return ". ".join([*together(self.figures), *self.short, counts, *missing])


_HUNT = r"(.*?)([\d,]+) fine, ([\d,]+) typed errors?, ([\d,]+) escapes; slowest ([\d.]+) s of CPU, "
_HUNT += r"memory \+ (\d+) MiB"
_STARTS = r"(.*?)(\d+) runs, (\d+) hangs"


def together(figures: Sequence[str]) -> list[str]:
    """Figures as a reader wants them: hunts as one with their largest costs, starts as one."""
    hunts = [match.groups() for text in figures if (match := re.fullmatch(_HUNT, text))]
    starts = [match.groups() for text in figures if (match := re.fullmatch(_STARTS, text))]
    told = []
    if hunts:
        size = "smoke: " if all("smoke" in hunt[0] for hunt in hunts) else ""
        # Some inputs are folders of several damaged files.
        inputs = sum(
            _number(number) * int(many[1] if (many := re.search(r"of (\d+)", hunt[0])) else 1)
            for hunt in hunts
            for number in hunt[1:4]
        )
        escapes = sum(_number(hunt[3]) for hunt in hunts)
        slowest, memory = max(float(hunt[4]) for hunt in hunts), max(int(h[5]) for h in hunts)
        told.append(
            f"{size}{inputs:,} inputs, {escapes} escapes; {slowest} s, {memory} MiB at most"
        )
    if starts:
        runs, hangs = (sum(int(start[number]) for start in starts) for number in (1, 2))
        told.append(f"{runs} starts, {hangs} hangs")
    pattern = f"{_HUNT}|{_STARTS}"
    return told + [text for text in figures if not re.fullmatch(pattern, text)]


def _number(text: str) -> int:
    return int(text.replace(",", ""))


def exists(test: str) -> bool:
    """Whether the file and the function of a test exist; a name may be its beginning."""
    file, _, name = test.partition("::")
    path = TESTS / file
    return path.exists() and bool(re.search(rf"def {name or 'test_'}", path.read_text()))


def measure(goals: Sequence[Goal], *, full: bool) -> dict[str, Result]:
    """Run the tests of the goals in one process of pytest."""
    files = sorted({test.partition("::")[0] for g in goals for test in g.tests if exists(test)})
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += [f"--junitxml={report}", "-o", "junit_family=xunit1"]
        command += ["-m", "full or not full"] if full else []
        command += ["-k", " or ".join(sorted(_words(goals)))]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent)])}
        subprocess.run(
            [*command, *(str(TESTS / file) for file in files)],
            cwd=TESTS.parent,
            env=environment,
            check=False,
            stdout=sys.stderr,
        )
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    return {goal.name: _result(goal, cases) for goal in goals}


def _words(goals: Sequence[Goal]) -> set[str]:
    """Return what pytest selects: names of functions, or of whole files."""
    words = set()
    for goal in goals:
        for test in filter(exists, goal.tests):
            file, _, name = test.partition("::")
            words.add(name or Path(file).stem)
    return words


def _result(goal: Goal, cases: Sequence[ElementTree.Element]) -> Result:
    result = Result(missing=[test for test in goal.tests if not exists(test)])
    result.missing += [goal.beyond] if goal.beyond else []
    for test in filter(exists, goal.tests):
        file, _, name = test.partition("::")
        module = f"tests.{file.removesuffix('.py').replace('/', '.')}"
        found = [
            case
            for case in cases
            if case.get("classname") == module and case.get("name", "").startswith(name)
        ]
        for case in found:
            _count(result, case)
        if not found:
            result.missing.append(f"{name}, which runs with --full")
    return result


def _count(result: Result, case: ElementTree.Element) -> None:
    name = case.get("name", "")
    parameter = re.search(r"\[(.*)\]", name)
    if case.find("failure") is not None or case.find("error") is not None:
        result.failed.append(name)
    elif case.find("skipped") is not None:
        result.skipped += 1
    else:
        result.passed += 1
    for found in case.iter("property"):
        text = str(found.get("value"))
        label = f"{parameter[1]}: " if parameter else ""
        if found.get("name") == "figure":
            result.figures.append(label + text)
        elif found.get("name") == "short":
            result.short.append(text)


def row(goal: Goal, result: Result | None) -> str:
    """Return the row of a goal in Markdown."""
    found, verdict = (result.found, result.verdict) if result else ("", "not measured")
    escaped = found.replace("|", "\\|")
    return f"| {goal.name} | {goal.subject} | {goal.goal} | {escaped} | {verdict} |"


def write_page(results: dict[str, Result]) -> None:
    """Replace the rows of the page that were measured, and keep the others."""
    page = PAGE.read_text()
    kept = dict(re.findall(r"^(\| R\d+ \|)(.*)$", page, re.MULTILINE))
    head, _, rest = page.partition(_START)
    _, _, tail = rest.partition(_END)
    lines = ["| | subject | goal | found | |", "|---|---|---|---|---|"]
    for goal in GOALS:
        begin, result = f"| {goal.name} |", results.get(goal.name)
        is_kept = result is None and begin in kept
        lines.append(begin + kept[begin] if is_kept else row(goal, result))
    table = "\n".join(lines)
    PAGE.write_text(f"{head}{_START}\n\n{table}\n\n{_END}{tail}")


def main() -> int:
    """Measure, print, and fail if a goal is short."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the sizes that the goals name")
    parser.add_argument("--only", nargs="+", metavar="R", help="names of goals")
    parser.add_argument("--page", action="store_true", help=f"write the table to {PAGE.name}")
    options = parser.parse_args()
    goals = [goal for goal in GOALS if not options.only or goal.name in options.only]
    results = measure(goals, full=options.full)
    for goal in goals:
        result = results[goal.name]
        print(f"{goal.name:4}{result.verdict:14}{goal.subject}: {goal.goal}")
        print(f"{'':18}{result.found}")
    if options.page:
        write_page(results)
    return int(any(result.verdict == "short" for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
