"""Arrow files of somebody else, read without a decompression.

A scan writes its tables uncompressed, so that they are mapped and not copied. A compressed buffer
states how large it becomes, and Arrow allocates that much before it reads a byte of it.
"""

import struct
from typing import Final

import pyarrow as pa

# Before the first message of a file: its magic and padding.
_MAGIC_BYTES: Final = 8
_INT32, _UINT32 = struct.Struct("<i"), struct.Struct("<I")
_UINT16, _UINT8 = struct.Struct("<H"), struct.Struct("<B")
# Of Arrow's Message.fbs: numbers of fields, and the types of headers that have buffers.
_HEADER_TYPE, _HEADER, _DATA, _COMPRESSION = 1, 2, 1, 3
_DICTIONARY, _RECORDS = 2, 3


def read_plain(data: pa.Buffer) -> pa.Table:
    """Return the table of an Arrow file, whose columns are views of its bytes.

    The messages are looked at in their order and then read in it. The footer, which could name
    others, is not used.

    Raises
    ------
    pa.ArrowException, OSError
        The bytes are no Arrow file, or a message has compressed buffers.
    """
    messages = data.slice(_MAGIC_BYTES)
    reader = pa.BufferReader(messages)
    try:
        while True:
            if _is_compressed(pa.ipc.read_message(reader).metadata.to_pybytes()):
                raise pa.ArrowInvalid("a message has compressed buffers")
    except EOFError:
        pass
    except struct.error as error:
        raise pa.ArrowInvalid("a message cannot be read") from error
    return pa.ipc.open_stream(pa.BufferReader(messages)).read_all()


def _is_compressed(message: bytes) -> bool:
    """Whether the buffers of a message are compressed (a FlatBuffers table, little endian)."""
    table = _at(message, 0)
    kind = _field(message, table, _HEADER_TYPE)
    header_type = _UINT8.unpack_from(message, kind)[0] if kind else 0
    if header_type not in (_DICTIONARY, _RECORDS):
        return False
    batch = _at(message, _field(message, table, _HEADER))
    if header_type == _DICTIONARY:
        batch = _at(message, _field(message, batch, _DATA))
    return _field(message, batch, _COMPRESSION) != 0


def _field(message: bytes, table: int, number: int) -> int:
    """Return the position of a field of a table; 0 for an absent one."""
    offsets = _within(message, table - _INT32.unpack_from(message, table)[0])
    at = 4 + 2 * number
    if at >= _UINT16.unpack_from(message, offsets)[0]:
        return 0
    offset = _UINT16.unpack_from(message, offsets + at)[0]
    return _within(message, table + offset) if offset else 0


def _at(message: bytes, position: int) -> int:
    """Return the position that the offset at `position` leads to."""
    return _within(message, position + _UINT32.unpack_from(message, position)[0])


def _within(message: bytes, position: int) -> int:
    """Return a position in a message; negative ones would count from its end."""
    if not 0 <= position < len(message):
        raise struct.error("an offset leads out of the message")
    return position
