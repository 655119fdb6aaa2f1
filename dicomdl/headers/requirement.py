"""The check that the installed pydicom is recent enough."""

import functools
import re
from typing import Final

from dicomdl.errors import MissingExtra

PYDICOM: Final = (3, 0, 2)


@functools.cache
def require_pydicom() -> None:
    """Import pydicom and check its version, once per process, before the first use of it.

    Raises
    ------
    MissingExtra
        The installed pydicom is older than the oldest version that dicomdl is tested with.
    """
    import pydicom

    numbers = re.findall(r"\d+", pydicom.__version__)
    if tuple(map(int, numbers[:3])) < PYDICOM:
        oldest = ".".join(map(str, PYDICOM))
        raise MissingExtra(
            f"pydicom {pydicom.__version__} is installed, and dicomdl needs {oldest} or newer: "
            f"pip install 'pydicom>={oldest}'",
            found=pydicom.__version__,
            expected=oldest,
        )
