"""jobs.patients"""

import hashlib
import hmac
import os
import secrets

from dicomdl.errors import IndexFolderError
from dicomdl.index.generations import read_facts, read_manifest
from dicomdl.index.table import Table
from dicomdl.storage import publishing as storage


def _patient_key() -> bytes:
    """The key of this user's patient hashes; made once, readable by its owner only."""
    path = os.path.join(storage.cache_folder(), "patient_id.key")
    if not os.path.exists(path):
        storage.write_first(path, secrets.token_bytes(32))
    with storage.explained(f"{path!r} cannot be read"), open(path, "rb") as file:
        return file.read()  # of two first runs at once, both read the key that came first


def patient_key_name() -> str:
    """Names the key without giving it away, so that an index knows whether its hashes are of this key."""
    return hashlib.blake2b(_patient_key(), digest_size=8, person=b"key name").hexdigest()


def hash_patients(frames: Table) -> Table:
    """PatientID of newly read frames as a keyed hash of 128 bits; blank stays blank."""
    key = _patient_key()
    codes, patients = frames.codes("patient_id")
    hashes = [
        f"hash:{hmac.new(key, p.encode(), hashlib.blake2b).hexdigest()[:32]}" if p.strip() else ""
        for p in patients
    ]
    return frames.with_column("patient_id", [hashes[code] for code in codes])


def holds_raw_patients(target: str) -> bool:
    """Whether an older generation of the index keeps PatientID as it is.

    It gets no time of grace.
    """
    try:
        facts = read_facts(target, read_manifest(target)["generation"])
        return bool(facts["options"]["patient_id"] == "keep")
    except IndexFolderError:
        return False
