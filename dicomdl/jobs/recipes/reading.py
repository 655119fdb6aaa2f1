"""Recipes of YAML: every key is known, every value has its type, and an error names the line."""

import dataclasses
import difflib
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from dicomdl.errors import UsageError
from dicomdl.extras import import_extra
from dicomdl.jobs.recipes.recipe import Recipe
from dicomdl.storage import publishing as storage

_FEATURE: Final = "a recipe"
_EXTRA: Final = "config"
# A line of the file, or the option that gave a value.
_Places = dict[str, str]
# A key, or a place in a list or a mapping, of a path such as ``$.tables[0].on[...]``.
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[[^\]]*\]")
# What msgspec says of a value.
_OTHER_TYPE: Final = re.compile(r"Expected `[^`]*`, got `(\w+)`")
_OTHER_WORD: Final = re.compile(r"Invalid enum value (.+)", re.DOTALL)
_ABSENT: Final = re.compile(r"Object missing required field `(\w+)`")
_KINDS: Final[Mapping[Any, str]] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "nothing",
    list: "a list",
    tuple: "a list",
    dict: "keys and values",
}
_PLURALS: Final = {"a text": "texts", "a whole number": "whole numbers", "a number": "numbers"}
# The names of kinds by msgspec.
_GIVEN: Final = {kind.__name__: words for kind, words in _KINDS.items()} | {
    "null": "nothing",
    "array": "a list",
    "object": "keys and values",
}


def read_recipe(path: str, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Parameters
    ----------
    path
        A file of YAML.
    changes
        Texts ``key=value`` that change it, such as ``"split.k=5"`` and ``"tables.0.path=a.csv"``;
        the value is YAML.

    Raises
    ------
    UsageError
        The file is no YAML, a key is unknown or is there twice, a value has another type, or a key
        is absent that is needed. The message names the line.
    StorageError
        The file cannot be read.
    """
    name = os.path.basename(path)
    content, places = _parsed(storage.read_whole(path), name)
    if not isinstance(content, dict):
        raise UsageError(f"{name}: expected keys and values, such as 'name: my data'")
    for change in changes:
        _change(content, places, change)
    return recipe_of(content, places, name)


def recipe_of(content: Any, places: Mapping[str, str] | None = None, name: str = "") -> Recipe:
    """Return the recipe of plain values, as `plain_values` gives them."""
    places = places or {}
    _require_known(content, Recipe, "$", places, name)
    msgspec = import_extra("msgspec", _FEATURE, _EXTRA)
    try:
        recipe: Recipe = msgspec.convert(content, type=Recipe)
    except msgspec.ValidationError as error:
        words, _, where = str(error).partition(" - at `")
        path = where.removesuffix("`") or "$"
        raise UsageError(_sentence(name, path, places, _words(words, path))) from None
    return recipe


def plain_values(recipe: Recipe) -> dict[str, Any]:
    """Return the plain values of a recipe, as JSON and `write_card` take them."""
    found: dict[str, Any] = import_extra("msgspec", _FEATURE, _EXTRA).to_builtins(recipe)
    return found


def _sentence(name: str, where: str, places: Mapping[str, str], words: str) -> str:
    place = where
    while place not in places and place != "$":
        place = place[: max(place.rfind("."), place.rfind("["))] or "$"
    key = where.removeprefix("$").removeprefix(".")
    start = ", ".join(text for text in (name, places.get(place, "")) if text)
    return f"{start}: {key + ': ' if key else ''}{words[:1].lower()}{words[1:]}"


def _words(words: str, path: str) -> str:
    """Return the sentence of msgspec about the value at a path in the words of YAML."""
    if absent := _ABSENT.fullmatch(words):
        return f"the key {absent[1]!r} is absent"
    kinds = _kinds_at(path)
    expected = _any_of([text for kind in kinds for text in _expected(kind)])
    if (other := _OTHER_TYPE.fullmatch(words)) and kinds:
        return f"expected {expected}, not {_GIVEN.get(other[1], other[1])}"
    if (other := _OTHER_WORD.fullmatch(words)) and kinds:
        return f"expected {expected}, not {other[1]}"
    return words


def _kinds_at(path: str) -> list[Any]:
    """Return the types that the value at a path may have; [] where these are not known."""
    kinds: list[Any] = [Recipe]
    for step in _STEP.finditer(path):
        if step[1]:
            hints = [
                typing.get_type_hints(kind) for kind in kinds if dataclasses.is_dataclass(kind)
            ]
            inner = [each[step[1]] for each in hints if step[1] in each]
        else:
            # The last argument is that of the items of a list and of the values of a mapping.
            arguments = [typing.get_args(kind) for kind in kinds]
            inner = [[each for each in some if each is not ...][-1] for some in arguments if some]
        kinds = [
            kind
            for each in inner
            for kind in (typing.get_args(each) if isinstance(each, types.UnionType) else (each,))
        ]
    return kinds


def _expected(kind: Any) -> list[str]:
    """Return what may stand where a recipe has a type."""
    if dataclasses.is_dataclass(kind):
        return [f"keys and values ({', '.join(typing.get_type_hints(kind))})"]
    if typing.get_origin(kind) is Literal:
        return [str(each) or "''" for each in typing.get_args(kind)]
    origin = typing.get_origin(kind) or kind
    items = [each for each in typing.get_args(kind) if each is not ...]
    if origin in (list, tuple) and items:
        inner = _any_of(_expected(items[-1]))
        return [f"a list of {_PLURALS.get(inner, inner)}"]
    return [_KINDS.get(origin, "any value")]


# --- YAML -----------------------------------------------------------------------------------------


def _parsed(data: bytes, name: str) -> tuple[Any, _Places]:
    """Return the values of YAML, and the line of each, by paths such as ``$.tables[0].on``."""
    yaml = import_extra("yaml", _FEATURE, _EXTRA, package="PyYAML")
    places: _Places = {}
    loader = None
    try:
        loader = yaml.SafeLoader(data)
        node = loader.get_single_node()
        if node is None:
            raise UsageError(f"{name} is empty")
        return _value(yaml, loader, node, "$", places, name), places
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{name}, line {line}: no YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{name} is no YAML") from error
    finally:
        if loader is not None:
            loader.dispose()


def _value(yaml: Any, loader: Any, node: Any, path: str, places: _Places, name: str) -> Any:
    line = f"line {node.start_mark.line + 1}"
    places.setdefault(path, line)
    if isinstance(node, yaml.SequenceNode):
        return [
            _value(yaml, loader, each, f"{path}[{number}]", places, name)
            for number, each in enumerate(node.value)
        ]
    if not isinstance(node, yaml.MappingNode):
        found = loader.construct_object(node)
        # Dates are text here.
        return found if isinstance(found, str | int | float | bool | None) else node.value
    found = {}
    for key_node, value_node in node.value:
        # The text of a key: YAML reads `on` and `no` as flags.
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
        line = f"line {key_node.start_mark.line + 1}"
        if key is None:
            raise UsageError(f"{name}, {line}: expected a key of one word")
        if key in found:
            raise UsageError(f"{name}, {line}: the key {key!r} is there twice")
        places[f"{path}.{key}"] = line
        found[key] = _value(yaml, loader, value_node, f"{path}.{key}", places, name)
    return found


def _change(content: dict[str, Any], places: _Places, change: str) -> None:
    key, sign, text = change.partition("=")
    if not (sign and key.strip()):
        raise UsageError(f"{change!r}: expected key=value, such as split.k=5")
    told = f"--set {key.strip()}"
    value, _ = _parsed(text.encode() or b"''", told)
    steps = key.strip().split(".")
    at: Any = content
    path = "$"
    for number, step in enumerate(steps):
        last = number == len(steps) - 1
        if isinstance(at, list):
            if not (step.isdecimal() and int(step) < len(at)):
                raise UsageError(f"{told}: expected a number below {len(at)}, not {step!r}")
            path = f"{path}[{step}]"
            places[path] = told
            if last:
                at[int(step)] = value
            else:
                at = at[int(step)]
            continue
        path = f"{path}.{step}"
        places[path] = told
        if last:
            at[step] = value
        elif isinstance(at.get(step), dict | list):
            at = at[step]
        elif at.get(step) is None:
            at[step] = {}
            at = at[step]
        else:
            raise UsageError(f"{told}: {step!r} is a value without keys")


# --- keys -----------------------------------------------------------------------------------------


def _require_known(value: Any, kind: Any, path: str, places: Mapping[str, str], name: str) -> None:
    """Raise UsageError for a key that a dataclass lacks, with the most similar one."""
    if isinstance(value, list):
        for number, each in enumerate(value):
            for inner in typing.get_args(kind):
                _require_known(each, inner, f"{path}[{number}]", places, name)
        return
    if not isinstance(value, dict):
        return
    for each in typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,):
        if not dataclasses.is_dataclass(each):
            continue
        hints = typing.get_type_hints(each)
        for key, inner in value.items():
            where = f"{path}.{key}"
            if key not in hints:
                near = difflib.get_close_matches(key, hints, n=1, cutoff=0.5)
                advice = (
                    f"did you mean {near[0]!r}?" if near else f"expected {_any_of(list(hints))}"
                )
                raise UsageError(
                    _sentence(name, where, places, f"unknown key: {advice}"),
                    key=where.removeprefix("$."),
                    suggestion=near[0] if near else None,
                )
            _require_known(inner, hints[key], where, places, name)


def _any_of(words: Sequence[str]) -> str:
    *others, last = dict.fromkeys(words or ("any value",))
    return f"{', '.join(others)} or {last}" if others else last
