"""nested: sequences and their items are skipped or iterated."""

import pytest
from phantoms import element

from dicomdl.errors import HeaderError
from dicomdl.headers._elements import Wanted, walk
from dicomdl.headers._heads import EXPLICIT, ITEM, ITEM_END, UNDEFINED, Step
from dicomdl.headers._nested import items, iterate, skip_sequence
from dicomdl.headers._window import Window


def window_on(raw: bytes) -> Window:
    return Window(lambda offset, length: raw[offset : offset + length], len(raw), raw)


def test_the_items_of_a_sequence_come_out_alike_with_and_without_given_lengths() -> None:
    content = element(0x00080060, b"CS", b"MR")
    given_length = element(ITEM, b"", content) * 2
    delimited = (element(ITEM, b"", content, length=UNDEFINED) + element(ITEM_END, b"")) * 2
    assert (
        list(items(given_length, EXPLICIT))
        == list(items(delimited, EXPLICIT))
        == [content, content]
    )
    assert list(iterate(content, EXPLICIT)) == [(0x00080060, b"CS", b"MR")]


def test_sequences_nested_too_deep_are_refused() -> None:
    for depth in (300, 50_000):
        opening = element(0x00081140, b"SQ", length=UNDEFINED) + element(
            ITEM, b"", length=UNDEFINED
        )
        for trail in (None, list[Step]()):
            with pytest.raises(HeaderError) as caught:
                walk(window_on(opening * depth), 0, EXPLICIT, Wanted([]), trail)
            assert caught.value.reason == "too_deep"


def test_a_sequence_without_delimiter_is_truncated() -> None:
    with pytest.raises(HeaderError) as caught:
        skip_sequence(window_on(element(ITEM, b"", b"12") * 3), 0, EXPLICIT)
    assert caught.value.reason == "truncated"
