"""Which series of an archive meet a query: studies first, then the series of each.

Two steps hold for every archive: a DIMSE server need not find series without their study (PS3.4
C.4.1.2.1), and a DICOMweb server need not either (PS3.18 table 10.6.1-5). Where nothing is said
about the study, the first step lists all studies; series of known UIDs are asked for by these
before, and only those are looked for in the listing that the archive said nothing about.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from dicomdl.errors import NetworkError, UsageError
from dicomdl.index.text import counted
from dicomdl.jobs.fetch_ledger import SeriesFound
from dicomdl.jobs.network.archive import Archive
from dicomdl.jobs.network.query import Query
from dicomdl.printing import printable_lines

_SHOWN: Final = 50


@dataclass(frozen=True, slots=True, repr=False)
class FoundSeries:
    """The series of an archive that meet a query; it prints as a table without identities.

    Attributes
    ----------
    archive
        The archive, without secrets.
    series
        The series, in order of their UIDs. Each has `study`, `series`, `modality`, `description`
        and `instances`, which is -1 where the archive does not say.
    other_studies
        Studies that the archive gave although they were not asked for; they are left out.
    """

    archive: str
    series: tuple[SeriesFound, ...]
    other_studies: int = 0

    def __len__(self) -> int:
        return len(self.series)

    @property
    def instances(self) -> int:
        """The number of instances, as far as the archive says."""
        return sum(max(0, each.instances) for each in self.series)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "archive": self.archive,
            "studies": len({each.study for each in self.series}),
            "series": [each._asdict() for each in self.series],
            "instances": self.instances,
            "other_studies": self.other_studies,
        }

    def __repr__(self) -> str:
        studies = len({each.study for each in self.series})
        lines = [
            f"Found: {counted(len(self), 'series')} of {counted(studies, 'studies')}, "
            f"{counted(self.instances, 'instances')} in {self.archive}"
        ]
        modalities = Counter(each.modality or "(none)" for each in self.series).most_common()
        if modalities:
            lines.append("  " + ", ".join(f"{count} {name}" for name, count in modalities))
        for each in self.series[:_SHOWN]:
            count = "?" if each.instances < 0 else f"{each.instances:,}"
            lines.append(f"  {each.modality:<4}{count:>7}  {each.series}  {each.description}")
        if len(self) > _SHOWN:
            lines.append(f"  ... and {len(self) - _SHOWN:,} more series")
        if self.other_studies:
            studies_left = counted(self.other_studies, "studies")
            lines.append(f"  left out, because they were not asked for: {studies_left}")
        return printable_lines("\n".join(lines))


def found_in(archive: Archive, query: Query) -> FoundSeries:
    """Return the series of an archive that meet a query.

    Raises
    ------
    NetworkError
        The archive cannot be asked.
    UsageError
        A series is asked for without anything about its study, and the archive does not find it.
    """
    named = {} if query.names_studies else _named(archive, query.series)
    series = {uid: each for uid, each in named.items() if each and query.has_series(each)}
    left = tuple(uid for uid in query.series if uid not in named)
    listed, others = dict[str, SeriesFound](), 0
    if left or not query.series:
        listed, others = _listed(archive, replace(query, series=left))
    return FoundSeries(
        str(archive),
        tuple(sorted({**series, **listed}.values(), key=lambda each: (each.study, each.series))),
        others,
    )


def _named(archive: Archive, uids: tuple[str, ...]) -> dict[str, SeriesFound | None]:
    """Return the series of UIDs, None for those that the archive does not have.

    Those are left out that the archive says nothing about, and all after the first of them: they
    are looked for in the listing then.
    """
    named = dict[str, SeriesFound | None]()
    for uid in uids:
        try:
            found = archive.named(uid)
        except NetworkError:
            break
        if found is None:
            break
        named[uid] = found[0] if found else None
    return named


def _listed(archive: Archive, query: Query) -> tuple[dict[str, SeriesFound], int]:
    """Return the series of a listing of studies, and how many studies were not asked for."""
    studies, others = dict[str, None](), set[str]()
    for keys in query.questions():
        for answer in archive.studies(keys):
            uid = answer.get("StudyInstanceUID", "")
            if uid and query.has_study(answer):
                studies[uid] = None
            elif uid:
                others.add(uid)
    series = {each.series: each for each in _series_of(archive, studies, query)}
    return series, len(others.difference(studies))


def _series_of(archive: Archive, studies: dict[str, None], query: Query) -> Iterator[SeriesFound]:
    wanted = set(query.series)
    for study in studies:
        for found in archive.series(study):
            if found.series and query.has_series(found):
                yield found
                wanted.discard(found.series)
        if query.series and not wanted:
            return


def require_some(found: FoundSeries) -> None:
    """Raise UsageError where nothing was found."""
    if not len(found):
        raise UsageError(
            f"{found.archive} has no series that meets every condition: loosen one, or see what is "
            "there with --list"
        )
