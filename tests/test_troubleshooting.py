"""The page of errors: every class has its part, and every message on it is one of the code."""

import ast
import re
from pathlib import Path

import pytest

from dicomdl import errors

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
ERRORS, _, REST = PAGE.partition("\n## Warnings\n")
CLASSES = [
    name
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, errors.DicomdlError)
]


def _texts() -> str:
    """All texts in the code of dicomdl, f-strings in the parts between their values."""
    return "\n".join(
        node.value
        for path in (ROOT / "dicomdl").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


@pytest.mark.parametrize("name", CLASSES)
def test_every_error_has_its_part_on_the_page(name: str) -> None:
    assert f"\n## {name}\n" in ERRORS


@pytest.mark.slow
def test_the_messages_on_the_page_are_those_of_the_code() -> None:
    texts = _texts()
    messages = [
        message
        for cell in re.findall(r"^\| (`[^|]*`) \|", ERRORS, re.MULTILINE)
        for message in re.findall(r"`([^`]*)`", cell)
    ]
    parts = {part.strip(" ()") for message in messages for part in message.split("...")}
    assert len(messages) > 60
    assert sorted(part for part in parts if part not in texts) == []


def test_the_reasons_of_problems_on_the_page_are_all_of_them() -> None:
    used = set(re.findall(r'(?:reason ?=|reason, found =|"problem",) ?"([a-z_0-9]+)"', _source()))
    assert {"truncated", "short_pixel_data", "unreadable"} <= used
    assert sorted(reason for reason in used if f"`{reason}`" not in ERRORS) == []


def _source() -> str:
    return "\n".join(path.read_text() for path in (ROOT / "dicomdl" / "headers").rglob("*.py"))


def test_every_warning_is_on_the_page() -> None:
    names = re.findall(
        r"^class (\w+Warning)\(",
        "\n".join(p.read_text() for p in ROOT.glob("dicomdl/**/*.py")),
        re.M,
    )
    assert sorted(name for name in names if f"`{name}`" not in REST) == []
