"""The house itself: style, types, layers, and what the package says of itself."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dicomdl

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "dicomdl").rglob("*.py"))


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["lint-imports"],
    ],
    ids=" ".join,
)
def test_the_checks_pass(command: list[str]) -> None:
    tool = shutil.which(command[0], path=str(Path(sys.executable).parent)) or shutil.which(
        command[0]
    )
    if tool is None:
        pytest.skip(f"{command[0]} is not installed")
    ran = subprocess.run(
        [tool, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]


def test_every_public_name_can_be_had_and_is_documented() -> None:
    for name in dicomdl.__all__:
        value = getattr(dicomdl, name)
        assert name == "__version__" or value.__doc__, name
    with pytest.raises(AttributeError):
        _ = dicomdl.no_such_name


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_can_load_a_pickle_or_run_code_from_data(module: Path) -> None:
    forbidden = {"pickle", "shelve", "joblib", "marshal", "dill", "cloudpickle"}
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.split(".")[0] for alias in node.names} | {
                (getattr(node, "module", None) or "").split(".")[0]
            }
            assert not names & forbidden
        if isinstance(node, ast.Call):
            called = (
                node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            )
            assert called not in ("eval", "exec", "extractall") and not (
                called == "load" and _of(node, "torch")
            )
            assert not any(
                k.arg in ("allow_pickle", "shell") and getattr(k.value, "value", False)
                for k in node.keywords
            )


def _of(call: ast.Call, module: str) -> bool:
    return (
        isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == module
    )
