"""storage.memory"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """What was used last, in this process, as long as it is no more than so many bytes; `size_of` tells those of a value."""

    def __init__(self, max_bytes: int, size_of: Callable[[Value], int]) -> None:
        self._max_bytes, self._size_of = max_bytes, size_of
        self._kept: OrderedDict[Any, Value] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._after_fork) if hasattr(
            os, "register_at_fork"
        ) else None

    def _after_fork(self) -> None:
        self._lock = threading.Lock()  # a thread of the parent may have held it

    def of(self, key: Any, make: Callable[[], Value]) -> Value:
        """The value of a key, made where it is not kept; the last one is kept whatever its size."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        value = make()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = value
                self._bytes += self._size_of(value)
                while self._bytes > self._max_bytes and len(self._kept) > 1:
                    self._bytes -= self._size_of(self._kept.popitem(last=False)[1])
        return value
