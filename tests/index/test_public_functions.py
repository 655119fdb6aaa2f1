"""Methods of an index that are public functions of packages above it."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from phantoms import write_series

import dicomdl
from dicomdl.index._public_functions import PublicFunction

METHODS = [
    (owner, name)
    for owner in (dicomdl.Index, dicomdl.Stack, dicomdl.Group)
    for base in owner.__mro__
    for name, value in vars(base).items()
    if isinstance(value, PublicFunction)
]


@pytest.fixture
def index(tmp_path: Path) -> dicomdl.Index:
    write_series(tmp_path / "in")
    return dicomdl.scan(tmp_path / "in", tmp_path / "index", progress=False)


@pytest.mark.parametrize(("owner", "name"), METHODS, ids=str)
def test_a_method_is_the_public_function_with_its_signature_and_text(owner: Any, name: str) -> None:
    if name == "export":
        # Samples are those of datasets.
        pytest.importorskip("torch")
    assert getattr(owner, name) is getattr(dicomdl, name)
    first, *_ = inspect.signature(getattr(dicomdl, name)).parameters.values()
    assert first.kind is first.POSITIONAL_OR_KEYWORD


def test_the_methods_of_an_index_are_listed() -> None:
    assert {("Index", "convert"), ("Index", "plot"), ("Stack", "plot")} <= {
        (owner.__name__, name) for owner, name in METHODS
    }


def test_an_index_converts_itself(index: dicomdl.Index, tmp_path: Path) -> None:
    done = index.convert(tmp_path / "out", suffix=".nii", progress=False)
    assert done.ok
    assert (tmp_path / "out" / done.images[0].files[0]).exists()
    assert next(iter(inspect.signature(index.convert).parameters)) == "out"


def test_a_method_takes_nothing_that_its_function_does_not_take(index: dicomdl.Index) -> None:
    with pytest.raises(TypeError, match="no_such_option"):
        index.convert("out", no_such_option=1)  # type: ignore[call-arg]


@pytest.mark.slow
def test_an_index_needs_no_package_above_it_before_a_method_is_used() -> None:
    code = "import sys, dicomdl.index.index; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not [name for name in ran.stdout.split() if name.startswith("dicomdl.jobs")]
