"""The examples in the docstrings run, each module's in a folder of its own."""

import doctest
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "dicomdl"
WITH_EXAMPLES = sorted(path for path in PACKAGE.rglob("*.py") if ">>> " in path.read_text())
SLOW = [
    *("datasets/batch_plots.py", "index/_dividable.py", "index/splits.py", "interop/monai.py"),
    *("jobs/demo_data.py", "jobs/prepare.py", "jobs/report/making.py"),
]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=name, marks=[pytest.mark.slow] * (name in SLOW))
        for path in WITH_EXAMPLES
        for name in [path.relative_to(PACKAGE).as_posix()]
    ],
)
def test_the_examples_of_a_module_print_what_they_say(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path.parent.name == "interop":
        pytest.importorskip(path.stem)
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    )
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    for examples in doctest.DocTestFinder(exclude_empty=True).find(module):
        runner.run(examples, out=report.append)
    assert not runner.failures, "".join(report)
