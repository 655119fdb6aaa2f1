"""The pages of the documentation: code runs, links lead somewhere, names have their page."""

import contextlib
import doctest
import io
import os
import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import columns_page
import faults_page
import pytest
from cli_page import PAGE, page
from pages import DOCS, PAGES, ROOT, Block, read_page

import dicomdl
from dicomdl.cli.main import main
from dicomdl.headers.frame import attributes
from dicomdl.index.schema import STACKS_SCHEMA, frames_schema

READ = {path: read_page(path) for path in PAGES}
WITH_CODE = [
    path
    for path, read in READ.items()
    if any(block.language in ("python", "console") for block in read.blocks)
]
MATCH = doctest.OutputChecker()
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# How a page of another library says that it is not installed.
OPTIONAL = {"monai", "torchio", "torchvision", "lightning", "torchdata", "matplotlib", "pandas"}
OPTIONAL |= {"highdicom"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that most pages read, written once; a call of `demo_data` then writes nothing."""
    folder = tmp_path_factory.mktemp("pages") / "demo"
    dicomdl.demo_data(folder, patients=6)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("path", WITH_CODE, ids=name_of)
def test_the_code_of_a_page_runs_and_prints_what_it_says(
    path: Path, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    blocks = READ[path].blocks
    for library in sorted(OPTIONAL):
        if any(
            re.search(rf"\bimport {library}\b|\bfrom {library}\b", each.code) for each in blocks
        ):
            pytest.importorskip(library)
    if any('demo_data("demo", patients=6)' in block.code for block in blocks):
        shutil.copytree(demo, tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names: dict[str, Any] = {"__name__": "__page__"}
    for number, block in enumerate(blocks):
        if block.why_not:
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            run_python(path, block.line, block.before, names)
            if block.language == "python":
                run_python(path, block.line, block.code, names)
            elif block.language == "console":
                run_commands(path, block)
        behind = blocks[number + 1 : number + 2]
        if block.language == "python" and behind and is_output(behind[0]):
            want, got = behind[0].code, printed.getvalue()
            assert MATCH.check_output(want, got, FLAGS), f"{path}:{behind[0].line} printed\n{got}"


def is_output(block: Block) -> bool:
    return block.language == "text" and block.follows


def run_python(path: Path, line: int, code: str, names: dict[str, Any]) -> None:
    """Run lines of Python; an error shows the line of their block in the page."""
    exec(compile("\n" * (line - 1) + code, str(path), "exec"), names)


def run_commands(path: Path, block: Block) -> None:
    """Run the commands of a block; one may end with problems found, none with wrong use."""
    for line in block.code.splitlines():
        if line.startswith("$ "):
            command, *arguments = shlex.split(line[2:], comments=True)
            assert command == "dicomdl", f"{path}:{block.line}: not a command of dicomdl: {line}"
            assert main(arguments) in (0, 1), f"{path}:{block.line}: {line}"


def test_a_link_leads_to_a_page_and_to_a_heading_on_it() -> None:
    dead = []
    for path, read in READ.items():
        for line, target in read.links:
            if re.match(r"[a-z]+:", target):
                continue
            file, _, anchor = target.partition("#")
            found = (path.parent / file).resolve() if file else path
            if not found.exists():
                dead.append(f"{name_of(path)}:{line}: {target}")
            elif anchor and found in READ and anchor not in READ[found].anchors:
                dead.append(f"{name_of(path)}:{line}: no heading #{anchor} in {name_of(found)}")
    assert not dead, "\n".join(dead)


def test_pages_of_the_site_link_to_files_of_the_site_only() -> None:
    outside = [
        f"{name_of(path)}:{line}: {target}"
        for path, read in READ.items()
        for line, target in read.links
        if DOCS in path.parents
        and not re.match(r"[a-z]+:|#", target)
        and DOCS not in (path.parent / target.partition("#")[0]).resolve().parents
    ]
    assert not outside, "\n".join(outside)


def test_every_page_is_in_the_navigation_once() -> None:
    def files(part: Any) -> list[str]:
        if isinstance(part, str):
            return [part]
        parts = part.values() if isinstance(part, dict) else part
        return [file for each in parts for file in files(each)]

    listed = files(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"])
    assert sorted(listed) == sorted(
        path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")
    )


def public_names() -> list[str]:
    modules = ("interop", "idc")
    names = [name for name in dicomdl.__all__ if name not in (*modules, "__version__")]
    return names + [
        f"{module}.{name}" for module in modules for name in getattr(dicomdl, module).__all__
    ]


def test_every_public_name_is_on_one_page_of_the_reference() -> None:
    documented = [
        target.replace("lightning._Loaders", "DataModule")
        for path in sorted((DOCS / "reference").glob("*.md"))
        for target in re.findall(r"^::: dicomdl\.(\S+)$", path.read_text(), re.MULTILINE)
    ]
    errors = ["errors"]  # with DicomdlError and all classes below it
    # What attributes of public classes hold, or their methods return.
    elements = ["index.annotations.Annotation", "index.joined.Joined"]
    elements += ["index.join_report.JoinReport"]
    elements += ["labels.reader.OverlapWarning", "labels.read.RemarkWarning"]
    elements += ["jobs.exports.exported.ExportWarning"]
    elements += ["labels.regions.Region", "labels.regions.RegionReport"]
    elements += ["index.audits.Audit", "index.audits.Leak"]
    elements += ["index.duplicates.Duplicates", "index.duplicates.Duplicate"]
    elements += ["index.saved_splits.SavedSplit", "index.saved_splits.SavedGroup"]
    elements += ["idc.IDCSeries"]
    elements += ["jobs.network.fetch.Access", "jobs.network.fetching.Fetched"]
    elements += ["jobs.network.finding.FoundSeries", "storage.dicomweb.Timeouts"]
    elements += [f"jobs.network.peers.{name}" for name in ("TLS", "Peer", "Service", "parse_peer")]
    elements += ["jobs.network.commitment.Commitment", "jobs.network.sent.Sent"]
    elements += ["jobs.network.listening.Listener", "jobs.network.receiving.Counts"]
    elements += ["jobs.conversions.Conversion", "jobs.conversions.ConvertedImage"]
    elements += ["jobs.card.Card"]
    elements += ["jobs.exports.exported.Exported", "jobs.prepared.Prepared"]
    recipe = ("Recipe", "Sources", "Stacks", "Table", "Labels", "SplitRule", "Resampling")
    elements += [f"jobs.recipes.recipe.{name}" for name in (*recipe, "Output", "CardText")]
    elements += ["jobs.report.result.Report"]
    expected = [name for name in public_names() if name != "DicomdlError"] + errors + elements
    assert sorted(documented) == sorted(expected)


def test_every_public_name_is_in_the_code_of_a_how_to_or_in_an_example() -> None:
    code = "".join(
        block.code
        for path, read in READ.items()
        if DOCS in path.parents or path.name == "README.md"
        for block in read.blocks
        if block.language == "python"
    )
    examples = re.findall(
        r"^ *(?:>>>|\.\.\.) (.*)$",
        "\n".join(path.read_text() for path in (ROOT / "dicomdl").rglob("*.py")),
        re.MULTILINE,
    )
    shown = set(re.findall(r"\w+", code + "\n".join(examples)))
    missing = {name for name in public_names() if name.rpartition(".")[2] not in shown}
    # An index makes these; their attribute or method shows them.
    made = {"Frame": "frame", "Group": "groups", "Series": "series", "Stack": "stacks"}
    made |= {"Study": "studies", "Split": "split"}
    assert not {name for name in missing if made.get(name) not in shown}


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="argparse writes options in another way")
def test_the_page_of_the_command_line_is_what_help_prints() -> None:
    assert PAGE.read_text() == page(), "python tests/cli_page.py writes the page"


def test_the_page_of_the_columns_is_what_the_tables_hold() -> None:
    assert columns_page.PAGE.read_text() == columns_page.page(), "python tests/columns_page.py"
    assert set(columns_page.STACKS) == {*STACKS_SCHEMA.names, "folder"}
    held = {name for name in frames_schema().names if name not in ("file", "pixel_digest")}
    named = {*columns_page.LOCATION, *(each.name for each in attributes())}
    assert named == held | {"path"}
    assert set(columns_page.UNITS) <= named


def test_the_page_of_faults_is_what_the_tables_of_the_tests_hold() -> None:
    assert faults_page.PAGE.read_text() == faults_page.page(), "python tests/faults_page.py"


def test_the_notebooks_are_linked() -> None:
    linked = {os.path.basename(target) for read in READ.values() for _, target in read.links}
    assert {path.name for path in (ROOT / "notebooks").glob("*.ipynb")} <= linked


def test_the_readme_is_a_door() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
