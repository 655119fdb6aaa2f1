"""What became of files that were sent: a ledger that a later call continues, and its summary.

The ledger is a journal of UIDs, paths and statuses. A file counts as sent to a server if a line
says so of the same instance and the same state of the file.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from dicomdl.index.text import counted
from dicomdl.jobs.network.outgoing import Outgoing, Unsent
from dicomdl.printing import printable_lines
from dicomdl.storage.journals import Journal, entries

_SHOWN: Final = 10


@dataclass(slots=True)
class Sent:
    """What became of the files of a call of `send`; it prints as a summary.

    Attributes
    ----------
    peer
        The server.
    stored
        Files that it stored now.
    present
        Files that it had stored before, by the ledger.
    warned
        {sentence: number} of stored files that the server changed.
    failed
        {path: why} of the others.
    committed
        Paths of the files that the server has committed to keep: these are safe to delete.
    not_committed
        {path: why} of files that were stored, and that it did not commit to, if it was asked.
    """

    peer: str
    stored: int = 0
    present: int = 0
    warned: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)
    committed: list[str] = field(default_factory=list)
    not_committed: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every file is stored, and committed if that was asked for."""
        return not (self.failed or self.not_committed)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "peer": self.peer,
            "stored": self.stored,
            "present": self.present,
            "warned": dict(self.warned),
            "failed": self.failed,
            "safe_to_delete": self.committed,
            "not_committed": self.not_committed,
            "ok": self.ok,
        }

    def __repr__(self) -> str:
        lines = [f"Sent: {counted(self.stored, 'files')} stored by {self.peer}"]
        lines += [f"  stored before {self.present:,}"] if self.present else []
        lines += [f"  {number:,}: {words}" for words, number in self.warned.items()]
        if self.committed:
            lines.append(f"  committed, and safe to delete: {self.committed_count}")
        lines += _listed("not committed", self.not_committed) + _listed("failed", self.failed)
        return printable_lines("\n".join(lines))

    @property
    def committed_count(self) -> str:
        """The number of committed files, in words."""
        return counted(len(self.committed), "files")


def _listed(title: str, failures: dict[str, str]) -> list[str]:
    reasons = Counter(failures.values())
    return [f"  {title} {number:,}: {why}" for why, number in reasons.most_common(_SHOWN)]


class SendLedger:
    """The ledger of one server in a journal, and the summary of this call.

    Parameters
    ----------
    path
        The journal; None for none.
    peer
        The server.
    """

    def __init__(self, path: str | None, peer: str) -> None:
        self.sent = Sent(peer)
        self._journal = None if path is None else Journal(path)
        self._before = set[tuple[Any, ...]]()
        self._committed = set[tuple[Any, ...]]()
        for entry in entries(path) if path is not None else ():
            if entry.get("peer") == peer:
                kept = {"stored": self._before, "committed": self._committed}
                if (event := str(entry.get("event"))) in kept:
                    kept[event].add(_key_of(entry))

    def has(self, item: Outgoing) -> bool:
        """Whether the server has stored a file before; it is counted then."""
        if _key_of(_facts(item)) not in self._before:
            return False
        self.sent.present += 1
        return True

    def is_committed(self, item: Outgoing) -> bool:
        """Whether the server has committed to a file before."""
        return _key_of(_facts(item)) in self._committed

    def stored(self, item: Outgoing, warning: str = "") -> None:
        """Record a file that the server stored."""
        self.sent.stored += 1
        if warning:
            self.sent.warned[warning] += 1
        self._add("stored", _facts(item), warning)

    def failed(self, item: Outgoing | Unsent, why: str) -> None:
        """Record a file that was not stored."""
        path = item.path if isinstance(item, Unsent) else item.source.path
        self.sent.failed[path] = why
        self._add("failed", {"path": path}, why)

    def committed(self, items: Iterable[Outgoing]) -> None:
        """Record files that the server has committed to."""
        for item in items:
            self.sent.committed.append(item.source.path)
            if not self.is_committed(item):
                self._add("committed", _facts(item))

    def not_committed(self, item: Outgoing, why: str) -> None:
        """Record a file that the server did not commit to."""
        self.sent.not_committed[item.source.path] = why
        self._add("not_committed", _facts(item), why)

    def close(self) -> None:
        """Flush the journal to the disk."""
        if self._journal is not None:
            self._journal.close()

    def _add(self, event: str, facts: dict[str, Any], why: str = "") -> None:
        if self._journal is not None:
            told = {"event": event, "peer": self.sent.peer, **facts}
            self._journal.add({**told, "why": why} if why else told)


def _facts(item: Outgoing) -> dict[str, Any]:
    source = item.source
    return {
        "instance": item.instance,
        "path": source.path,
        "bytes": source.size,
        "mtime_ns": source.mtime_ns,
    }


def _key_of(facts: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(facts.get(name) for name in ("instance", "path", "bytes", "mtime_ns"))
