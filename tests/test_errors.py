"""The error tree: every class crosses processes whole."""

import pickle

import pytest

import dicomdl.errors as errors
from dicomdl.errors import DicomdlError

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, DicomdlError)
]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_takes_one_string_and_pickles_with_its_numbers_and_notes(
    kind: type[DicomdlError],
) -> None:
    error = kind("found 3, expected 4", found=3)
    error.add_note("file: a")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.found, again.__notes__) == (
        kind,
        "found 3, expected 4",
        3,
        ["file: a"],
    )
    assert str(kind("text")) == "text"


def test_an_error_has_no_attributes_that_nobody_gave_it() -> None:
    with pytest.raises(AttributeError, match="minimum"):
        _ = DicomdlError("x").minimum


def test_the_docstring_draws_every_class() -> None:
    assert all(kind.__name__ in (errors.__doc__ or "") for kind in CLASSES)


def test_a_text_of_a_worker_without_facts_is_the_message() -> None:
    for facts in ("", "facts of the error: {", 'facts of the error: {"class": "PixelError"}'):
        text = f"Caught PixelError in DataLoader worker process 0.\nOriginal Traceback\n{facts}"
        error = errors.PixelError(text)
        assert str(error) == text and not vars(error)
