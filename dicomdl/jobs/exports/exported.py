"""What became of the samples of an export: the ledger that `export` returns."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dicomdl.errors import DicomdlWarning
from dicomdl.index.text import counted
from dicomdl.printing import printable_lines

# The key of an entry for what its sample lost, as texts.
REMARKS: Final = "remarks"
# Refused samples that the repr lists.
_LISTED: Final = 20


class ExportWarning(DicomdlWarning):
    """Warning that an export wrote samples which lost something; `Exported.remarks` counts them."""


def remarks_of(entries: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return {what samples lost: their number} of the written entries of an export."""
    written = (entry for entry in entries if entry["status"] == "written")
    return dict(Counter(lost for entry in written for lost in entry.get(REMARKS, ())))


@dataclass(frozen=True, slots=True)
class Exported:
    """What became of every sample of an export; it prints as a summary.

    Attributes
    ----------
    out
        The output folder.
    to
        The format.
    entries
        One dict per sample, in the order of the index: `key`, `name`, `status` ("written" or
        "refused"), `reason`, `stacks`, `series_instance_uid`, `split`, `fold`, and `files` with
        sizes and hashes; `remarks` where the sample lost something.
    published
        The files that describe all samples, below the output folder.
    left_out
        {why stacks are no samples: their number}.
    """

    out: str
    to: str
    entries: tuple[dict[str, Any], ...]
    published: tuple[str, ...] = ()
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def refused(self) -> list[dict[str, Any]]:
        """The entries of samples that were not written, with the reason."""
        return [entry for entry in self.entries if entry["status"] == "refused"]

    @property
    def counts(self) -> dict[str, int]:
        """The number of written samples per part of the split."""
        return dict(Counter(e["split"] for e in self.entries if e["status"] == "written"))

    @property
    def remarks(self) -> dict[str, int]:
        """{what written samples lost, such as overlapping labels: their number}."""
        return remarks_of(self.entries)

    @property
    def ok(self) -> bool:
        """Whether every sample was written."""
        return not self.refused

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "out": self.out,
            "to": self.to,
            "counts": self.counts,
            "published": list(self.published),
            "left_out": dict(self.left_out),
            "remarks": self.remarks,
            "entries": [dict(entry) for entry in self.entries],
        }

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        total = counted(sum(self.counts.values()), "samples")
        lines = [f"Export to {self.to}: {total} ({counts}) in {self.out}"]
        if self.published:
            lines.append(f"  described by {', '.join(self.published)}")
        lines += [f"  left out: {n} stacks, {reason}" for reason, n in self.left_out.items()]
        lines += [f"  {counted(n, 'samples')}: {lost}" for lost, n in self.remarks.items()]
        refused = self.refused
        lines += [
            f"  stack {entry['stacks'][0]} refused: {entry['reason']}"
            for entry in refused[:_LISTED]
        ]
        if len(refused) > _LISTED:
            lines.append(f"  ... and {len(refused) - _LISTED} more refused")
        return printable_lines("\n".join(lines))
