"""messages: what a child answers is an array of the expected size, or an error."""

import numpy as np
import pytest

from dicomdl.storage.messages import array_of, packed, packed_array, unpacked


@pytest.mark.parametrize("dtype", ["u1", "<i2", ">u2", "f4"])
def test_an_array_arrives_equal_and_in_the_order_of_this_machine(dtype: str) -> None:
    values = np.arange(12).reshape(3, 4).astype(dtype).T
    head, data = unpacked(b"".join(bytes(part) for part in packed_array(values)))
    found = array_of(head, data, 12)
    assert np.array_equal(found, values) and found.dtype.isnative


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff\xff",
        b"\x02\0\0\0[]",
        b"\x05\0\0\0{",
        b"".join(packed({"dtype": "O", "shape": [1]}, b"\0" * 8)),
        b"".join(packed({"dtype": "u1", "shape": [13]}, b"\0" * 13)),
        b"".join(packed({"dtype": "u1", "shape": [4]}, b"\0")),
        b"".join(packed({"dtype": "u1", "shape": [-1]}, b"\0")),
        b"".join(packed({"shape": [1]}, b"\0")),
    ],
)
def test_anything_else_is_a_known_error(message: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        array_of(*unpacked(message), 12)
