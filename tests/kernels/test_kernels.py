"""The compiled module: its twins, and that nothing needs it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import dicomdl
from dicomdl import _kernels

PACKAGE = Path(dicomdl.__file__).parent


def _said(code: str, **environment: str) -> str:
    command = [sys.executable, "-c", code]
    env = {**os.environ, **environment}
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout


def test_a_variable_leaves_the_compiled_module_alone() -> None:
    code = "import dicomdl, sys; print(dicomdl.accelerated, 'dicomdl._kernels._compiled' in "
    assert _said(code + "sys.modules)", DICOMDL_PURE="1").split() == ["False", "False"]


def test_accelerated_says_whether_the_compiled_module_is_used() -> None:
    assert dicomdl.accelerated is ("dicomdl._kernels._compiled" in sys.modules)


def test_each_compiled_function_has_a_twin_that_is_chosen_without_it() -> None:
    named = set[str]()
    for path in PACKAGE.rglob("*.py"):
        named |= set(
            re.findall(r"^(\w+)(?:: \S+)? = compiled_or\(pure_\1\)$", path.read_text(), re.M)
        )
    tables = [path.read_text() for path in (PACKAGE / "_kernels").glob("*.c")]
    compiled = {name for table in tables for name in re.findall(r'^    \{"(\w+)", ', table, re.M)}
    assert compiled == named


def test_without_a_compiled_function_the_pure_one_is_chosen() -> None:
    def pure_nothing_of_this_name() -> None:
        pass

    assert _kernels.compiled_or(pure_nothing_of_this_name) is pure_nothing_of_this_name
    assert _kernels.both(pure_nothing_of_this_name) is None


def test_no_format_of_arguments_has_a_number_sign() -> None:
    """Modules built with the headers of 3.13 call other functions for it than 3.11 expects."""
    sources = sorted((PACKAGE / "_kernels").glob("*.c"))
    calls = [
        call
        for source in sources
        for call in re.findall(
            r"(?:PyArg_Parse\w*|Py_BuildValue)\s*\(.*?;", source.read_text(), re.DOTALL
        )
    ]
    assert len(calls) > 4
    assert not [call for call in calls if re.search(r'"[^"]*#[^"]*"', call)]
