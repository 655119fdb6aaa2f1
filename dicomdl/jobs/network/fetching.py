"""Fetch: series of an archive into a folder laid out by UIDs, each file whole or not at all.

A series is the unit of work; several are fetched at once, over an association or connection each.
What came is looked at before it is placed: an instance of another series is refused. What is
missing is asked for again after a pause, and then alone. The ledger holds every file, so that a
fetch which is started again asks for nothing that lies in the folder with the recorded size. A file
has its name, and its line in the ledger, when its bytes are on the disk.
"""

import functools
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from dicomdl.errors import HeaderError, NetworkError, UsageError
from dicomdl.index.index import Index
from dicomdl.index.text import counted
from dicomdl.jobs.fetch_ledger import Ledger, SeriesFound, SeriesState, unrecorded
from dicomdl.jobs.network.archive import Archive, Wanted
from dicomdl.jobs.network.finding import FoundSeries
from dicomdl.jobs.network.placing import Identity, Placing, identity_of, path_of
from dicomdl.jobs.network.writing import Batch, Writers
from dicomdl.printing import printable_lines

# The first pause between two tries; each further one is twice as long.
_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0
_SHOWN_FAILURES: Final = 20
# Files that are written together, at most one more: what a kill may cost.
_TOGETHER_BYTES: Final = 2**20
# Refused instances of a series that the ledger names; more are counted.
_NAMED_REFUSALS: Final = 100


@dataclass(frozen=True, slots=True, repr=False)
class Fetched:
    """What became of a fetch; it prints as a ledger.

    Attributes
    ----------
    folder
        The folder of the files.
    ledger
        The path of the ledger, JSON lines.
    archive
        The archive, without secrets.
    series, promised
        The number of series, and of instances that the archive promised.
    fetched
        Instances that came now.
    present
        Instances that were in the folder before.
    failed
        Instances that were promised and did not come.
    refused
        {why: number} of what came and was left out: of other series, unreadable.
    twice
        Instances that came with other bytes than those in the folder; both are kept.
    reasons
        {why: number} of `failed`.
    index
        The index of the folder, if one was asked for.
    """

    folder: str
    ledger: str
    archive: str
    series: int
    promised: int
    fetched: int
    present: int
    failed: int
    refused: dict[str, int]
    twice: int
    reasons: dict[str, int]
    index: Index | None = None

    @property
    def ok(self) -> bool:
        """Whether all that was promised is here, and nothing else came."""
        return not (self.failed or self.refused or self.twice)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        told = {each.name: getattr(self, each.name) for each in fields(self)}
        return told | {"ok": self.ok, "index": None if self.index is None else self.index.path}

    def with_index(self, index: Index) -> "Fetched":
        """Return this with the index of the folder."""
        return replace(self, index=index)

    def __repr__(self) -> str:
        lines = [
            f"Fetched: {counted(self.fetched, 'instances')} of {counted(self.series, 'series')} "
            f"from {self.archive} into {self.folder}"
        ]
        lines += [f"  there before  {self.present:,}"] if self.present else []
        if self.failed:
            lines.append(
                f"  not delivered {self.failed:,} of {self.promised:,}: call again to ask for them"
            )
        shown = list(self.reasons.items())[:_SHOWN_FAILURES]
        lines += [f"    {count:,}: {why}" for why, count in shown]
        lines += [f"  refused {count:,}: {why}" for why, count in self.refused.items()]
        if self.twice:
            lines.append(f"  kept twice {self.twice:,}: they came with other bytes")
        return printable_lines("\n".join([*lines, f"  ledger {self.ledger}"]))


@dataclass
class Tally:
    """Counts of a fetch, which its threads add to."""

    fetched: int = 0
    present: int = 0
    failed: int = 0
    twice: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, **counts: int) -> None:
        """Add to some counts."""
        with self.lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)


class Stopped(Exception):
    """Another thread has failed, or the user has interrupted."""


@dataclass(frozen=True, slots=True)
class Fetching:
    """A fetch while it runs.

    Attributes
    ----------
    connect
        Opens a connection to the archive, for one thread.
    placing, writers, ledger
        Where files go, what writes them, and what is recorded.
    tries
        How often what is missing is asked for in vain.
    tick
        Called with the number of instances that have come.
    """

    connect: Callable[[], Archive]
    placing: Placing
    writers: Writers
    ledger: Ledger
    tries: int
    tick: Callable[[int], object]
    tally: Tally = field(default_factory=Tally)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, series: Iterable[SeriesFound], jobs: int) -> None:
        """Fetch series, the largest first, `jobs` of them at once.

        Raises
        ------
        StorageError
            The disk is full, or the folder cannot be written.
        """
        known = self.ledger.states()
        ordered = sorted(series, key=lambda each: -each.instances)
        local = threading.local()
        opened: list[Archive] = []

        def work(found: SeriesFound) -> None:
            if not hasattr(local, "archive"):
                local.archive = self.connect()
                opened.append(local.archive)
            _OneSeries(self, local.archive, found, known.get(found.series)).fetch()

        pool = ThreadPoolExecutor(jobs, "dicomdl-fetch")
        try:
            running = [pool.submit(work, found) for found in ordered]
            done, _ = wait(running, return_when=FIRST_EXCEPTION)
            for each in done:
                each.result()
        finally:
            self.stop.set()
            pool.shutdown(cancel_futures=True)
            for archive in opened:
                archive.close()

    def result(self, found: FoundSeries) -> Fetched:
        """Return what became of the fetch of what was found."""
        tally = self.tally
        return Fetched(
            self.placing.folder,
            self.ledger.path,
            found.archive,
            len(found),
            found.instances,
            tally.fetched,
            tally.present,
            tally.failed,
            dict(tally.refused),
            tally.twice,
            dict(tally.reasons),
        )


class _OneSeries:
    """One series: what is missing of it, what came, and what did not."""

    def __init__(
        self, fetching: Fetching, archive: Archive, found: SeriesFound, state: SeriesState | None
    ) -> None:
        self._all, self._archive, self._found = fetching, archive, found
        self._folder = os.path.dirname(path_of(Identity("", found.study, found.series, "0")))
        self._state = state or SeriesState(found, self._folder)
        self._here = {uid: size for uid, (_, size) in self._state.files.items()}
        self._listed: tuple[str, ...] = ()
        # Instances that were here before the present request.
        self._before = frozenset(self._here)
        self._refused = 0
        self._lock = threading.Lock()

    def fetch(self) -> None:
        """Ask until all is here, or nothing more comes."""
        self._all.ledger.add_found(self._found, self._folder)
        left = unrecorded(self._all.placing.folder, self._state)
        self._all.ledger.add_fetched(self._found, left)
        self._here |= {uid: size for uid, (_, size) in left.items()}
        present = len(self._here)
        self._all.tick(present)
        why, attempt = "the archive did not send it, and gave no reason", 0
        while not self._is_complete() and attempt < self._all.tries:
            before = len(self._here)
            failure = self._ask()
            if failure is not None:
                why = str(failure)
            if self._is_complete() or (failure is not None and not failure.is_transient):
                break
            attempt = attempt + 1 if len(self._here) == before else 0
            if attempt < self._all.tries:
                self._pause(attempt)
        self._all.tally.add(fetched=len(self._here) - present, present=present)
        self._record_failures(why)

    def _ask(self) -> NetworkError | None:
        """Ask once for what is missing; return what went wrong."""
        failure = None
        self._before = frozenset(self._here)
        try:
            wanted = Wanted(self._found, self._missing())
            with self._all.writers.batch() as batch:
                coming = _Coming(batch, self._place)
                try:
                    self._archive.retrieve(wanted, lambda data: self._take(data, coming))
                finally:
                    coming.flush()
        except NetworkError as error:
            failure = error
        if not self._is_complete():
            # Its count may be unknown, or wrong.
            try:
                self._missing(anew=True)
            except NetworkError as error:
                failure = failure or error
        return failure

    def _is_complete(self) -> bool:
        if self._listed:
            return self._here.keys() >= set(self._listed)
        return 0 <= self._found.instances <= len(self._here)

    def _missing(self, *, anew: bool = False) -> tuple[str, ...]:
        """Return the instances to ask for; () for all, which needs no list of them."""
        if not (self._here or self._listed or anew):
            return ()
        if not self._listed:
            self._listed = tuple(uid for uid in self._archive.instances(self._found) if uid)
        return tuple(uid for uid in self._listed if uid not in self._here)

    def _take(self, data: bytes, coming: "_Coming") -> None:
        """Begin to place a file that came."""
        if self._all.stop.is_set():
            raise Stopped
        try:
            identity = identity_of(data)
        except HeaderError:
            self._refuse("the data set cannot be read")
            return
        if (identity.study, identity.series) != (self._found.study, self._found.series):
            self._refuse("an instance of another study or series than was asked for")
            return
        if not identity.instance:
            self._refuse("an instance without a SOP Instance UID")
            return
        # A series is asked for as a whole where much of it is missing.
        if identity.instance not in self._before:
            coming.add(data, identity)

    def _place(self, files: list[tuple[bytes, Identity]]) -> None:
        """Place files, and record them."""
        placed: dict[str, tuple[str, int]] = {}
        try:
            for data, identity in files:
                found = self._all.placing.put(data, identity)
                placed.setdefault(identity.instance, (found.path, len(data)))
                if found.outcome == "differs":
                    self._all.tally.add(twice=1)
        finally:
            with self._lock:
                new = {uid: placed[uid] for uid in placed if uid not in self._here}
                self._here |= {uid: size for uid, (_, size) in new.items()}
            self._all.ledger.add_fetched(self._found, new)
            self._all.tick(len(new))

    def _refuse(self, why: str) -> None:
        with self._all.tally.lock:
            self._all.tally.refused[why] += 1
        self._refused += 1
        if self._refused <= _NAMED_REFUSALS:
            self._all.ledger.add_refused(self._found, why)

    def _pause(self, tries: int) -> None:
        """Wait, twice as long after each try, unless the fetch has been stopped."""
        pause_s = min(_PAUSE_S * 2**tries, _LONGEST_PAUSE_S) * random.uniform(0.75, 1.25)
        if self._all.stop.wait(pause_s):
            raise Stopped

    def _record_failures(self, why: str) -> None:
        if self._is_complete():
            return
        missing = [uid for uid in self._listed if uid not in self._here]
        for uid in missing or [""]:
            self._all.ledger.add_failed(self._found, uid, why)
        count = len(missing) or max(1, self._found.instances - len(self._here))
        self._all.tally.add(failed=count)
        with self._all.tally.lock:
            self._all.tally.reasons[why] += count


class _Coming:
    """Files of one answer that have come: small ones are written several at a time."""

    def __init__(
        self, batch: Batch, place: Callable[[list[tuple[bytes, Identity]]], object]
    ) -> None:
        self._batch, self._place = batch, place
        self._files: list[tuple[bytes, Identity]] = []
        self._bytes = 0

    def add(self, data: bytes, identity: Identity) -> None:
        """Take a file, and begin to write those that have come if they are many bytes."""
        self._files.append((data, identity))
        self._bytes += len(data)
        if self._bytes >= _TOGETHER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Begin to write the files that have come."""
        files, size = self._files, self._bytes
        self._files, self._bytes = [], 0
        if files:
            self._batch.add(size, functools.partial(self._place, files))


def require_folder(folder: str | os.PathLike[str]) -> str:
    """Return the absolute path of a folder for files.

    Raises
    ------
    UsageError
        A file has the name.
    """
    target = os.path.abspath(os.path.expanduser(os.fspath(folder)))
    if os.path.exists(target) and not os.path.isdir(target):
        raise UsageError(f"{target!r} is a file: name a folder", path=target)
    return target
