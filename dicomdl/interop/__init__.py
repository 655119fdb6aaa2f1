"""Samples of MONAI, TorchIO, torchvision and Lightning, and back.

The names are listed in ``__init__.pyi``. Each is loaded at its first use, because the libraries are
optional.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
