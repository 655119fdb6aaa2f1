"""`cached_property` without the lock that Python 3.11 shares among all objects of a class.

Another thread may hold that lock while a process forks, and the child waits for it for ever.
Python 3.12 has none.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, TypeVar

_Value = TypeVar("_Value")


class cached_property(functools.cached_property[_Value]):
    """As that of functools. Threads that ask at once may each compute the value."""

    def __init__(self, function: Callable[[Any], _Value]) -> None:
        super().__init__(function)
        self.lock = contextlib.nullcontext()
