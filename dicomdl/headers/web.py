"""Headers of instances of DICOMweb servers: the DICOM JSON model as a file that is read as any.

The metadata of an instance become the bytes of a header by pydicom, and the ordinary reader walks
over them. The layout of the frames, and how they are coded, is learned from the first frame where
the metadata do not say it (0008,3002). An object whose frames the server does not give one by one,
or which has no bytes of its own in them, is read as a whole.
"""

import base64
import contextlib
import functools
import hashlib
import io
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from dicomdl.errors import FileChanged, HeaderError
from dicomdl.headers._pixel_data import PixelLayout, pixel_layout
from dicomdl.headers.frame import attributes
from dicomdl.headers.limits import DEFAULT_LIMITS, ReadLimits, require_frames
from dicomdl.headers.requirement import quiet, require_pydicom
from dicomdl.headers.uids import (
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    NATIVE,
    SYNTAX_OF_MEDIA,
    TRANSFER_SYNTAXES,
)
from dicomdl.storage import sources
from dicomdl.storage.dicomweb import WebError, is_web
from dicomdl.storage.sources import Handle, Source
from dicomdl.storage.web_objects import (
    ITEM_HEAD_BYTES,
    Outline,
    SentFrame,
    WebInstance,
    WebLayout,
    as_item,
    fetch_bulk,
    fetch_frame,
    fetch_metadata,
    keep_bytes,
    kept_bytes,
    remember,
    remembered,
    web_source,
    whole_source,
)

# The largest frame, uncompressed: no real one has more (an X-ray of 8k x 8k has 128 MiB).
MOST_FRAME_BYTES: Final = 2**30
# What a codestream may exceed the samples by: headers, and noise that no codec makes smaller.
_MARGIN_BYTES: Final = 64 * 2**10
_MOST_BULK_BYTES: Final = 64 * 2**20
_PIXELS: Final = ("7FE00010", "7FE00008", "7FE00009")
_AVAILABLE_SYNTAX: Final = "00083002"
_INSTANCE_UID: Final = "00080018"
# Explicit VR of the elements of pixel data, and whether frames are of floats.
_FLOATS: Final[Mapping[str, str]] = {"7FE00008": "OF", "7FE00009": "OD"}
# Values that a server may give by address alone, and that are read: the data of lookup tables and
# palettes, contours, and the headers of Siemens and United Imaging.
_BULK: Final = re.compile(
    r"0028120[1-4]|0028122[1-3]|00283006|30060050|0029[0-9A-F]{2}[12]0|0065[0-9A-F]{2}5[01]"
)
# Statuses of a server that does not give frames one by one, or not of this object.
_NO_FRAMES: Final = frozenset({400, 404, 406, 415, 500, 501})


class _Turn:
    """`quiet` is for one thread at a time. Warnings of pydicom quote values."""

    def __init__(self) -> None:
        self.after_fork()

    def after_fork(self) -> None:
        """Begin anew in a child: another thread of the parent may have held the lock."""
        self.lock = threading.Lock()


_turn: Final = _Turn()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_turn.after_fork)


class Described(NamedTuple):
    """An instance: its source, and its header; "" if it is read as a whole."""

    source: Source
    head: bytes


# Small: the private facts, as groups and the last digits of elements.
@functools.cache
def _private_facts() -> frozenset[str]:
    return frozenset(
        f"{column.tag >> 16:04X}{column.tag & 0xFF:02X}"
        for column in attributes()
        if column.tag >> 16 & 1
    )


def _is_read(tag: str) -> bool:
    """Whether the value of an element is used that a server gives by address alone."""
    tag = tag.upper()
    return _BULK.fullmatch(tag) is not None or tag[:4] + tag[6:] in _private_facts()


def metadata_hash(item: Mapping[str, Any]) -> str:
    """Return the hash of the metadata of an instance."""
    text = json.dumps(item, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def described(
    item: Any, url: str, limits: ReadLimits = DEFAULT_LIMITS, *, ask: bool = False
) -> Described:
    """Return the source and the header of an instance, from its metadata.

    Parameters
    ----------
    item
        The metadata, in the DICOM JSON model (PS3.18 F).
    url
        The location of the instance.
    limits
        Limits on what it may cost.
    ask
        Whether the first frame is asked for also where the metadata say how frames are coded, to
        see whether the server keeps to it.

    Raises
    ------
    HeaderError
        The metadata cannot be used (`reason`).
    OSError
        The server does not answer.
    """
    digest = metadata_hash(item)
    try:
        found = _described(item, url, digest, limits, ask)
    except (HeaderError, OSError):
        raise
    except Exception as error:
        # Messages of pydicom quote values.
        raise HeaderError(
            f"the metadata that the server sent cannot be read ({type(error).__name__})",
            reason="malformed",
        ) from None
    if found.head:
        keep_bytes(found.source, 0, found.head)
    remember(found.source, digest)
    return found


def _described(
    item: Mapping[str, Any], url: str, digest: str, limits: ReadLimits, ask: bool
) -> Described:
    if _value(item, _INSTANCE_UID) != url.rpartition("/")[2]:
        raise HeaderError("the server sent another instance than was asked for", reason="malformed")
    if _is_incomplete(item):
        return Described(whole_source(url, digest), b"")
    data_set = _data_set(item, url)
    if not data_set.get("Rows") or not data_set.get("Columns"):
        head = _part10(data_set, EXPLICIT_LITTLE)
        layout = WebLayout("header", len(head), digest=digest)
        return Described(web_source(url, layout.size, layout), head)
    pixels = pixel_layout(_raws(data_set))
    if isinstance(pixels, HeaderError):
        raise HeaderError(str(pixels), **vars(pixels))
    require_frames(limits, pixels.frames, len(json.dumps(item)))
    if pixels.whole_bits > 8 * MOST_FRAME_BYTES:
        raise HeaderError("a frame of more than 1 GiB is not asked for", reason="invalid_value")
    told = str(_value(item, _AVAILABLE_SYNTAX) or "")
    sent = None
    if ask or not told or pixels.whole_bits != pixels.frame_bits:
        sent = _first_frame(url, pixels)
        if sent is None:
            return Described(whole_source(url, digest), b"")
    syntax = _agreed(told, sent)
    stride = _stride(pixels, syntax, sent)
    if not stride:
        return Described(whole_source(url, digest), b"")
    kind = "native" if syntax in NATIVE else "coded"
    head = _part10(data_set, syntax) + _pixel_head(item, data_set, syntax, stride * pixels.frames)
    # Of native frames, the length tells enough.
    stated = "" if kind == "native" else syntax
    layout = WebLayout(kind, len(head), stride, pixels.frames, stated, digest)
    found = Described(web_source(url, layout.size, layout), head)
    if sent is not None:
        data = sent.data[:stride] if kind == "native" else as_item(sent.data)
        keep_bytes(found.source, layout.start, data)
    return found


def _value(item: Mapping[str, Any], tag: str) -> Any:
    """Return the first value of an element of the JSON; None if it has none."""
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else None


# --- the header -----------------------------------------------------------------------------------


def _data_set(item: Mapping[str, Any], url: str) -> Any:
    """Return the data set of some metadata, without pixels and file meta information."""
    require_pydicom()
    import pydicom

    kept = {
        tag: element
        for tag, element in _inline(item, url).items()
        if not tag.startswith(("0002", "7FE0", "FFFC")) and tag != _AVAILABLE_SYNTAX
    }
    with _turn.lock, quiet():
        data_set = pydicom.Dataset.from_json(kept)
    # JSON is UTF-8, whatever the character set of the object (PS3.18 F.2.2).
    if not json.dumps(kept, ensure_ascii=False).isascii():
        data_set["SpecificCharacterSet"] = pydicom.DataElement(0x00080005, "CS", "ISO_IR 192")
    return data_set


def _is_incomplete(item: Mapping[str, Any]) -> bool:
    """Whether an object is better read as a whole than by its metadata.

    Such are objects with text that the server could not convert, which loses the values beside it,
    too; and images of one frame with values that would be one request each.
    """
    if "\ufffd" in json.dumps(item, ensure_ascii=False):
        return True
    is_image = _value(item, "00280010") and str(_value(item, "00280008") or 1) == "1"
    return bool(is_image) and any(
        _is_read(tag) and "BulkDataURI" in element for tag, element in item.items()
    )


def _inline(item: Mapping[str, Any], url: str) -> dict[str, Any]:
    """Return metadata with the values that are read in place of their addresses, and no others."""
    found: dict[str, Any] = {}
    for tag, element in item.items():
        address = element.get("BulkDataURI")
        if address is None:
            found[tag] = element
            if element.get("vr") == "SQ":
                items = [_inline(each or {}, url) for each in element.get("Value", [])]
                found[tag] = {"vr": "SQ", "Value": items}
        elif isinstance(address, str) and _is_read(tag):
            data = base64.b64encode(fetch_bulk(url, address, _MOST_BULK_BYTES))
            found[tag] = {"vr": element["vr"], "InlineBinary": data.decode("ascii")}
    return found


def _part10(data_set: Any, syntax: str) -> bytes:
    """Return a file of PS3.10 up to its pixel data."""
    import pydicom

    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = data_set.get("SOPClassUID", "")
    meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    data_set.file_meta = meta
    data_set.preamble = b"\0" * 128
    file = io.BytesIO()
    with _turn.lock, quiet():
        pydicom.dcmwrite(
            file,
            data_set,
            implicit_vr=syntax == IMPLICIT_LITTLE,
            little_endian=True,
            enforce_file_format=False,
        )
    return file.getvalue()


def _pixel_head(item: Mapping[str, Any], data_set: Any, syntax: str, length: int) -> bytes:
    """Return the head of the element of pixel data, and the empty offset table of coded ones."""
    tag = next((tag for tag in _PIXELS[1:] if tag in item), _PIXELS[0])
    vr = _FLOATS.get(tag, "OW" if data_set.get("BitsAllocated", 0) > 8 else "OB")
    raw = bytes.fromhex(tag)
    head = raw[1::-1] + raw[3:1:-1]
    if syntax != IMPLICIT_LITTLE:
        head += (vr if syntax in NATIVE else "OB").encode() + b"\0\0"
    if syntax in NATIVE:
        return head + (length + length % 2).to_bytes(4, "little")
    return head + b"\xff\xff\xff\xff" + as_item(b"")


# --- the frames -----------------------------------------------------------------------------------


def _raws(data_set: Any) -> tuple[bytes, ...]:
    """Return the description of the pixels as `pixel_layout` takes it: raw values."""

    def unsigned(name: str) -> bytes:
        value = data_set.get(name)
        return b"" if value is None else int(value).to_bytes(2, "little")

    def text(name: str) -> bytes:
        return str(data_set.get(name, "") or "").encode("ascii", "replace")

    return (
        *(unsigned(name) for name in ("Rows", "Columns", "SamplesPerPixel")),
        text("PhotometricInterpretation"),
        *(
            unsigned(name)
            for name in ("PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit")
        ),
        unsigned("PixelRepresentation"),
        text("NumberOfFrames"),
    )


def _first_frame(url: str, pixels: PixelLayout) -> SentFrame | None:
    """Return the first frame; None if the server gives none of this object one by one."""
    try:
        return fetch_frame(url, 1, _room(pixels))
    except WebError as error:
        if error.status not in _NO_FRAMES:
            raise
        return None


def _room(pixels: PixelLayout) -> int:
    """Return how many bytes a frame has at most, coded or not."""
    return pixels.whole_bits // 8 * 2 + _MARGIN_BYTES


def _agreed(told: str, sent: SentFrame | None) -> str:
    """Return the transfer syntax of the frames; HeaderError if the server contradicts itself."""
    if sent is None:
        return told
    said = sent.syntax or told or SYNTAX_OF_MEDIA.get(sent.media_type, "")
    if said not in TRANSFER_SYNTAXES:
        raise HeaderError(
            "the server does not say how it codes frames, or in an unknown transfer syntax",
            reason="unknown_syntax",
        )
    if told and said != told and not {told, said} <= {IMPLICIT_LITTLE, EXPLICIT_LITTLE}:
        raise HeaderError(
            f"the metadata say that the object is in transfer syntax {told}, and the server sends "
            f"its frames in {said}",
            reason="transcoded",
        )
    return told or said


def _stride(pixels: PixelLayout, syntax: str, sent: SentFrame | None) -> int:
    """Return the bytes of a native frame, or of a room; 0 for frames that are read as a whole."""
    if syntax not in NATIVE:
        return _room(pixels) + ITEM_HEAD_BYTES
    if syntax not in (IMPLICIT_LITTLE, EXPLICIT_LITTLE):
        return 0
    if pixels.frame_bits % 8 and pixels.frames > 1:
        return 0
    sizes = [(bits + 7) // 8 for bits in (pixels.frame_bits, pixels.whole_bits)]
    if sent is None:
        return sizes[0]
    found = len(sent.data)
    return next((size for size in sizes if found in (size, size + size % 2)), 0)


# --- opening --------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(source: Source) -> Iterator[Handle]:
    """Open a source to read its header, as `storage.sources.opened` opens one for its frames."""
    if is_web(source.path):
        with sources.unread_as_pixel_errors():
            yield header_handle(source)
        return
    with sources.opened(source) as handle:
        yield handle


def header_handle(source: Source) -> Handle:
    """Return a handle from which the header of an instance is read; raise OSError or FileChanged.

    The header comes from the byte cache, or from the metadata that the server has now.
    """
    layout = WebLayout.of(source)
    if layout.kind == "whole":
        return WebInstance(source.path, source)
    head = kept_bytes(source, 0, layout.start)
    if head is None:
        found = _asked(source.path)
        if found.source[1:] != source[1:]:
            raise FileChanged("the object changed after it was scanned: scan again")
        head = found.head
    return Outline(source, head)


def known_source(url: str, digest: str) -> Source | None:
    """Return the source of an instance if metadata with this hash were described, and are kept."""
    known = remembered(url)
    if known is None or known[1] != digest:
        return None
    source = known[0]
    layout = WebLayout.of(source)
    is_kept = layout.kind == "whole" or kept_bytes(source, 0, layout.start) is not None
    return source if is_kept else None


def scanned_handle(url: str) -> Handle:
    """Return the handle of an instance as a walk found it; without a walk, as it is now."""
    known = remembered(url)
    if known is not None:
        return header_handle(known[0])
    found = _asked(url)
    if found.head:
        return Outline(found.source, found.head)
    return WebInstance(url, found.source)


def _asked(url: str) -> Described:
    """Describe an instance by its metadata, asked for now."""
    items = fetch_metadata(url, DEFAULT_LIMITS.header_bytes)
    if len(items) != 1:
        raise HeaderError("the server has no metadata of the instance", reason="malformed")
    return described(items[0], url)
