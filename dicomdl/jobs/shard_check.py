"""The check of shards: every file of an export to webdataset, against the hash in its manifest.

It finds what a read does not: a byte between the members, where the package webdataset would lose
its place, and a shard that is absent.
"""

import os
from dataclasses import dataclass
from typing import Any, Final

from dicomdl.index.shard_manifests import MANIFEST, ShardManifest
from dicomdl.index.text import counted
from dicomdl.jobs._damage import damage_lines
from dicomdl.jobs._progress import progress_bar
from dicomdl.storage import publishing as storage

_CURE: Final = "copy it again, or export again (`prepare`: delete it first)"


def is_of_shards(folder: str) -> bool:
    """Whether a folder is that of an export to webdataset."""
    return os.path.isfile(os.path.join(os.path.expanduser(folder), MANIFEST))


@dataclass(frozen=True)
class ShardCheck:
    """Shards that are not as the export wrote them.

    Attributes
    ----------
    shards
        The number of shards of the manifest.
    damaged
        The name of each damaged shard, and what is wrong with it.
    """

    shards: int
    damaged: tuple[tuple[str, str], ...]

    @property
    def ok(self) -> bool:
        """Whether all shards are as the export wrote them."""
        return not self.damaged

    def to_dict(self) -> dict[str, Any]:
        """Return the count and the damaged shards for JSON."""
        return {
            "shards": self.shards,
            "damaged": [{"shard": name, "detail": detail} for name, detail in self.damaged],
        }

    def text(self, everything: bool = False) -> str:
        """Return the lines for people: the first damaged shards, or all."""
        headline = f"{counted(self.shards, 'shards')} were read: {len(self.damaged):,} damaged"
        return "\n".join([headline, *damage_lines(self.damaged, everything)])


def check_shards(folder: str, *, progress: bool = True) -> ShardCheck:
    """Read every shard of an export in full, and compare it with the manifest.

    Parameters
    ----------
    folder
        The folder of the export.
    progress
        Show a progress bar on a terminal.

    Returns
    -------
    ShardCheck
        The count, and the damaged shards. A shard that is absent is one of them.

    Raises
    ------
    IndexFolderError
        The manifest is damaged or of another format.
    """
    folder = os.path.abspath(os.path.expanduser(folder))
    shards = ShardManifest(folder).facts["shards"]
    damaged = []
    for name in progress_bar(list(shards), unit="shard", desc="reading shards", shown=progress):
        if fault := _fault(os.path.join(folder, name), shards[name]):
            damaged.append((name, f"{fault}: {_CURE}"))
    return ShardCheck(len(shards), tuple(damaged))


def _fault(path: str, expected: dict[str, Any]) -> str:
    """Return what is wrong with a shard; "" for one that is as it was written."""
    try:
        size = os.path.getsize(path)
        if size != expected["bytes"]:
            return f"it has {size} bytes, expected {expected['bytes']}"
        found = storage.blake2b_of(path)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    return "" if found == expected["blake2b"] else "it has another checksum"
