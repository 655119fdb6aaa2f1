"""What is asked of an archive: conditions on patients, studies and series, for every protocol.

Conditions of several kinds hold together; of the values of one kind, one has to hold. An archive
may ignore a key that it does not know (PS3.4 C.2.2.1.3) and match text in a way of its own, so that
every answer is compared here, too. The conditions name patients: neither a repr nor a ledger holds
their identifiers and dates.
"""

import csv
import fnmatch
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dicomdl.errors import UsageError
from dicomdl.jobs.fetch_ledger import SeriesFound
from dicomdl.storage import publishing as storage

Texts = str | Iterable[str]
# Keys of a question, and what an answer holds, by keyword.
Keys = Mapping[str, str]
_DATES: Final = re.compile(r"(?:(\d{8})?\s*-\s*(\d{8})?|(\d{8}))")
_ISO_DAY: Final = re.compile(r"\b(\d{4})-(\d\d)-(\d\d)\b")
_UID: Final = re.compile(r"[0-9.]{1,64}")
# PS3.4 C.2.2.2.4: these stand for any text, and a backslash divides values.
_WILD: Final = re.compile(r"[*?\\\x00-\x1f]")
_ACCESSION_COLUMNS: Final = ("AccessionNumber", "accession_number", "accession")


@dataclass(frozen=True, slots=True, repr=False)
class Query:
    """Conditions on the series of an archive.

    Attributes
    ----------
    patients, accessions
        PatientID and Accession Number, as they are: without ``*`` and ``?``.
    studies, series
        UIDs.
    modalities
        Codes, such as "CT".
    descriptions
        Series Descriptions, or patterns with ``*`` and ``?``, in any case, as in `Index.select`.
    first_day, last_day
        Study Dates as YYYYMMDD; "" for no limit.
    """

    patients: tuple[str, ...] = ()
    studies: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    accessions: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    descriptions: tuple[str, ...] = ()
    first_day: str = ""
    last_day: str = ""

    @property
    def asked(self) -> dict[str, Any]:
        """The conditions without what identifies a patient: numbers of values in its place."""
        counts = {"patients": len(self.patients), "accessions": len(self.accessions)}
        told: dict[str, Any] = {name: count for name, count in counts.items() if count}
        told |= {"dates": 1} if self.first_day or self.last_day else {}
        for name in ("studies", "series", "modalities", "descriptions"):
            told |= {name: list(getattr(self, name))} if getattr(self, name) else {}
        return told

    @property
    def names_studies(self) -> bool:
        """Whether any condition but the modality says something about studies."""
        days = (self.first_day, self.last_day)
        return bool(self.patients or self.studies or self.accessions or any(days))

    def __repr__(self) -> str:
        return f"Query({', '.join(f'{name}={value!r}' for name, value in self.asked.items())})"

    def questions(self) -> Iterator[dict[str, str]]:
        """Yield the keys of each question for studies."""
        days = f"{self.first_day}-{self.last_day}"
        kinds = (("PatientID", self.patients), ("AccessionNumber", self.accessions))
        named = [[(key, value) for value in values] or [(key, "")] for key, values in kinds]
        studies = [("StudyInstanceUID", uid) for uid in self.studies or ("",)]
        modality = self.modalities[0] if len(self.modalities) == 1 else ""
        for pairs in itertools.product(*named, studies):
            keys = {**dict(pairs), "ModalitiesInStudy": modality}
            keys["StudyDate"] = "" if days == "-" else days
            yield keys

    def has_study(self, answer: Keys) -> bool:
        """Whether a study that an archive names is one of those that were asked for."""
        day = answer.get("StudyDate", "")
        return (
            _one_of(answer.get("StudyInstanceUID", ""), self.studies)
            and _one_of(answer.get("PatientID", "").strip(), self.patients)
            and _one_of(answer.get("AccessionNumber", "").strip(), self.accessions)
            and (not self.first_day or day >= self.first_day)
            and (not self.last_day or "" < day <= self.last_day)
        )

    def has_series(self, found: SeriesFound) -> bool:
        """Whether a series is one of those that were asked for."""
        return (
            _one_of(found.series, self.series)
            and _one_of(found.modality, self.modalities)
            and (
                not self.descriptions
                or any(_pattern(each).fullmatch(found.description) for each in self.descriptions)
            )
        )


def query(
    *,
    patient: Texts = (),
    study: Texts = (),
    series: Texts = (),
    accession: Texts = (),
    accessions: str = "",
    modality: Texts = (),
    description: Texts = (),
    dates: str = "",
) -> Query:
    """Return checked conditions.

    Raises
    ------
    UsageError
        There is no condition at all, or one is malformed.
    """
    days = _days(dates)
    listed = accession_numbers(accessions) if accessions else ()
    found = Query(
        _plain("patient", patient),
        _uids("study", study),
        _uids("series", series),
        tuple(dict.fromkeys((*_plain("accession", accession), *listed))),
        tuple(each.upper() for each in _plain("modality", modality)),
        _texts("description", description),
        *days,
    )
    if found == Query():
        raise UsageError(
            "no condition is given: name a patient, study, series, accession number, modality, "
            "description or dates. A description of '*' is that of every series"
        )
    return found


def accession_numbers(given: str) -> tuple[str, ...]:
    """Return the accession numbers in a column of a CSV file, each once.

    Parameters
    ----------
    given
        ``list.csv`` or ``list.csv:column``. Without a column, ``AccessionNumber``, or the only
        column, also without a title.

    Raises
    ------
    UsageError
        The file cannot be read, lacks the column, or holds no numbers.
    """
    path, column = _path_and_column(given)
    if storage.size_of(path) < 0:
        raise UsageError(f"the list {path!r} does not exist", path=path)
    try:
        text = storage.read_whole(path).decode("utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if any(row)]
    except (UnicodeDecodeError, csv.Error):
        raise UsageError(f"the list {path!r} is no CSV of UTF-8", path=path) from None
    number, first = _column_of(rows, column, path)
    numbers = [row[number].strip() for row in rows[first:] if len(row) > number]
    found = _plain("accession", [each for each in numbers if each])
    if not found:
        raise UsageError(f"the list {path!r} holds no accession numbers", path=path)
    return tuple(dict.fromkeys(found))


def _path_and_column(given: str) -> tuple[str, str]:
    path, colon, column = given.rpartition(":")
    # C:\list.csv is a path of Windows.
    if not colon or "\\" in column or "/" in column or storage.size_of(given) >= 0:
        return given, ""
    return path, column


def _column_of(rows: list[list[str]], column: str, path: str) -> tuple[int, int]:
    """Return the number of the column of accession numbers, and the first row of values."""
    titles = [each.strip() for each in rows[0]] if rows else []
    for name in (column,) if column else _ACCESSION_COLUMNS:
        if name in titles:
            return titles.index(name), 1
    if len(titles) == 1 and not column:
        return 0, 0
    # Titles of a table are no values of patients, and a table without titles is not quoted.
    wanted = column or _ACCESSION_COLUMNS[0]
    raise UsageError(
        f"the list {path!r} has no column {wanted!r}: name one, list.csv:COLUMN", path=path
    )


def _texts(name: str, given: Texts) -> tuple[str, ...]:
    values = (given,) if isinstance(given, str) else tuple(given)
    if not all(isinstance(value, str) for value in values):
        raise UsageError(f"{name} is text, or a list of texts")
    return tuple(dict.fromkeys(value.strip() for value in values if value.strip()))


def _plain(name: str, given: Texts) -> tuple[str, ...]:
    """Return texts that an archive cannot take for a pattern; the message quotes none of them."""
    values = _texts(name, given)
    if any(_WILD.search(value) for value in values):
        raise UsageError(
            f"{name} has a value with *, ?, a backslash or a control character: it would match "
            "more than itself (PS3.4 C.2.2.2.4)"
        )
    return values


def _uids(name: str, given: Texts) -> tuple[str, ...]:
    values = _texts(name, given)
    for value in values:
        if not _UID.fullmatch(value):
            raise UsageError(f"{name}={value!r} is no UID: digits and dots, at most 64")
    return values


def _days(text: str) -> tuple[str, str]:
    """Return the first and the last day of a range; the message does not quote it."""
    plain = _ISO_DAY.sub(r"\1\2\3", text.strip())
    match = _DATES.fullmatch(plain)
    if not text.strip():
        return "", ""
    if match is None or plain == "-":
        raise UsageError(
            "dates are a day or a range: YYYYMMDD, YYYYMMDD-YYYYMMDD, YYYYMMDD- or -YYYYMMDD"
        )
    first, last, only = (each or "" for each in match.groups())
    if first and last and first > last:
        raise UsageError("the range of dates ends before it begins")
    return (only, only) if only else (first, last)


def _one_of(value: str, wanted: tuple[str, ...]) -> bool:
    """Whether a value is one of those wanted.

    These keys come back with every answer (PS3.4 table C.6-5, PS3.18 tables 10.6.3-3 and -4). A
    blank one is another value: an archive that ignores a key would send all that it has.
    """
    return not wanted or value in wanted


def _pattern(text: str) -> re.Pattern[str]:
    """Return a description or pattern as `Index.select` reads it: brackets are part of it."""
    return re.compile(fnmatch.translate(text.replace("[", "[[]")), re.IGNORECASE | re.DOTALL)
