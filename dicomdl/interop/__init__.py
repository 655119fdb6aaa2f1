"""Conversion of samples to MONAI, TorchIO, torchvision and Lightning, and back.

The names are listed in ``__init__.pyi``. Each is imported at its first use, because the packages
are optional. `to_monai`, `to_torchio` and `to_torchvision` convert a sample to the input of a
package's transforms; the `from_` functions convert the result back. `ForMonai`, `ForTorchIO` and
`ForTorchvision` do both around a transform, for the ``transform=`` of a dataset.

The grid of a sample (`affine`, `spacing`) travels inside the image of the other package, so it
cannot become stale. On the way back, `affine` is the old one times the map from new to old indices:
it stays exact if nothing moved, and is NaN if the map is unknown. The order of indices is (slice,
row, column) everywhere outside of the other package.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
