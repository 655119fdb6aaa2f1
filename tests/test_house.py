"""The house itself: style, types, layers, and what the package says of itself."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

import dicomdl
from dicomdl.storage.memory import SHARES

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "dicomdl").rglob("*.py"))


class Module(NamedTuple):
    """A module of the package, parsed: its path in the package, lines, and all nodes."""

    name: str
    lines: list[str]
    tree: ast.Module
    nodes: list[ast.AST]


@pytest.mark.slow
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
    assert "__version__" in dicomdl.__all__
    for name in dicomdl.__all__:
        value = getattr(dicomdl, name)
        assert name == "__version__" or value.__doc__, name
    with pytest.raises(AttributeError):
        _ = dicomdl.no_such_name


def test_what_the_documentation_names_is_had_from_the_package_itself() -> None:
    named = {"Limits", "check_pixels", "interop", "read_stack_on_device"}
    assert named <= set(dicomdl.__all__)
    assert dicomdl.interop.ForMonai.__module__ == "dicomdl.interop.monai"


def no_module_can_load_a_pickle_or_run_code_from_data(module: Module) -> None:
    forbidden = {"pickle", "shelve", "joblib", "marshal", "dill", "cloudpickle"}
    for node in module.nodes:
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


def uids_of_the_standard_stand_in_one_table(module: Module) -> None:
    if module.name == "headers/uids.py":
        return
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    docstrings = {
        id(node.body[0].value)
        for node in module.nodes
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    literals = [
        node.value.decode("latin-1") if isinstance(node.value, bytes) else node.value
        for node in module.nodes
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str | bytes)
        and id(node) not in docstrings
    ]
    found = [text for text in literals if re.search(r"1\.2\.840\.10008\.[0-9.]+", text)]
    assert found == [], "ask headers.uids"


def _loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter holds after a statement."""
    code = f"import sys; {statement}; print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(ran.stdout.split())


def test_the_table_of_uids_needs_no_pydicom() -> None:
    assert "pydicom" not in _loaded_by("import dicomdl.headers.uids")


# One fork hook serves all caches; the transport's mark what is on loan between processes, and that
# of requests marks that the threads of their client are gone.
FORK_HOOKS = {
    "storage/memory.py",
    "datasets/transport/pool.py",
    "datasets/transport/receiver.py",
    "storage/_requests.py",
    "storage/_plans.py",
    "headers/web.py",
}
REASONS = ("# Small:", "# In a process of its own:")
CHANGES = {"add", "append", "clear", "discard", "extend", "insert", "move_to_end", "pop", "popitem"}
CHANGES |= {"remove", "setdefault", "update", "appendleft"}


def what_a_module_remembers_is_in_the_registry_of_memory(module: Module) -> None:
    assert module.name == "storage/memory.py" or not _changing_globals(module)
    hooks = [node for node in module.nodes if getattr(node, "attr", "") == "register_at_fork"]
    assert not hooks or module.name in FORK_HOOKS


@pytest.mark.slow
def test_each_share_of_memory_has_one_cache() -> None:
    taken = [
        node.args[0].value
        for path in MODULES
        if re.search(r"\b(share|remembered)\(", path.read_text())
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("share", "remembered")
        if node.args and isinstance(node.args[0], ast.Constant)
    ]
    assert sorted(taken) == sorted(SHARES)


def a_cache_outside_of_the_registry_is_bounded_and_says_why_it_is_small(
    module: Module,
) -> None:
    """Functions without arguments have one result.

    Above any other `lru_cache` a comment gives the reason.
    """
    functions = [node for node in module.nodes if isinstance(node, ast.FunctionDef)]
    has_one_result = [f for f in functions if not ast.unparse(f.args)]
    exempt = {id(decorator) for f in has_one_result for decorator in f.decorator_list}
    caches = [node for node in module.nodes if isinstance(node, ast.Call) and _is_cache(node)]
    caches += [d for f in functions for d in f.decorator_list if _is_cache(d)]
    for node in caches:
        reason = module.lines[node.lineno - 2].strip()
        assert id(node) in exempt or reason.startswith(REASONS), module.lines[node.lineno - 1]


def _is_cache(node: ast.expr) -> bool:
    function = node.func if isinstance(node, ast.Call) else node
    return getattr(function, "attr", getattr(function, "id", "")) in ("lru_cache", "cache")


def _changing_globals(module: Module) -> set[str]:
    """Names of a module that functions rebind, or containers that functions change."""
    bound, registered = set[str](), {"decisions", "share"}
    for statement in module.tree.body:
        if (
            getattr(getattr(getattr(statement, "value", None), "func", None), "id", "")
            in registered
        ):
            continue
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        targets = [statement.target] if isinstance(statement, ast.AnnAssign) else targets
        bound |= {target.id for target in targets if isinstance(target, ast.Name)}
    changing = set[str]()
    functions = [node for node in module.nodes if isinstance(node, ast.FunctionDef)]
    for node in (node for function in functions for node in ast.walk(function)):
        if isinstance(node, ast.Global):
            changing |= set(node.names)
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            changing |= {getattr(node.value, "id", "")}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in CHANGES:
            changing |= {getattr(getattr(node.func, "value", None), "id", "")}
    return changing & bound


@pytest.mark.slow
def test_an_index_is_opened_without_what_builds_it() -> None:
    loaded = _loaded_by("import dicomdl.index.index")
    builders = {
        "dicomdl.headers.reader",
        "dicomdl.geometry.stacks",
        "dicomdl.geometry._candidates",
        "dicomdl.jobs",
        "pydicom",
        "torch",
    }
    assert not loaded & builders


# What may open paths: `storage`, and modules that open files of our own (logs, tables, keys).
OPENERS = {
    *("cli/main.py", "jobs/_patients.py", "values/presets.py", "values/stack_intensity.py"),
    *("jobs/report/page.py", "jobs/viewer/server.py"),
    *("index/generations.py", "index/stored_generation.py", "index/own_scans.py"),
    *("datasets/_skipped.py", "datasets/transport/memory.py", "volumes/_saving.py"),
}


def files_of_users_are_opened_and_looked_up_in_storage_alone(module: Module) -> None:
    place = module.name
    if place.startswith("storage/") or place in OPENERS:
        return
    for node in module.nodes:
        if isinstance(node, ast.Call):
            function = node.func
            name = function.id if isinstance(function, ast.Name) else ""
            assert name not in ("open", "open_path") or place == "headers/reader.py", node.lineno
            asked = getattr(function, "attr", "")
            assert not (_of(node, "os") and asked in ("open", "stat", "lstat", "fstat")), (
                node.lineno
            )
            assert not (_of(node, "io") and asked in ("open", "FileIO")), node.lineno
            assert asked not in ("read_bytes", "read_text"), node.lineno


def test_the_oldest_versions_are_the_floors_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = (ROOT / "configs/constraints-oldest.txt").read_text().splitlines()
    floors = dict(each.split(">=") for each in project["dependencies"])
    oldest = dict(each.split("==") for each in pinned if not each.startswith("#"))
    assert floors.keys() == oldest.keys()
    for name, floor in floors.items():
        assert re.fullmatch(rf"{re.escape(floor)}(\.0)*", oldest[name]), name


def no_module_uses_a_pool_that_one_dead_process_breaks(module: Module) -> None:
    names = {getattr(node, "id", getattr(node, "attr", "")) for node in module.nodes}
    imported = {
        alias.name
        for node in module.nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not (names | imported) & {"ProcessPoolExecutor"}, "use jobs.supervisor"


def no_property_is_computed_under_a_lock_that_a_fork_copies(module: Module) -> None:
    found = [node.lineno for node in module.nodes if _is_locked_property(node)]
    assert module.name == "lazy.py" or found == [], "use dicomdl.lazy.cached_property"


def _is_locked_property(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == "functools" and "cached_property" in [
            each.name for each in node.names
        ]
    return isinstance(node, ast.Attribute) and ast.unparse(node) == "functools.cached_property"


RULES = (
    a_cache_outside_of_the_registry_is_bounded_and_says_why_it_is_small,
    no_module_can_load_a_pickle_or_run_code_from_data,
    uids_of_the_standard_stand_in_one_table,
    what_a_module_remembers_is_in_the_registry_of_memory,
    files_of_users_are_opened_and_looked_up_in_storage_alone,
    no_module_uses_a_pool_that_one_dead_process_breaks,
    no_property_is_computed_under_a_lock_that_a_fork_copies,
)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_keeps_all_rules(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    name = path.relative_to(ROOT / "dicomdl").as_posix()
    module = Module(name, text.splitlines(), tree, list(ast.walk(tree)))
    for rule in RULES:
        rule(module)
