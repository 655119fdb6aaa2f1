"""Whole jobs over files or an index: the scan, the check of pixels, reading, demo data, IDC.

`dicomdl.idc` is a module of this package, and is imported at its first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
