"""The docstrings of public names match their signatures; read by griffe, without importing them.

A function, and the class for its constructor, documents its parameters in the order of the
signature. A group of names ("index, intensity, transform") stands where its first name would.
"As for `FrameDataset`" refers to the docstring that owns the text: it documents the same names, and
refers no further. A method that one sentence describes has no sections: the sentence names every
parameter in backquotes.
"""

import builtins
import functools
import re
from pathlib import Path
from typing import Any

import pytest

from dicomdl import errors

pytest.importorskip("griffe")

import breaking_changes
import public_face

# Loading the package costs 4 s of CPU.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
# Objects of these classes come from functions and other objects; nobody passes the parameters.
NOT_CONSTRUCTED = {"Frame", "Group", "Index", "Series", "Split", "Stack", "Study"}
RAISED = {name for space in (errors, builtins) for name in vars(space)}
REFERENCE = re.compile(r"As for `(?:dicomdl\.)?([\w.]+)`")
POINTER = re.compile(r"As for `[\w.]+`\.$")
PREFIXES = {"variadic positional": "*", "variadic keyword": "**"}


NAMES = public_face.public_names(ROOT)
found = functools.partial(public_face.found, ROOT)


class Documented:
    """A function, or a constructor with the docstring of its class."""

    def __init__(self, function: Any, label: str, described: Any) -> None:
        self.label = label
        self.is_function = function is described
        self.text = described.docstring.value if described.docstring else ""
        parsed = described.docstring.parsed if described.docstring else []
        self.sections = {section.kind.value: section.value for section in parsed}
        self.has_result = self.is_function and str(function.returns) != "None"
        self.parameters = [
            PREFIXES.get(each.kind.value, "") + each.name
            for each in function.parameters
            if each.name not in ("self", "cls")
        ]

    @property
    def entries(self) -> list[tuple[list[str], str]]:
        """The documented parameters: the names of each entry, and its text."""
        entries: list[tuple[list[str], str]] = []
        for item in self.sections.get("parameters", []):
            # griffe repeats the text of a group for each of its names.
            if entries and entries[-1][1] == item.description:
                entries[-1][0].append(item.name)
            else:
                entries.append(([item.name], item.description))
        return entries

    @property
    def is_short_method(self) -> bool:
        named = all(f"`{name.strip('*')}`" in self.text for name in self.parameters)
        has_sections = bool(self.sections.keys() & {"parameters", "returns", "yields"})
        is_method = self.is_function and self.label not in NAMES
        return is_method and named and not has_sections


@functools.cache
def documented(name: str) -> dict[str, Documented]:
    """A public function, or the constructor and the public methods of a public class."""
    public = found(name)
    if public.is_function:
        return {name: Documented(public, name, public)}
    members = {
        each: member.final_target if member.is_alias else member
        for each, member in public.all_members.items()
    }
    made = {}
    if name not in NOT_CONSTRUCTED and "__init__" in members:
        made[name] = Documented(members["__init__"], name, public)
    for each, member in members.items():
        if member.is_function and not each.startswith("_"):
            made[f"{name}.{each}"] = Documented(member, f"{name}.{each}", member)
    return made


def owners(name: str, label: str, referred: str) -> list[Documented]:
    """The docstrings that "As for `referred`" may mean: of public names, and of methods beside."""
    package = name.rpartition(".")[0]
    labels = {referred, f"{name}.{referred}", f"{package}.{referred}"} - {label}
    public = [each for each in NAMES if any(f"{other}.".startswith(f"{each}.") for other in labels)]
    made = {each: value for name in public for each, value in documented(name).items()}
    return [made[each] for each in labels if each in made]


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_documents_its_parameters_in_their_order(name: str) -> None:
    for label, each in documented(name).items():
        if each.is_short_method:
            continue
        place = {parameter: number for number, parameter in enumerate(each.parameters)}
        groups = [names for names, _ in each.entries]
        assert sorted(n for names in groups for n in names) == sorted(place), label
        for names in (*groups, [names[0] for names in groups]):
            assert [place[n] for n in names] == sorted(place[n] for n in names), label


@pytest.mark.parametrize("name", NAMES)
def test_a_docstring_refers_to_one_that_documents_the_parameters_itself(name: str) -> None:
    for label, each in documented(name).items():
        for names, text in each.entries:
            for referred in REFERENCE.findall(text):
                owned = [
                    {n for own, said in owner.entries if not POINTER.fullmatch(said) for n in own}
                    for owner in owners(name, label, referred)
                ]
                assert any(set(names) <= own for own in owned), (label, referred)


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_documents_a_result_where_there_is_one(name: str) -> None:
    for label, each in documented(name).items():
        if not each.is_short_method:
            documents = bool(each.sections.keys() & {"returns", "yields"})
            assert documents == each.has_result, label


@pytest.mark.parametrize("name", NAMES)
def test_errors_that_a_public_name_documents_exist(name: str) -> None:
    for label, each in documented(name).items():
        for item in each.sections.get("raises", []):
            assert set(re.findall(r"\w+", str(item.annotation))) <= RAISED, label


@pytest.mark.parametrize("name", NAMES)
def test_attributes_that_a_class_documents_exist(name: str) -> None:
    public = found(name)
    if not public.is_class:
        return
    source = "".join(each.source for each in (public, *public.mro()))
    sections = [s.value for s in public.docstring.parsed if s.kind.value == "attributes"]
    for named in (part for items in sections for item in items for part in item.name.split(", ")):
        assert named in public.all_members or f"self.{named}" in source, named


STUB = "from ._code import read as read\nfrom ._code import Volume as Volume\n"
OLD = """
def read(path, values="stored", *, threads=1) -> int: ...
class Volume:
    def plot(self, intensity): ...
    def _private(self): ...
"""
NEW = """
def read(path, *, values="stored") -> int: ...
class Volume:
    def plot(self, intensity, mask): ...
"""


def checkout(folder: Path, code: str) -> Path:
    for package in ("dicomdl", "dicomdl/interop"):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").touch()
        (folder / package / "__init__.pyi").write_text(STUB if package == "dicomdl" else "")
    (folder / "dicomdl/_code.py").write_text(code)
    return folder


def test_changes_that_break_a_caller_are_listed(tmp_path: Path) -> None:
    old, new = checkout(tmp_path / "old", OLD), checkout(tmp_path / "new", NEW)
    assert breaking_changes.changes(old, old) == []
    listed = breaking_changes.changes(old, new)
    for name, change in {
        "Volume.plot(mask)": "Parameter was added as required",
        "read(threads)": "Parameter was removed",
        "read(values)": "Parameter kind was changed",
    }.items():
        assert [line for line in listed if line.startswith(f"{name}: {change}")], listed
    assert len(listed) == 3
