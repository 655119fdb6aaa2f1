"""Tests of the way of errors out of a worker."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from dicomdl import errors
from dicomdl.datasets._skipped import SkippedLog
from dicomdl.datasets.worker import errors_leave_whole

METHODS = ["fork", "spawn", "forkserver"]
TREE = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.DicomdlError)
]
FACTS: dict[str, Any] = {
    "detail": {"gaps": [1.5, 2]},
    "missing": {50.0: [3, 4], ("b", 7): [], None: [1]},
    "shapes": [(3, 64, 64), (1, 5)],
    "words": "two\nlines of \u2028 text",
    "is_whole": True,
    "limit": None,
}


class Raising(Dataset[Any]):
    """A dataset that raises another error of the tree per row."""

    def __len__(self) -> int:
        return len(TREE)

    @errors_leave_whole
    def __getitem__(self, row: int) -> Any:
        try:
            raise OSError("the cause")
        except OSError as cause:
            error = TREE[row]("what was found", found_bytes=row, **FACTS)
            error.add_note("file: somewhere")
            raise error from cause


def raised(dataset: Dataset[Any], kind: type[BaseException], **how: Any) -> Any:
    """Return the error of reading the only row of a dataset in a worker."""
    loader = iter(DataLoader(dataset, batch_size=None, num_workers=1, timeout=60, **how))
    with pytest.raises(kind) as caught:
        next(loader)
    # Otherwise torch waits for the worker when the error, whose traceback references the loader, is
    # freed.
    loader._shutdown_workers()  # type: ignore[attr-defined]
    return caught.value


@pytest.mark.parametrize("method", METHODS)
def test_errors_leave_a_worker_whole(method: str) -> None:
    loader = iter(
        DataLoader(Raising(), batch_size=None, num_workers=1, multiprocessing_context=method)
    )
    for row, kind in enumerate(TREE):
        with pytest.raises(kind) as caught:
            next(loader)
        error: Any = caught.value
        assert type(error) is kind and str(error) == "what was found"
        facts = dict(vars(error))
        first, last = facts.pop("__notes__")
        assert facts == {"found_bytes": row, **FACTS}
        assert first == "file: somewhere"
        assert "the cause" in last and f"{kind.__name__}: what was found" in last
        assert not any(map(errors.is_facts_line, last.split("\n")))
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind and vars(again) == vars(error)
    with pytest.raises(StopIteration):
        next(loader)


class Case(Dataset[Any]):
    """A dataset of one row, the result of a function."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __len__(self) -> int:
        return 1

    @errors_leave_whole
    def __getitem__(self, row: int) -> Any:
        return self.function()


def raise_one(kind: Any, *arguments: Any, **facts: Any) -> Any:
    raise kind(*arguments, **facts)


def test_in_a_worker_they_are_caught_as_what_they_are() -> None:
    def caught() -> Any:
        try:
            Raising()[TREE.index(errors.TruncatedPixels)]
        except errors.PixelError as error:
            return repr(error)

    expected = repr(errors.TruncatedPixels("what was found"))
    assert list(DataLoader(Case(caught), batch_size=None, num_workers=1)) == [expected]


def test_facts_that_json_cannot_say_arrive_as_what_is_nearest() -> None:
    facts = {
        "array": np.arange(4).reshape(2, 2),
        "number": np.float32(1.5),
        "tensor": torch.ones(2),
        "path": Path("a"),
        "cause": OSError("gone"),
    }
    error = raised(Case(lambda: raise_one(errors.GeometryError, "bad", **facts)), ValueError)
    del error.__notes__
    assert type(error) is errors.GeometryError and str(error) == "bad"
    assert vars(error) == {
        "array": [[0, 1], [2, 3]],
        "number": 1.5,
        "tensor": [1.0, 1.0],
        "path": "a",
        "cause": "gone",
    }


class Mute:
    """A fact without a text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_error_whose_facts_have_no_text_arrives_as_text() -> None:
    error = raised(Case(lambda: raise_one(errors.GeometryError, "bad", mute=Mute())), ValueError)
    assert type(error) is errors.GeometryError and not vars(error)
    assert "Original Traceback" in str(error) and "GeometryError: bad" in str(error)


def test_an_error_may_be_copied_and_told_more_on_its_way() -> None:
    def told_more() -> Any:
        try:
            Raising()[0]
        except errors.DicomdlError as error:
            for again in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
                assert type(again) is TREE[0] and vars(again) == vars(error)
                assert str(again) == str(error)
            error.stack = 7
            error.add_note("stack: 7")
            raise

    error = raised(Case(told_more), TREE[0])
    assert error.stack == 7 and error.found_bytes == 0
    assert error.__notes__[:2] == ["file: somewhere", "stack: 7"] and len(error.__notes__) == 3


class Outside(Case):
    """A user's dataset that wraps one of ours."""

    def __getitem__(self, row: int) -> Any:
        return self.function()


def test_an_error_that_was_raised_from_another_does_not_take_its_facts() -> None:
    def from_another() -> Any:
        try:
            Raising()[TREE.index(errors.PixelError)]
        except errors.PixelError as error:
            raise errors.PixelError("another") from error

    error = raised(Outside(from_another), errors.PixelError)
    assert "PixelError: another" in str(error) and not vars(error)


def test_facts_of_a_dataset_within_another_are_in_no_list_of_skipped_samples() -> None:
    log = SkippedLog()

    def noted() -> Any:
        try:
            Raising()[0]
        except errors.DicomdlError as error:
            log.note(7, 0, "skip", error)
        return 1

    assert list(DataLoader(Case(noted), batch_size=None, num_workers=1)) == [1]
    (skipped,) = log.read()
    assert skipped.error == f"{TREE[0].__name__}: what was found; file: somewhere"


class Derived(errors.PixelError):
    """A user's error with the arguments of ours."""


class Other(errors.PixelError):
    """A user's error with another constructor."""

    def __init__(self, path: str, code: int) -> None:
        super().__init__(f"{path}: {code}", code=code)


def test_errors_derived_from_ours_leave_whole_if_they_take_one_string() -> None:
    error = raised(Case(lambda: raise_one(Derived, "p: 3", code=3)), Derived)
    assert str(error) == "p: 3" and error.code == 3
    error = raised(Case(lambda: raise_one(Other, "p", 3)), RuntimeError)
    assert "Other: p: 3" in str(error)


def test_other_errors_leave_as_torch_sends_them() -> None:
    error = raised(Case(lambda: raise_one(LookupError, "no such row")), LookupError)
    assert str(error).startswith("Caught LookupError in DataLoader worker process 0")
    assert not any(map(errors.is_facts_line, str(error).split("\n")))


def test_outside_of_a_worker_errors_are_left_alone() -> None:
    with pytest.raises(errors.HeaderError) as caught:
        Raising()[TREE.index(errors.HeaderError)]
    assert type(caught.value) is errors.HeaderError
    assert caught.value.__notes__ == ["file: somewhere"]
