"""What is sent: the DICOM files of paths or of an index, with the UIDs that a server is told.

A file is sent as it is stored: its data set keeps its bytes, in the transfer syntax that its file
meta information names. UIDs come from the data set; programs that replace UIDs often leave the old
ones in the file meta information, and such a file is sent with a new one.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from dicomdl.errors import DicomdlError, UsageError
from dicomdl.extras import import_extra
from dicomdl.headers.data_set import read_file_meta
from dicomdl.headers.parsed import parsed_header
from dicomdl.headers.uids import is_uid
from dicomdl.index.generations import is_index_folder
from dicomdl.index.index import Index
from dicomdl.index.opening import open_index
from dicomdl.storage import publishing as storage
from dicomdl.storage.folders import walk
from dicomdl.storage.locations import absolute, is_url, split
from dicomdl.storage.scratch import scratch_prefix
from dicomdl.storage.sources import Source, opened, read_range

_SOP_CLASS, _SOP_INSTANCE = 0x00080016, 0x00080018
_MEDIA_CLASS, _MEDIA_INSTANCE, _SYNTAX = 0x00020002, 0x00020003, 0x00020010
NOT_DICOM: Final = "it is no DICOM file"


class Outgoing(NamedTuple):
    """A file to send.

    Attributes
    ----------
    source
        The file, in the state in which it is sent.
    sop_class, syntax, instance
        Its SOP class, transfer syntax and SOP Instance UID.
    """

    source: Source
    sop_class: str
    syntax: str
    instance: str
    # Where the data set begins, and whether the file meta information is of another instance.
    begin: int = 0
    is_renamed: bool = False


class Unsent(NamedTuple):
    """A file that cannot be sent, and why."""

    path: str
    why: str


def outgoing(what: Index | str | os.PathLike[str] | Iterable[Any]) -> Iterator[Outgoing | Unsent]:
    """Yield the files of an index, a file, a folder, an index folder, or a list of these.

    Files of a folder that are no DICOM are passed over; one that is named is `Unsent`.

    Raises
    ------
    UsageError
        A path does not exist.
    """
    seen = set[str]()
    given = [what] if isinstance(what, Index | str | os.PathLike) else what
    for each in given:
        for source, is_named in _sources(each):
            if source.path not in seen:
                seen.add(source.path)
                found = _read(source)
                if is_named or not (isinstance(found, Unsent) and found.why == NOT_DICOM):
                    yield found


@contextlib.contextmanager
def on_disk(item: Outgoing) -> Iterator[str]:
    """Give the path of a file whose file meta information is that of its data set.

    A member of an archive, an object of a store and a file with other UIDs are copied first.

    Raises
    ------
    OSError, PixelError
        The file cannot be read, or has changed.
    """
    archive, *members = split(item.source.path)
    with opened(item.source) as handle:
        if not (members or is_url(archive) or item.is_renamed):
            yield item.source.path
            return
        with tempfile.TemporaryDirectory(prefix=scratch_prefix("send")) as folder:
            path = os.path.join(folder, "file.dcm")
            body = read_range(handle, item.begin, handle.size - item.begin)
            storage.write_whole(path, _head(item) + body)
            yield path


def _head(item: Outgoing) -> bytes:
    """Return preamble and file meta information of a file (PS3.10 7.1)."""
    import_extra("pynetdicom", "sending files", "net")
    from pydicom.uid import UID
    from pynetdicom.dsutils import create_file_meta, encode_file_meta

    meta = create_file_meta(
        sop_class_uid=UID(item.sop_class),
        sop_instance_uid=UID(item.instance),
        transfer_syntax=UID(item.syntax),
    )
    return bytes(128) + b"DICM" + encode_file_meta(meta)


def _sources(given: Any) -> Iterator[tuple[Source, bool]]:
    """Yield the files of one of what is given, and whether the file itself was named."""
    if isinstance(given, Index):
        yield from ((source, True) for source in _of_index(given))
        return
    path = os.fspath(given)
    if os.path.isdir(path) and os.listdir(path) and is_index_folder(path):
        yield from ((source, True) for source in _of_index(open_index(path)))
        return
    if os.path.isdir(path):
        for each in sorted(walk([os.fsencode(os.path.abspath(path))]).paths):
            yield Source(os.fsdecode(each)), False
        return
    if not os.path.lexists(split(path)[0]):
        raise UsageError(f"{path!r} does not exist")
    yield Source(absolute(path)), True


def _of_index(index: Index) -> Iterator[Source]:
    """Yield the files of the selected frames, and of the annotations that describe them."""
    index.require_readable()
    for number in range(len(index)):
        yield index.source(number).file
    for annotation in index.annotations:
        yield from annotation.sources


def _read(source: Source) -> Outgoing | Unsent:
    try:
        with opened(source) as handle:
            source = handle.source
        header = parsed_header(source, (_SOP_CLASS, _SOP_INSTANCE))
        meta, begin = read_file_meta(source)
        named = [_uid(header, _SOP_CLASS), _uid(header, _SOP_INSTANCE)]
        coded = [meta[_MEDIA_CLASS].text, meta[_MEDIA_INSTANCE].text]
        syntax = meta[_SYNTAX].text
    except (DicomdlError, OSError) as error:
        is_other = getattr(error, "reason", "") == "not_dicom"
        return Unsent(source.path, NOT_DICOM if is_other else str(error).splitlines()[0])
    except Exception:
        # pydicom raises many kinds of errors for other files.
        return Unsent(source.path, NOT_DICOM)
    if not all(map(is_uid, named)):
        return Unsent(source.path, NOT_DICOM)
    if not is_uid(syntax):
        return Unsent(source.path, "it lacks the file meta information (PS3.10 7.1)")
    if (source.size - begin) % 2:
        # Servers end the association at a message of odd length.
        return Unsent(source.path, "its data set has an odd number of bytes (PS3.5 7.1.1, A.5)")
    return Outgoing(source, named[0], syntax, named[1], begin, named != coded)


def _uid(elements: Any, tag: int) -> str:
    return str(elements[tag].value or "") if tag in elements else ""
