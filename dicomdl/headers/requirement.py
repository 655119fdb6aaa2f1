"""What precedes a use of pydicom: the check that it is recent enough, and its silence.

Warnings and log records of pydicom quote values, and values may identify a person.
"""

import contextlib
import functools
import logging
import re
import threading
import warnings
from collections.abc import Iterator
from typing import Final

from dicomdl.errors import MissingExtra

PYDICOM: Final = (3, 0, 2)
# Loggers of pydicom whose records quote values. A filter of a logger sees only its own records.
_LOGGERS: Final = ("pydicom", "pydicom.pixels.decoders.base")


class _Silence(logging.Filter):
    """Drops the records of threads that are within `unlogged`."""

    def __init__(self) -> None:
        super().__init__()
        self.threads = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002  # as logging calls it
        return not getattr(self.threads, "silent", False)


_SILENCE: Final = _Silence()


@contextlib.contextmanager
def unlogged() -> Iterator[None]:
    """Drop what pydicom logs in this thread."""
    for name in _LOGGERS:
        # Adding a filter twice changes nothing.
        logging.getLogger(name).addFilter(_SILENCE)
    before = getattr(_SILENCE.threads, "silent", False)
    _SILENCE.threads.silent = True
    try:
        yield
    finally:
        _SILENCE.threads.silent = before


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what pydicom logs and warns of. Warnings are those of all threads."""
    with unlogged(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


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
