"""What became of a recipe: the ledger that `prepare` returns, and the record that it leaves."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from dicomdl.errors import StorageError, UsageError
from dicomdl.index.text import counted
from dicomdl.printing import printable_lines
from dicomdl.storage import publishing as storage
from dicomdl.storage.checksums import sealed, unsealed

# The record of a prepared data set, in its folder.
RECORD: Final = ".prepared.json"
_OURS: Final = ".prepared."
# Refused samples that the repr lists.
_LISTED: Final = 20
Status = Literal["prepared", "unchanged", "planned"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a recipe found, prepared and left out; it prints as a ledger.

    Attributes
    ----------
    out
        The folder of the data set.
    name, to
        The name of the data set, and its format.
    status
        "prepared"; "unchanged", where an earlier call had made the same; or "planned", for a dry
        run.
    found
        Files by kind, and the numbers of patients, studies, series, stacks and frames.
    problems
        {reason: number of files} of files that could not be used.
    left_out
        {why stacks are left out: their number}.
    samples
        {name of the part of the split: number of samples}.
    refused
        Samples that could not be made: `stacks`, `series_instance_uid` and `reason`.
    files
        The files, below the folder; empty for a dry run.
    partitions
        The number of partitions.
    fingerprint
        The fingerprint of the data card; "" without one.
    repaired
        {repair of the recipe: number of frames}.
    remarks
        {what samples lost, such as overlapping labels: their number}.
    """

    out: str
    name: str
    to: str
    status: Status
    found: Mapping[str, int]
    problems: Mapping[str, int]
    left_out: Mapping[str, int]
    samples: Mapping[str, int]
    refused: tuple[dict[str, Any], ...] = ()
    files: tuple[str, ...] = ()
    partitions: int = 0
    fingerprint: str = ""
    repaired: Mapping[str, int] = field(default_factory=dict)
    remarks: Mapping[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every sample was made and every file could be used."""
        return not self.refused and not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self) | {"refused": list(self.refused), "files": list(self.files)}

    def __repr__(self) -> str:
        kinds = {name: self.found.get(name, 0) for name in ("files", "series", "stacks")}
        parts = ", ".join(f"{count} {name}" for name, count in self.samples.items())
        total = counted(sum(self.samples.values()), "samples")
        word = {"prepared": "Prepared", "unchanged": "Unchanged", "planned": "Would prepare"}
        lines = [f"{word[self.status]}: {self.name}, {total} ({parts}) for {self.to} in {self.out}"]
        lines.append(f"  found     {', '.join(counted(n, name) for name, n in kinds.items())}")
        lines += [f"  left out  {counted(n, 'stacks')}: {why}" for why, n in self.left_out.items()]
        lines += [
            f"  repaired  {counted(n, 'frames')}: {repair}" for repair, n in self.repaired.items()
        ]
        lines += [
            f"  lost      {counted(n, 'samples')}: {lost}" for lost, n in self.remarks.items()
        ]
        lines += [
            f"  problem   {counted(n, 'files')}: {reason}" for reason, n in self.problems.items()
        ]
        lines += [
            f"  refused   stack {each['stacks'][0]}: {each['reason']}"
            for each in self.refused[:_LISTED]
        ]
        if len(self.refused) > _LISTED:
            lines.append(f"  refused   ... and {len(self.refused) - _LISTED} more")
        if self.status == "planned":
            lines.append(f"  in {counted(self.partitions, 'partitions')}")
        if self.fingerprint:
            lines.append(f"  fingerprint {self.fingerprint}")
        return printable_lines("\n".join(lines))


@dataclass(frozen=True, slots=True)
class Record:
    """The record of a data set: what it was made of, and its files.

    Attributes
    ----------
    recipe
        A digest of recipe and data folder; another one is another data set.
    state
        A digest of all inputs; "" while the files are written.
    files
        {path below the folder: bytes}.
    ledger
        What `Prepared.to_dict` gave.
    """

    recipe: str
    state: str
    files: Mapping[str, int]
    ledger: Mapping[str, Any] = field(default_factory=dict)


def read_record(out: str) -> Record | None:
    """Return the record of the data set in a folder; None without one, or for a damaged one."""
    try:
        return Record(**unsealed(storage.read_whole(os.path.join(out, RECORD)))[0])
    except (ValueError, TypeError):
        return None


def write_record(out: str, record: Record) -> None:
    """Write the record of a data set."""
    storage.write_whole(os.path.join(out, RECORD), sealed(asdict(record)))


def is_complete(out: str, record: Record) -> bool:
    """Whether all files of a record are there, with their sizes."""
    return all(
        storage.size_of(os.path.join(out, path)) == size for path, size in record.files.items()
    )


def prepared_of(record: Record) -> Prepared:
    """Return the ledger of a record, for a call that found nothing to do."""
    told = dict(record.ledger)
    told |= {"refused": tuple(told["refused"]), "files": tuple(told["files"])}
    return Prepared(**{**told, "status": "unchanged"})


def require_free(out: str, recipe: str, *, overwrite: bool) -> None:
    """Raise UsageError unless a folder is free for the data set of a recipe.

    Raises
    ------
    UsageError
        It has other files, or the data set of another recipe.
    StorageError
        It cannot be read.
    """
    if not os.path.lexists(out) or overwrite:
        return
    if not os.path.isdir(out):
        raise UsageError(f"{out!r} is a file: name a folder for the data set", path=out)
    record = read_record(out)
    if record is None:
        try:
            others = sorted(name for name in os.listdir(out) if not name.startswith(_OURS))
        except OSError as error:
            raise StorageError(f"{out!r} cannot be read: {error.strerror}", path=out) from error
        if others:
            raise UsageError(
                f"{out!r} has other files, the first is {others[0]!r}: name an empty folder, or "
                "pass overwrite=True",
                path=out,
            )
    elif record.recipe != recipe:
        raise UsageError(
            f"{out!r} has the data set of another recipe, of other options or of other data: name "
            "another folder, or pass overwrite=True",
            path=out,
        )


def refused_of(entries: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Return what the ledger says of the refused samples of an export."""
    names = ("stacks", "series_instance_uid", "reason")
    return tuple(
        {name: entry[name] for name in names} for entry in entries if entry["status"] == "refused"
    )


def samples_of(entries: list[dict[str, Any]], parts: Sequence[str]) -> dict[str, int]:
    """Count the written samples of an export per part of the split."""
    counts = Counter(entry["split"] for entry in entries if entry["status"] == "written")
    return {part: counts[part] for part in parts}


def plain_json(value: Any) -> Any:
    """Return a value as JSON gives it back."""
    return json.loads(json.dumps(value))
