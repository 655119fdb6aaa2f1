"""The public names of both packages as griffe reads them, without importing the code."""

import ast
import functools
import logging
from pathlib import Path
from typing import Any

import griffe

logging.getLogger("griffe").setLevel(logging.ERROR)


def public_names(root: Path) -> list[str]:
    """The public names in a checkout, such as "scan" and "interop.ForMonai"."""
    found = []
    for package in ("", "interop."):
        stub = root / "dicomdl" / package.strip(".") / "__init__.pyi"
        for node in ast.parse(stub.read_text()).body:
            assert isinstance(node, ast.ImportFrom)
            found += [package + (alias.asname or alias.name) for alias in node.names]
    module = root / "dicomdl/jobs/idc.py"
    for node in ast.parse(module.read_text()).body if module.exists() else ():
        if isinstance(node, ast.Assign):
            found += [f"idc.{name}" for name in ast.literal_eval(node.value)]
    plain = ("__version__", "accelerated", "interop", "idc")
    return [name for name in found if name not in plain]


@functools.cache
def loaded(root: Path) -> Any:
    # try_relative_path would take the package of the working directory, whatever `root` is.
    return griffe.load(
        "dicomdl", search_paths=[str(root)], docstring_parser="numpy", try_relative_path=False
    )


@functools.cache
def found(root: Path, name: str) -> Any:
    """The function or class behind a public name, or behind another name for it."""
    path = name.split(".")
    made = functools.reduce(lambda inside, part: inside.members[part], path, loaded(root))
    made = made.final_target if made.is_alias else made
    return made.parent.members[str(made.value)] if made.is_attribute else made
