"""Messages between a process and its children: a JSON object, and the bytes that it describes.

Answers of a child are not trusted: they contain no pickles, and no array larger than expected.
"""

import json
import math
import struct
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Values

# Bytes of the JSON object of an answer.
LONGEST_HEAD: Final = 1 << 20
# Bytes per sample; no decoder gives wider ones.
LONGEST_SAMPLE: Final = 8
_LENGTH: Final = struct.Struct("<I")


def packed(head: Mapping[str, Any], *data: Any) -> list[Any]:
    """Return the parts of a message: the object with its length, and the data."""
    text = json.dumps(head).encode()
    return [_LENGTH.pack(len(text)), text, *data]


def unpacked(message: bytes) -> tuple[dict[str, Any], memoryview]:
    """Return the object and the data of a message; raise a ValueError for any other bytes."""
    try:
        start = _LENGTH.size + _LENGTH.unpack_from(message)[0]
    except struct.error as error:
        raise ValueError("a message without a head") from error
    head = json.loads(message[_LENGTH.size : start])
    if not isinstance(head, dict):
        raise ValueError("a message without an object")
    return head, memoryview(message)[start:]


def packed_array(values: Values) -> list[Any]:
    """Return the parts of a message that holds an array."""
    values = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("="), copy=False)
    return packed({"dtype": values.dtype.str, "shape": values.shape}, values)


def array_of(head: Mapping[str, Any], data: memoryview, most_samples: int) -> Values:
    """Return the array of a message, read-only.

    Raises
    ------
    ValueError, KeyError, TypeError
        The message holds no array of numbers with up to `most_samples` of them.
    """
    dtype, shape = np.dtype(head["dtype"]), tuple(map(int, head["shape"]))
    if dtype.kind not in "iuf" or not 0 <= math.prod(shape) <= most_samples:
        raise ValueError("not the array that was asked for")
    return np.frombuffer(data, dtype, math.prod(shape)).reshape(shape)
