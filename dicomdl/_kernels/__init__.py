"""The hot loops in C, where this installation has them; each has a twin in Python.

The rule of twins: a compiled function `name` and the function `pure_name` take the same arguments
and give the same results and errors, bit by bit. The pure one stands in the package that knows what
it is for, and the line behind it chooses once, at import: ``name = compiled_or(pure_name)``. A test
compares both on the same inputs by `both`. A function that a system lacks is its twin there.
"""

import importlib
import os
from collections.abc import Callable
from types import ModuleType
from typing import Final, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., object])
_PREFIX: Final = "pure_"

# The variable that leaves the compiled module alone, where it is "1".
VARIABLE: Final = "DICOMDL_PURE"


def _loaded() -> ModuleType | None:
    if os.environ.get(VARIABLE) == "1":
        return None
    try:
        return importlib.import_module("dicomdl._kernels._compiled")
    except ImportError:
        return None


_compiled: Final = _loaded()

accelerated: Final = _compiled is not None
"""Whether the hot loops run compiled: the installation has them, and `DICOMDL_PURE` is not "1"."""


def compiled_or(pure: _Function) -> _Function:
    """Return the compiled twin of a function ``pure_name``, or the function itself without one."""
    found: _Function = getattr(_compiled, pure.__name__.removeprefix(_PREFIX), pure)
    return found


def both(pure: _Function) -> tuple[_Function, _Function] | None:
    """Return the compiled and the pure function of a pair; None without a compiled one."""
    chosen = compiled_or(pure)
    return None if chosen is pure else (chosen, pure)
