"""Samples of other libraries, and back."""

import importlib
from typing import Any

_HOMES = {
    "DataModule": "lightning",
    "ForMonai": "monai",
    "ForTorchIO": "torchio",
    "ForTorchvision": "torchvision",
    "collate_flat": "lightning",
    "from_monai": "monai",
    "from_torchio": "torchio",
    "from_torchvision": "torchvision",
    "to_monai": "monai",
    "to_torchio": "torchio",
    "to_torchvision": "torchvision",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"dicomdl.interop.{_HOMES[name]}"), name)
