"""Split files: the groups of each part as UIDs and hashes, in JSON.

A PatientID is stored as a hash of 64 bits, so the file shows none. Who has a PatientID can find
its group in the file.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import xxhash

from dicomdl.errors import StorageError, UsageError
from dicomdl.storage import publishing as storage
from dicomdl.storage.json_texts import parsed

# Number of the format of split files.
VERSION: Final = 1
# The entry with the checksum of all others, whatever their order and the white space between them.
# A file without it was written by hand, or by an older dicomdl.
_CHECKSUM: Final = "xxh3"
_ENTRIES: Final = ("dicomdl_split", "by", "fractions", "k", "stratify", "seed", "parts", "rest")


@dataclass(frozen=True, slots=True)
class SavedGroup:
    """One group of a split: patients, Studies and Series that stay together.

    Attributes
    ----------
    id
        16 hexadecimal digits: the smallest hash of the identities in the group.
    patients
        The hash of each PatientID, 16 hexadecimal digits.
    studies, series
        The Study and Series Instance UIDs.
    """

    id: str
    patients: tuple[str, ...]
    studies: tuple[str, ...]
    series: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SavedSplit:
    """A split as a file holds it, for ``index.split(keep=...)``.

    Attributes
    ----------
    by, fractions, k, stratify, seed
        The arguments of the split; `k` is None for one by fractions.
    parts
        The groups of each part.
    rest
        The groups that are in no part, where the fractions are less than 1.
    """

    by: str
    fractions: tuple[float, ...]
    k: int | None
    stratify: tuple[str, ...]
    seed: int
    parts: tuple[tuple[SavedGroup, ...], ...]
    rest: tuple[SavedGroup, ...] = ()

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(part):,}" for part in self.parts)
        rest = f", {len(self.rest):,} in no part" if self.rest else ""
        return f"SavedSplit(by {self.by}: parts of {sizes} groups{rest})"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the split as a JSON file, for the owner only, in one step.

        Parameters
        ----------
        path
            The file, which is replaced where it exists.

        Raises
        ------
        StorageError
            The file cannot be written.
        """
        head = {
            "dicomdl_split": VERSION,
            "by": self.by,
            "fractions": self.fractions,
            "k": self.k,
            "stratify": self.stratify,
            "seed": self.seed,
        }
        lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
        lines.append(f'"parts": [{", ".join(map(_listed, self.parts))}]')
        lines.append(f'"rest": {_listed(self.rest)}')
        checksum = _checksum(json.loads("{" + ",".join(lines) + "}"))
        lines.insert(1, f'"{_CHECKSUM}": "{checksum}"')
        text = "{\n" + ",\n".join(lines) + "\n}\n"
        storage.write_whole(os.path.abspath(os.path.expanduser(os.fspath(path))), text.encode())


def _listed(groups: Sequence[SavedGroup]) -> str:
    """Return groups as a JSON list with a line per group, which compares well."""
    lines = [
        json.dumps({"id": g.id, "patients": g.patients, "studies": g.studies, "series": g.series})
        for g in groups
    ]
    return "[\n" + ",\n".join(lines) + "\n]" if lines else "[]"


def load_split(path: str | os.PathLike[str]) -> SavedSplit:
    """Read the file that `Split.save` wrote.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    SavedSplit
        The groups of each part, for ``index.split(keep=...)``.

    Raises
    ------
    StorageError
        The file cannot be read.
    UsageError
        The file is no split of dicomdl, is damaged, or has another format.

    Examples
    --------
    >>> import dicomdl, tempfile
    >>> from pydicom.data import get_testdata_file
    >>> with tempfile.TemporaryDirectory() as out:
    ...     index = dicomdl.scan(get_testdata_file("CT_small.dcm"), out, progress=False)
    ...     index.split((1.0,)).save(f"{out}/split.json")
    ...     dicomdl.load_split(f"{out}/split.json")
    SavedSplit(by patient: parts of 1 groups)
    """
    name = os.path.abspath(os.path.expanduser(os.fspath(path)))
    try:
        content = parsed(storage.read_whole(name))
    except StorageError:
        raise
    except ValueError as error:
        raise UsageError(f"{name!r} is no split file: it is not JSON, {error}", path=name) from None
    if not isinstance(content, dict) or "dicomdl_split" not in content:
        raise UsageError(f"{name!r} is no split file: expected what Split.save writes", path=name)
    if content["dicomdl_split"] != VERSION:
        raise UsageError(
            f"the split file {name!r} has format {content['dicomdl_split']}, expected {VERSION}: "
            "a later dicomdl wrote it",
            path=name,
        )
    try:
        return _parsed(content)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"the split file {name!r} is damaged: {type(error).__name__} {error}", path=name
        ) from None


def _checksum(content: Mapping[str, Any]) -> str:
    others = {name: value for name, value in content.items() if name != _CHECKSUM}
    return str(xxhash.xxh3_64_hexdigest(json.dumps(others, sort_keys=True).encode()))


def _parsed(content: Mapping[str, Any]) -> SavedSplit:
    if unknown := sorted(content.keys() - {_CHECKSUM, *_ENTRIES}):
        raise ValueError(f"unknown entries: {', '.join(unknown)}")
    if content.get(_CHECKSUM, _checksum(content)) != _checksum(content):
        raise ValueError(
            f"its content has another checksum; if it was edited on purpose, delete the line "
            f'"{_CHECKSUM}"'
        )
    k = content["k"]
    parts = tuple(_groups(part) for part in content["parts"])
    fractions = tuple(map(float, content["fractions"]))
    if len(fractions) != len(parts):
        raise ValueError(f"{len(parts)} parts of {len(fractions)} fractions")
    return SavedSplit(
        str(content["by"]),
        fractions,
        None if k is None else int(k),
        tuple(map(str, content["stratify"])),
        int(content["seed"]),
        parts,
        _groups(content["rest"]),
    )


def _groups(listed: Iterable[Mapping[str, Any]]) -> tuple[SavedGroup, ...]:
    return tuple(
        SavedGroup(
            str(each["id"]), *(_texts(each[name]) for name in ("patients", "studies", "series"))
        )
        for each in listed
    )


def _texts(listed: Any) -> tuple[str, ...]:
    if not isinstance(listed, list):
        raise TypeError(f"a list was expected, not {type(listed).__name__}")
    return tuple(map(str, listed))
