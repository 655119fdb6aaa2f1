"""Samples of other libraries, and back."""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    return getattr(importlib.import_module("dicomdl.interop.monai"), name)
