"""Workers of a DataLoader, and the way of errors out of them.

torch sends the class of an error and the text of its traceback. `errors_leave_whole` puts the facts
and notes of a DicomdlError into that text. In the main process the error classes read them back
(see `dicomdl.errors`).
"""

import contextlib
import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from dicomdl.datasets._deaths import end_with_parent
from dicomdl.errors import DicomdlError, facts_line, is_facts_line
from dicomdl.storage.system import available_cores

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def is_worker() -> bool:
    """Return whether this process is a worker of a DataLoader."""
    return torch.utils.data.get_worker_info() is not None


def threads_here() -> int:
    """Return the threads for one sample: one per core, but one in a worker of a DataLoader.

    The other workers use the other cores.
    """
    return 1 if is_worker() else available_cores()


def errors_leave_whole(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Decorate a function so that its DicomdlErrors leave a worker with message, facts and notes.

    It is for the functions that torch calls in a worker, which then also ends with its main
    process. Outside of workers nothing changes.
    """

    @functools.wraps(function)
    def called(*arguments: Parameters.args, **keywords: Parameters.kwargs) -> Result:
        if is_worker():
            end_with_parent()
        try:
            return function(*arguments, **keywords)
        except DicomdlError as error:
            if is_worker():
                _note_facts(error)
            raise

    return called


def _note_facts(error: DicomdlError) -> None:
    """Make the line of facts the last note of an error, once, even in nested functions."""
    # A fact whose repr fails must not hide the error, which then leaves without the line.
    with contextlib.suppress(Exception):
        line = facts_line(error)
        notes = [note for note in getattr(error, "__notes__", ()) if not is_facts_line(note)]
        error.__notes__ = [*notes, line]
