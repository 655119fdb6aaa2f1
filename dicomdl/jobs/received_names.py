"""Names of received files and of their folders: UIDs, and hashes of what is none.

UIDs come from strangers: what is no UID by PS3.5 9.1 is replaced by a hash of it, so that a name
never leaves the folder, hides a file or is longer than a system takes.
"""

import re
from typing import Final, Literal

import xxhash

Level = Literal["study", "series", "instance"]
SUFFIX: Final = ".dcm"
# Components with leading zeros are invalid, but they occur, and are harmless as names.
_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)*")
_LONGEST: Final = 64


def name_of(level: Level, uid: str) -> str:
    """Return a UID as the name of a file or folder; a hash of a text that is none."""
    if _is_name(uid):
        return uid
    return f"{level}-{xxhash.xxh3_128_hexdigest(uid.encode('utf-8', 'surrogatepass'))}"


def file_name(uid: str) -> str:
    """Return the name of the file of an instance."""
    return name_of("instance", uid) + SUFFIX


def instance_of(name: str) -> str:
    """Return the SOP Instance UID that a file is named by; "" for other names."""
    uid = name.removesuffix(SUFFIX)
    return uid if uid != name and _is_name(uid) else ""


def _is_name(uid: str) -> bool:
    return len(uid) <= _LONGEST and _UID.fullmatch(uid) is not None
