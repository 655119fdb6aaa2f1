"""From a folder of DICOM to PyTorch batches: right, fast and easy.

The public names are listed in ``__init__.pyi``. Each is imported at its first use: `import dicomdl`
imports neither torch nor SimpleITK nor pyarrow.
"""

import lazy_loader

from dicomdl.version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
