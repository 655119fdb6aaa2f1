"""What a worker of a DataLoader is, and how errors leave one.

torch sends the class of an error and the text of its traceback. `errors_leave_whole` makes that
text say the facts and notes of our errors, which their classes read back in the main process
(`dicomdl.errors`).
"""

import contextlib
import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from dicomdl.errors import DicomdlError, facts_line, is_facts_line

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def is_worker() -> bool:
    """Whether this process is a worker of a DataLoader."""
    return torch.utils.data.get_worker_info() is not None


def errors_leave_whole(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """A function whose errors (`DicomdlError`) leave a worker with their message, facts and notes.

    Put it around what torch calls in a worker. Outside of workers nothing changes.
    """

    @functools.wraps(function)
    def called(*arguments: Parameters.args, **keywords: Parameters.kwargs) -> Result:
        try:
            return function(*arguments, **keywords)
        except DicomdlError as error:
            if is_worker():
                _note_facts(error)
            raise

    return called


def _note_facts(error: DicomdlError) -> None:
    """Make the line of facts the last note of an error, once, however many functions it passes."""
    # A fact without a text of its own must not hide the error: the error leaves as text then.
    with contextlib.suppress(Exception):
        line = facts_line(error)
        notes = [note for note in getattr(error, "__notes__", ()) if not is_facts_line(note)]
        error.__notes__ = [*notes, line]
