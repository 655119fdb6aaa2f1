"""A codec that does what a codestream tells it, such as to abort; for tests of what that does.

The package `imagecodecs` that `write_codec` makes stands in for the real one where its folder comes
first on the path: in helper processes, and in scripts.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from phantoms import write_series
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import HTJ2KLossless as HTJ2K

JXL = "1.2.840.10008.1.2.4.110"
ROWS = COLUMNS = 8
# The signature and size header of JPEG XL (ISO/IEC 18181-1 D.2): 8 rows, and as many columns.
_HEAD = b"\xff\x0a\x41".ljust(18, b"\0")
_WORD = 12
_CODEC = """
import ctypes, os, time
import numpy as np

class DicomrleError(RuntimeError):
    pass

def jpegxl_decode(stream, numthreads=None, out=None):
    word = bytes(stream[18:30]).decode().strip()
    if word == "abort":
        os.abort()
    if word == "segfault":
        ctypes.string_at(0)
    if word == "kill":
        os.kill(os.getpid(), 9)
    if word == "exit":
        os._exit(3)
    if word == "sleep":
        time.sleep(600)
    if word == "hang":  # holds the GIL
        ctypes.PyDLL(None).sleep(600)
    if word == "allocate":
        return [np.ones(2**25) for _ in range(10**6)]
    if word == "refuse":
        raise DicomrleError("the words of the codec")
    if word == "panic":
        raise BaseException("PanicException")
    if word == "wide":
        return np.zeros((4096, 4096), "u1")
    return np.frombuffer(stream, "u1", 64, 30).reshape(8, 8)
"""


def write_codec(folder: Path) -> Path:
    """Write the package, and return the folder to put on the path."""
    (folder / "imagecodecs").mkdir(parents=True)
    (folder / "imagecodecs" / "__init__.py").write_text(_CODEC)
    return folder


def codestream(value: int = 0, word: str = "") -> bytes:
    """Return a codestream of 8 x 8 pixels of a value, unless `word` tells the codec otherwise."""
    return _HEAD + word.ljust(_WORD).encode() + bytes([value]) * (ROWS * COLUMNS)


def image(value: int = 0) -> NDArray[Any]:
    return np.full((ROWS, COLUMNS), value, "u1")


def write_coded(folder: Path, words: Sequence[str], seed: int = 0) -> list[Path]:
    """Write a series whose slice z has the value z modulo 256, or a word for the codec."""

    def edit(dataset: Dataset, z: int) -> None:
        dataset.file_meta.TransferSyntaxUID = HTJ2K
        dataset.PixelData = encapsulate([codestream(z % 256, words[z])])
        dataset["PixelData"].VR = "OB"

    shape = (len(words), ROWS, COLUMNS)
    blank = np.zeros(shape, "u1")
    paths = write_series(folder, shape=shape, bits_allocated=8, stored=blank, seed=seed, edit=edit)
    for path in paths:
        # pydicom writes no JPEG XL. Both UIDs have the same length.
        path.write_bytes(path.read_bytes().replace(HTJ2K.encode(), JXL.encode()))
    return paths
