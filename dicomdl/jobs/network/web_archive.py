"""DICOMweb archives: QIDO-RS finds (PS3.18 10.6), WADO-RS retrieves (PS3.18 10.4).

Requests go through the sessions of `storage.dicomweb`, which stream the parts of an answer.
dicomweb-client holds each part several times in memory, and writes the URL of a query, with the
PatientID in it, into its log and its errors. Files are asked for as they are stored
(``transfer-syntax=*``) and without compression on the way, which costs Orthanc ten times as long as
reading them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from dicomdl.errors import NetworkError, PeerFailure
from dicomdl.jobs.fetch_ledger import SeriesFound
from dicomdl.jobs.network.archive import Take, Wanted
from dicomdl.jobs.network.query import Keys
from dicomdl.storage.dicomweb import Session, WebError

_PAGE: Final = 1000
# A series, and one instance: 4 GiB is the most that an element may hold (PS3.5 7.1).
_MOST_SERIES_BYTES: Final = 2**42
MOST_FILE_BYTES: Final = 2**32
# Instances of a series that are asked for one by one; more are asked for as a series.
_FEW: Final = 0.25
_TAGS: Final[Mapping[str, str]] = {
    "AccessionNumber": "00080050",
    "Modality": "00080060",
    "NumberOfSeriesRelatedInstances": "00201209",
    "PatientID": "00100020",
    "SOPInstanceUID": "00080018",
    "SeriesDescription": "0008103E",
    "SeriesInstanceUID": "0020000E",
    "StudyDate": "00080020",
    "StudyInstanceUID": "0020000D",
}


# What a server need not tell of a series unless it is asked for.
_OF_SERIES: Final = ("SeriesDescription", "NumberOfSeriesRelatedInstances")


class WebArchive:
    """A DICOMweb server.

    Parameters
    ----------
    session
        Its session.
    transfer_syntax
        UID that files are asked for in; "*" for the one that they are stored in.
    """

    def __init__(self, session: Session, transfer_syntax: str = "*") -> None:
        self._session = session
        self._accept = (
            f'multipart/related; type="application/dicom"; transfer-syntax={transfer_syntax}'
        )

    def __str__(self) -> str:
        return self._session.base

    def studies(self, keys: Keys) -> Iterator[dict[str, str]]:
        """Yield the studies that match some keys."""
        given = [(key, value) for key, value in keys.items() if value]
        wanted = [("includefield", _TAGS["AccessionNumber"])]
        for answer in self._pages("/studies", [*given, *wanted]):
            yield {
                name: _text(answer, name) for name in ("StudyInstanceUID", *keys) if name in _TAGS
            }

    def series(self, study: str) -> Iterator[SeriesFound]:
        """Yield the series of a study."""
        for answer in self._pages(f"/studies/{study}/series", _fields(_OF_SERIES)):
            yield _series(study, answer)

    def named(self, series: str) -> Sequence[SeriesFound] | None:
        """Return the series of a UID (All Series, PS3.18 10.6).

        None where the server ignores the key, or does not name the study.
        """
        fields = _fields(("StudyInstanceUID", "Modality", *_OF_SERIES))
        answers = list(self._pages("/series", [("SeriesInstanceUID", series), *fields]))
        found = [each for each in answers if _text(each, "SeriesInstanceUID") == series]
        studies = [_text(each, "StudyInstanceUID") for each in found]
        is_told = len(found) == len(answers) and "" not in studies
        return None if not is_told else list(map(_series, studies, found))

    def instances(self, found: SeriesFound) -> Sequence[str]:
        """Return the SOP Instance UIDs of a series."""
        answers = self._pages(f"{_place(found)}/instances", [])
        return list(dict.fromkeys(_text(answer, "SOPInstanceUID") for answer in answers))

    def retrieve(self, wanted: Wanted, take: Take) -> None:
        """Ask for a series as a whole, or for a few of its instances one by one."""
        found, instances = wanted
        place = _place(found)
        if not instances or len(instances) > _FEW * found.instances:
            self._stream(place, take, _MOST_SERIES_BYTES)
            return
        for instance in instances:
            self._stream(f"{place}/instances/{instance}", take, MOST_FILE_BYTES)

    def close(self) -> None:
        """Nothing to do: the session of the process stays open."""

    def _stream(self, path: str, take: Take, most_bytes: int) -> None:
        try:
            with self._session.parts(path, self._accept, most_bytes=most_bytes) as parts:
                for part in parts:
                    take(part.read(MOST_FILE_BYTES))
        except WebError as error:
            raise as_network_error(error, self) from None

    def _pages(self, path: str, query: list[tuple[str, str]]) -> Iterator[Any]:
        """Yield the answers of a search, a page at a time (PS3.18 8.3.4.4)."""
        offset, seen = 0, set[str]()
        while True:
            page = [("limit", str(_PAGE)), ("offset", str(offset))]
            try:
                answers = self._session.json(path, [*query, *page])
            except WebError as error:
                raise as_network_error(error, self) from None
            fresh = [answer for answer in answers if (key := _key(answer)) and key not in seen]
            seen.update(map(_key, fresh))
            yield from fresh
            offset += len(answers)
            # A server that knows no offset gives the same answers again.
            if len(answers) < _PAGE or not fresh:
                return


def as_network_error(error: WebError, archive: object) -> NetworkError:
    """Return the error for a request that failed."""
    words = f"{archive}: {error.strerror}"
    if error.status:
        return PeerFailure(words, status=error.status, is_transient=error.is_transient)
    return NetworkError(words, is_transient=error.is_transient)


def _place(found: SeriesFound) -> str:
    return f"/studies/{found.study}/series/{found.series}"


def _fields(names: Sequence[str]) -> list[tuple[str, str]]:
    return [("includefield", _TAGS[name]) for name in names]


def _series(study: str, answer: Any) -> SeriesFound:
    """Return a series of an answer."""
    count = _text(answer, "NumberOfSeriesRelatedInstances")
    return SeriesFound(
        study,
        _text(answer, "SeriesInstanceUID"),
        _text(answer, "Modality"),
        _text(answer, "SeriesDescription"),
        int(count) if count.isdecimal() else -1,
    )


def _key(answer: Any) -> str:
    names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    return "/".join(_text(answer, name) for name in names).strip("/")


def _text(answer: Any, name: str) -> str:
    """Return the first value of an attribute in the DICOM JSON model; "" without one."""
    try:
        return str(answer[_TAGS[name]]["Value"][0]).strip()
    except (KeyError, IndexError, TypeError):
        return ""
