"""literals: cells of JSON or Python are read like by their own readers, and run nothing."""

import ast
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomdl.errors import UsageError
from dicomdl.index._cells import Column, coded, list_array
from dicomdl.index._literals import _Malformed, _Reader, parsed_columns

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\ufeff"), max_size=12)
NUMBERS = st.integers(-(10**15), 10**15) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    NUMBERS | TEXTS | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


def columns_of(*cells: str | None) -> dict[str, Column]:
    column = coded(pa.chunked_array([pa.array(cells, pa.large_string())]))
    return parsed_columns("box", column, lambda row: f"line {row + 2}")


def values_of(column: Column) -> list[Any]:
    return [column.values[code].as_py() if code >= 0 else None for code in column.codes.tolist()]


@pytest.mark.slow
@given(VALUES)
def test_json_is_read_like_json(value: Any) -> None:
    for indent in (None, 1):
        text = json.dumps(value, indent=indent)
        assert _Reader(text).whole() == json.loads(text)


@pytest.mark.slow
@given(VALUES)
def test_python_is_read_like_python(value: Any) -> None:
    text = repr(value)
    assert _Reader(text).whole() == ast.literal_eval(text)


@pytest.mark.slow
@given(st.text(alphabet="[]{}():,'\"\\ 0123456789.eE+-xTrueNonsfal", max_size=30))
def test_any_text_is_a_value_or_malformed(text: str) -> None:
    try:
        found = _Reader(text).whole()
    except _Malformed as error:
        assert 1 <= error.character <= len(text) + 1
    else:
        assert isinstance(found, str | int | float | bool | list | dict | None)


@pytest.mark.quick(6)
@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("{'x': 1", r"line 2, character 8: expected ',' or '}'"),
        ("{'x' 1}", "character 5: expected ':'"),
        ("{1: 2}", "a name in quotes"),
        ("{'x': 1e999}", "character 7: expected a number within a float"),
        ("__import__('os').system('true')", "character 1: expected a value"),
        ("{'x': lambda: 0}", "character 7: expected a value"),
        ("{'x': 1}{", "character 9: expected the end"),
        ("[" * 1_000_000, "at most 16 levels of brackets"),
        ("'" + "a" * 1_000_000, "character 1: expected a value"),
        ("[[1]]", "lists within dicts or lists"),
        ("[{'x': 1}, {'x': 'a'}]", "several types: int, str"),
        ("'text'", "a dict or a list, not one value"),
    ],
)
def test_a_malformed_cell_is_told_with_line_and_character(cell: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as raised:
        columns_of(cell)
    assert len(str(raised.value)) < 300


def test_dicts_become_columns_and_nested_ones_join_their_names() -> None:
    found = columns_of("{'x': 1, 'at': {'z': 'a'}}", None, '{"x": 2.5}')
    assert list(found) == ["box_x", "box_at_z"]
    assert values_of(found["box_x"]) == [1, None, 2.5]
    assert values_of(found["box_at_z"]) == ["a", None, None]


def test_lists_of_dicts_keep_their_items_together() -> None:
    found = columns_of("[{'x': 1, 'y': 2}, {'x': 3}]", "[]", None, "[{'y': 4}]")
    assert found["box_x"].row_of_item is not None
    assert found["box_x"].row_of_item.tolist() == [0, 0, 3]
    assert values_of(found["box_x"]) == [1, 3, None] and values_of(found["box_y"]) == [2, None, 4]
    assert columns_of("[1, 2]", "(3,)")["box"].row_of_item is not None


@pytest.mark.slow
def test_a_million_characters_are_one_value() -> None:
    cell = "[" + ", ".join(["{'x': 1.5}"] * 100_000) + "]"
    assert len(columns_of(cell)["box_x"].codes) == 100_000


def test_lists_of_arrow_have_nan_for_unknown_numbers() -> None:
    lists = list_array(pa.array([1, None, 3]), [0, 2, 3, 3], [True, True, False])
    assert str(lists.to_pylist()) == "[[1.0, nan], [3.0], None]"


def test_no_module_of_the_joins_evaluates_text() -> None:
    source = (Path(__file__).parents[2] / "dicomdl/index/_literals.py").read_text()
    assert "eval(" not in source and "import ast" not in source
