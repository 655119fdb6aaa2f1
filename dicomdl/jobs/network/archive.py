"""What `fetch` needs of an archive, whatever its protocol."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from dicomdl.jobs.fetch_ledger import SeriesFound
from dicomdl.jobs.network.query import Keys

# The whole bytes of a file that came (PS3.10 7).
Take = Callable[[bytes], None]


class Wanted(NamedTuple):
    """What is asked for of one series.

    Attributes
    ----------
    found
        The series.
    instances
        SOP Instance UIDs; () for all that the archive has.
    """

    found: SeriesFound
    instances: tuple[str, ...] = ()


class Archive(Protocol):
    """A connection to an archive of one thread; `str` names it without a secret."""

    def studies(self, keys: Keys) -> Iterator[dict[str, str]]:
        """Yield the studies that match some keys: the keys of each, and its UID."""

    def series(self, study: str) -> Iterator[SeriesFound]:
        """Yield the series of a study."""

    def named(self, series: str) -> Sequence[SeriesFound] | None:
        """Return the series of a UID without knowing its study; () where there is none.

        None, or a NetworkError, says nothing: not every archive finds series in this way.
        """

    def instances(self, found: SeriesFound) -> Sequence[str]:
        """Return the SOP Instance UIDs of a series."""

    def retrieve(self, wanted: Wanted, take: Take) -> None:
        """Ask for instances, and hand out each file as it comes.

        Raises
        ------
        NetworkError
            The archive refuses, stalls or goes away; some files may have been handed out.
        """

    def close(self) -> None:
        """Close the connection."""
