"""Roots that are DICOMweb servers: their series by QIDO-RS, and the metadata of each by WADO-RS.

    dicomweb+https://host/dicom-web                         all series of the service
    dicomweb+https://host/dicom-web/studies/UID             those of a study
    dicomweb+https://host/dicom-web/studies/UID/series/UID  one
    dicomweb+https://host/dicom-web?Modality=CT             those that match

The metadata of a series come in one answer. An instance whose metadata are as before is not
described again.
"""

import errno
import json
import os
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from dicomdl.errors import HeaderError, StorageError, UsageError
from dicomdl.headers.limits import ReadLimits
from dicomdl.headers.web import described, known_source, metadata_hash
from dicomdl.storage.dicomweb import WebError, plain_url, session_of
from dicomdl.storage.folders import Walk
from dicomdl.storage.sources import Source, each_of

_UID: Final = re.compile(r"[0-9][0-9.]{0,63}")
_PATH: Final = re.compile(r"(/studies/[0-9.]{1,64}(/series/[0-9.]{1,64})?)?")
# Keys that identify nobody: the filter is a part of the root, which the index stores.
_KEYS: Final = frozenset(
    {
        *("Modality", "ModalitiesInStudy", "BodyPartExamined", "StudyDate", "SeriesNumber"),
        *("StudyInstanceUID", "SeriesInstanceUID", "SeriesDescription", "StudyDescription"),
    }
)
_PAGE: Final = 500
# Series whose metadata are in memory at once.
_SERIES_AHEAD: Final = 4
# Metadata of one series, in multiples of the limit on one header.
_MOST_SERIES_LIMITS: Final = 4
_MOST_SERIES: Final = 1_000_000
_STUDY, _SERIES, _INSTANCE = "0020000D", "0020000E", "00080018"
_AVAILABLE_SYNTAX: Final = "00083002"
# No file has a negative device.
_DEVICE: Final = -4


def checked_service(given: str) -> str:
    """Return the location of a root, with its filter in a fixed order.

    Raises
    ------
    UsageError
        The URL has a password, leads to anything but a service, a study or a series, or filters by
        what may identify a person.
    """
    parts = urlsplit(given)
    plain = plain_url(given)
    _, found, rest = plain.partition("/studies")
    if parts.fragment or not _PATH.fullmatch(found + rest):
        raise UsageError(
            f"{parts.scheme}://{parts.netloc}{parts.path} leads to no service: a root is the "
            "service itself, or ends in /studies/UID or /studies/UID/series/UID"
        )
    keys = sorted(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted({name for name, _ in keys} - _KEYS):
        raise UsageError(
            f"the root filters by {', '.join(unknown)[:80]!r}: expected "
            f"{', '.join(sorted(_KEYS))}. Other attributes are conditions of select()"
        )
    query = f"?{urlencode(keys)}" if keys else ""
    return f"{parts.scheme.lower()}://{parts.netloc}{urlsplit(plain).path}{query}"


def add_services(roots: Sequence[str], limits: ReadLimits, found: Walk) -> None:
    """Add the instances of some roots to a walk.

    Raises
    ------
    UsageError
        A root has no such study or series.
    StorageError
        The series of a root cannot be listed.
    """
    places = [_place(root, *uids) for root in roots for uids in dict.fromkeys(_series_of(root))]
    seen: set[str] = set()
    # Metadata of a few series come while those of others are described.
    with ThreadPoolExecutor(_SERIES_AHEAD) as threads:
        asked: deque[tuple[str, Future[list[Any]]]] = deque()
        for place in dict.fromkeys(places):
            asked.append((place, threads.submit(_metadata, place, limits)))
            if len(asked) >= _SERIES_AHEAD:
                _add_series(*asked.popleft(), limits, found, seen)
        while asked:
            _add_series(*asked.popleft(), limits, found, seen)


def _place(root: str, study_uid: str, series_uid: str) -> str:
    """Return the location of a series."""
    service = root.partition("?")[0].partition("/studies/")[0]
    return f"{service}/studies/{study_uid}/series/{series_uid}"


# --- series ---------------------------------------------------------------------------------------


def _series_of(root: str) -> Iterator[tuple[str, str]]:
    """Yield the UIDs of study and series of a root."""
    location, _, query = root.partition("?")
    base, _, rest = location.partition("/studies/")
    study_uid, _, series_uid = rest.partition("/series/")
    if series_uid:
        yield study_uid, series_uid
        return
    session, keys = session_of(base), parse_qsl(query)
    try:
        if study_uid:
            path = f"/studies/{study_uid}/series"
            yield from _uids(_pages(session, path, keys), study_uid)
            return
        try:
            yield from _uids(_pages(session, "/series", keys), "")
        except WebError as error:
            # A search of all series is optional (PS3.18 10.6.1.2).
            if error.status not in (400, 404, 405, 501):
                raise
            for each in _pages(session, "/studies", keys):
                uid = _uid(each, _STUDY)
                yield from _uids(_pages(session, f"/studies/{uid}/series", keys), uid)
    except WebError as error:
        if error.status == 404:
            raise UsageError(f"{root!r} does not exist on the server", url=root) from None
        raise StorageError(
            f"{root!r} cannot be listed: {error.strerror}", errno=error.errno
        ) from None


def _pages(session: Any, path: str, keys: Sequence[tuple[str, str]]) -> Iterator[Mapping[str, Any]]:
    """Yield the results of a search, page by page, each once."""
    offset, seen = 0, set[str]()
    while offset <= _MOST_SERIES:
        page = session.json(path, [*keys, ("limit", str(_PAGE)), ("offset", str(offset))])
        fresh = [each for each in page if isinstance(each, dict) and _key(each) not in seen]
        seen.update(map(_key, fresh))
        yield from fresh
        offset += len(page)
        # A server may cap pages, or know no offset and send the first page again.
        if not fresh:
            return
    raise WebError(errno.EFBIG, f"the server lists more than {_MOST_SERIES} results")


def _key(found: Mapping[str, Any]) -> str:
    return f"{_text(found, _STUDY)} {_text(found, _SERIES)} {_text(found, _INSTANCE)}"


def _text(found: Mapping[str, Any], tag: str) -> str:
    element = found.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return str(values[0]) if isinstance(values, list) and values else ""


def _uid(found: Mapping[str, Any], tag: str) -> str:
    """Return a UID that becomes a part of an address; WebError for anything else."""
    uid = _text(found, tag)
    if not _UID.fullmatch(uid):
        raise WebError(errno.EPROTO, "the server lists something without a valid UID")
    return uid


def _uids(series: Iterator[Mapping[str, Any]], study_uid: str) -> Iterator[tuple[str, str]]:
    for each in series:
        yield study_uid or _uid(each, _STUDY), _uid(each, _SERIES)


# --- instances ------------------------------------------------------------------------------------


def _add_series(
    place: str, asked: "Future[list[Any]]", limits: ReadLimits, found: Walk, seen: set[str]
) -> None:
    """Add the instances of a series; a series that cannot be read is a problem."""
    try:
        items = asked.result()
    except OSError as error:
        found.refuse(os.fsencode(place), "unreadable", f"cannot be listed: {error.strerror}")
        return
    by_url: dict[str, Any] = {}
    for number, item in enumerate(items):
        uid = _text(item, _INSTANCE) if isinstance(item, dict) else ""
        url = f"{place}/instances/{uid}"
        if not _UID.fullmatch(uid) or _is_of_another(item, place):
            found.refuse(
                os.fsencode(f"{place}/metadata/{number + 1}"),
                "malformed",
                "the server sent the metadata of another series, or of an instance without a UID",
            )
        elif url not in seen:
            seen.add(url)
            by_url[url] = item
    for url, outcome in zip(by_url, _outcomes(by_url, limits), strict=True):
        path = os.fsencode(url)
        if isinstance(outcome, Source):
            found.add(path, outcome[1:], (_DEVICE, len(found.paths)))
        else:
            found.refuse(path, *outcome)


def _metadata(place: str, limits: ReadLimits) -> list[Any]:
    """Return the metadata of a series: in one answer, or by instance if that is too large."""
    base, _, path = plain_url(place).partition("/studies/")
    session, path = session_of(base), f"/studies/{path}"
    try:
        return session.json(f"{path}/metadata", most_bytes=limits.header_bytes)
    except WebError as error:
        if error.errno != errno.EFBIG:
            raise
    items: list[Any] = []
    left = _MOST_SERIES_LIMITS * limits.header_bytes
    for each in _pages(session, f"{path}/instances", ()):
        uid = _uid(each, _INSTANCE)
        items += session.json(f"{path}/instances/{uid}/metadata", most_bytes=limits.header_bytes)
        left -= len(json.dumps(items[-1:]))
        if left < 0:
            raise WebError(
                errno.EFBIG, "the metadata of the series are too long to be read at once"
            )
    return items


def _is_of_another(item: Mapping[str, Any], place: str) -> bool:
    return f"/studies/{_text(item, _STUDY)}/series/{_text(item, _SERIES)}" not in place


_Outcome = Source | tuple[str, str]


def _outcomes(items: Mapping[str, Any], limits: ReadLimits) -> Iterator[_Outcome]:
    """Yield the source of each instance, or the reason and the detail of its problem."""
    # Per stated syntax, the first instance tells whether the server gives frames, and such ones.
    groups: dict[str, str] = {}
    for url, item in items.items():
        groups.setdefault(_text(item, _AVAILABLE_SYNTAX), url)

    def outcome(source: Source) -> _Outcome:
        item = items[source.path]
        try:
            known = known_source(source.path, metadata_hash(item))
            if known is not None:
                return known
            first = groups[_text(item, _AVAILABLE_SYNTAX)] == source.path
            return described(item, source.path, limits, ask=first).source
        except HeaderError as error:
            return error.reason, str(error)
        except OSError as error:
            return "unreadable", f"cannot be read: {error.strerror}"

    return each_of(outcome, [Source(url) for url in items])
