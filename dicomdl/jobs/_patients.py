"""Keyed hashes of PatientID, for indexes that must not store it, and what must not be left of it.

The key belongs to the user and stays in the cache folder: the same patient has the same hash in all
indexes of one user.
"""

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from typing import Any, Final

from dicomdl.errors import IndexFolderError, UsageError
from dicomdl.index.stored_generation import StoredGeneration, read_manifest
from dicomdl.index.table import Table
from dicomdl.jobs._texts import are_stored
from dicomdl.storage import publishing as storage

_KEY_FILE: Final = "patient_id.key"
_KEY_BYTES: Final = 32


def _patient_key() -> bytes:
    """Return this user's key of patient hashes, created once, readable by its owner only.

    PatientIDs are few enough to be tried one by one, so whoever has the key has the identities.
    """
    path = os.path.join(storage.cache_folder(), _KEY_FILE)
    if not os.path.lexists(path):
        storage.write_first(path, secrets.token_bytes(_KEY_BYTES))
    # Two first runs at once both read the key that was published first.
    return storage.read_secret(path, _KEY_BYTES)


def patient_key_name() -> str:
    """Return a digest that names the key: an index records which key its hashes are of."""
    return hashlib.blake2b(_patient_key(), digest_size=8, person=b"key name").hexdigest()


def keyed_digest(text: str) -> str:
    """Return twelve hexadecimal digits for a text, by the same key: the text cannot be guessed."""
    data = text.encode("utf-8", "surrogateescape")
    return hmac.new(_patient_key(), data, hashlib.blake2b).hexdigest()[:12]


def hash_patients(frames: Table) -> Table:
    """Replace PatientID of newly read frames by a keyed hash of 128 bits; blank stays blank."""
    key = _patient_key()
    codes, patients = frames.codes("patient_id")
    hashes = [
        f"hash:{hmac.new(key, p.encode(), hashlib.blake2b).hexdigest()[:32]}" if p.strip() else ""
        for p in patients
    ]
    return frames.with_column("patient_id", [hashes[code] for code in codes])


def known_key(target: str, patient_id: str) -> str:
    """Return the option `patient_id` of the index at `target` if it holds hashes, as this does.

    The hashes of an index are of one key. Files that did not change keep theirs, whatever key this
    user has.

    Raises
    ------
    UsageError
        The index holds hashes, and this scan would store PatientID: the identities would be back,
        and another split with them.
    """
    try:
        facts = StoredGeneration(target, read_manifest(target)["generation"]).facts()
        before = str(facts["options"]["patient_id"])
    except (IndexFolderError, KeyError, TypeError):
        return patient_id
    if not before.startswith("hash:"):
        return patient_id
    if patient_id == "keep":
        raise UsageError(
            f"the index {target!r} holds hashes instead of PatientID: pass patient_id='hash', or "
            "scan into a new folder",
            path=target,
        )
    return before


def require_key(target: str, patient_id: str) -> None:
    """Raise UsageError if the hashes of the index at `target` are of another key than this user's.

    With another key every patient gets another hash, and a split by patient would put patients of
    the old training set into the new test set.
    """
    if patient_id != f"hash:{patient_key_name()}":
        raise UsageError(
            f"the index {target!r} holds patient hashes of another key: the key is the file "
            f"{_KEY_FILE!r} in the cache folder of the first scan; copy it to this one "
            "(DICOMDL_CACHE), or scan into a new folder and split anew",
            path=target,
        )


def holds_more(target: str, options: Mapping[str, Any]) -> bool:
    """Whether the current generation has PatientIDs or texts that this scan leaves out.

    Such a generation is deleted without a grace period.
    """
    try:
        before = StoredGeneration(target, read_manifest(target)["generation"]).facts()["options"]
        has_patients = before["patient_id"] == "keep" != options["patient_id"]
        return has_patients or (are_stored(before) and not are_stored(options))
    except (IndexFolderError, KeyError, TypeError):
        return False
