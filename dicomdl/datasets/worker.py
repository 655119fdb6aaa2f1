"""datasets.worker"""

import contextlib
import functools
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any, ParamSpec, TypeVar

import torch

from dicomdl.errors import DicomdlError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def is_worker() -> bool:
    """Whether this process is a worker of a DataLoader."""
    return torch.utils.data.get_worker_info() is not None


class _OnItsWay(type):
    """The class of the class of an error on its way out of a worker.

    torch sends an error's class and the text of its traceback, and calls that class with that text at the other end. So
    the class itself carries what the error knows.
    """

    parts: tuple[Any, ...]


def errors_leave_whole(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """What `function` raises leaves a worker with its message, facts and notes; the text of the worker's traceback becomes a note."""

    @functools.wraps(function)
    def called(*arguments: Parameters.args, **keywords: Parameters.kwargs) -> Result:
        try:
            return function(*arguments, **keywords)
        except DicomdlError as error:
            _pack(error)
            raise

    return called


def _pack(error: DicomdlError) -> None:
    """Give an error in a worker a class that is as its own, but takes what the error knows along."""
    kind = type(error)
    if not is_worker() or isinstance(kind, _OnItsWay):
        return
    parts = (
        kind,
        error.args,
        error.__dict__,
    )  # and not the error, which has a traceback and so all that its frames hold
    names: dict[str, Any] = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "parts": parts,
    }
    names["__reduce__"] = lambda self: (kind, self.args, self.__dict__)
    with contextlib.suppress(
        TypeError
    ):  # a caller's own kind of error may not let itself be derived from
        error.__class__ = _OnItsWay(kind.__name__, (kind,), names)  # type: ignore[assignment]


def _reduced_class(sent: _OnItsWay) -> tuple[Any, ...]:
    kind, arguments, facts = sent.parts
    try:
        ForkingPickler.dumps(sent.parts)
    except (
        Exception
    ):  # a fact of a caller's own: the text alone goes, rather than nothing and no word about it
        return _itself, (kind,)
    return _Sent, (kind, arguments, facts)


def _itself(kind: type[DicomdlError]) -> type[DicomdlError]:
    return kind


class _Sent:
    """What torch takes for the class of an error: called with the text of the worker's traceback, it gives the error and notes the text."""

    def __init__(
        self, kind: type[DicomdlError], arguments: tuple[Any, ...], facts: dict[str, Any]
    ) -> None:
        self.__name__ = kind.__name__
        self._kind, self._arguments, self._facts = kind, arguments, facts

    def __call__(self, text: str) -> DicomdlError:
        error = self._kind.__new__(
            self._kind, *self._arguments
        )  # whose arguments are those of BaseException, whatever its own takes
        error.__dict__.update(self._facts)
        error.add_note(text)
        return error


ForkingPickler.register(_OnItsWay, _reduced_class)
