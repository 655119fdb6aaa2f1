"""The check for identities: which attributes of the basic confidentiality profile carry values.

Headers are read again, because an index is an allow-list that leaves most of them out. No value is
printed or returned: attributes are counted by file and by distinct value, and pixels by the reason
why they may show text or a face (PS3.15 E.1, E.3.1, E.3.2). Files are not changed.
"""

import json
import secrets
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

from dicomdl.errors import DicomdlError, UsageError
from dicomdl.headers.attribute import snake_case
from dicomdl.headers.confidentiality import (
    EDITION,
    PIXEL_REASONS,
    Carried,
    Profile,
    carried,
    is_date,
    keyword_of,
)
from dicomdl.headers.privacy import FREE_TEXTS
from dicomdl.index.given import Indexed, as_index
from dicomdl.index.index import Index
from dicomdl.index.text import counted, escaped, html_table, text_columns
from dicomdl.jobs._progress import progress_bar
from dicomdl.jobs.teams import answers
from dicomdl.printing import printable
from dicomdl.storage.children import Answer, Child
from dicomdl.storage.locations import is_url
from dicomdl.storage.sources import Source
from dicomdl.storage.system import available_cores

# Files per message to a child, and the number of files below which starting children costs more.
_CHUNK: Final = 64
_IN_PROCESS: Final = 512
# Distinct values that are counted per attribute.
MOST_VALUES: Final = 100_000
SHOWN_ATTRIBUTES: Final = 40
SHOWN_UNREAD: Final = 10
_KEY_BYTES: Final = 32
_UIDS: Final = "U"
_TARGET: Final = "dicomdl.jobs.phi:answering"
_IDENTITY, _DATE, _UID = "identity", "date", "uid"


@dataclass(frozen=True, slots=True)
class PhiAttribute:
    """An attribute of the basic profile that carries values.

    Attributes
    ----------
    tag, keyword
        The tag, such as "(0010,0010)", and the keyword.
    action
        What the profile does with it (PS3.15 Table E.1-1a): "X" removes it, "Z" empties it, "D"
        replaces it by a dummy, "U" replaces a UID.
    kind
        "identity" for names, numbers and texts, "date" for dates and times, "uid".
    files
        The number of files in which it has a value, also in an item of a sequence.
    values
        The number of distinct values, at most 100,000. One value in many files may be a dummy.
    in_index
        Whether the index holds values of it as a column.
    """

    tag: str
    keyword: str
    action: str
    kind: str
    files: int
    values: int
    in_index: bool


@dataclass(frozen=True, slots=True, repr=False)
class PhiCheck:
    """What the files of an index carry that may tell who a patient is.

    Attributes
    ----------
    path, generation
        The index.
    edition
        The edition of the standard that the table of attributes is from.
    files
        The number of files that were read.
    attributes
        The attributes of the basic profile that carry values, in most files first.
    private_files, private_elements
        The number of files with private attributes, and of these attributes.
    pixels
        {reason: files} whose pixels may show text or a face.
    identity_removed
        {"YES", "NO" or "" without it: files} of Patient Identity Removed (0012,0062).
    unread
        (path, reason) of the files that could not be read.
    """

    path: str
    generation: str
    edition: str
    files: int
    attributes: tuple[PhiAttribute, ...]
    private_files: int
    private_elements: int
    pixels: Mapping[str, int]
    identity_removed: Mapping[str, int]
    unread: tuple[tuple[str, str], ...]

    @property
    def ok(self) -> bool:
        """Whether there are files, only UIDs carry values, and no pixels or unread file speak."""
        found = not self.files or any(each.kind != _UID for each in self.attributes)
        return not (found or self.private_files or self.pixels or self.unread)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values for JSON."""
        plain = asdict(self)
        plain["unread"] = [{"path": path, "reason": reason} for path, reason in self.unread]
        return {"ok": self.ok, **plain}

    def text(self, everything: bool = False) -> str:
        """Format for a terminal: counts per attribute, private attributes, reasons of pixels.

        Parameters
        ----------
        everything
            List all attributes one by one, dates and UIDs, too, and all unread files.
        """
        listed = [each for each in self.attributes if everything or each.kind == _IDENTITY]
        shown = listed if everything else listed[:SHOWN_ATTRIBUTES]
        lines = [self._headline()]
        if shown:
            lines += text_columns(list(_TITLES), [_cells(each) for each in shown], right={2, 3})
        if len(shown) < len(listed):
            lines.append(f"  ... and {len(listed) - len(shown):,} more: --all")
        lines += [f"  {line}" for line in self._rest(everything)]
        unread = self.unread if everything else self.unread[:SHOWN_UNREAD]
        for path, reason in unread:
            lines += [f"    not read             {path}", f"    {'':<20} {reason}"]
        if len(unread) < len(self.unread):
            lines.append(f"    ... and {len(self.unread) - len(unread):,} more: --all")
        return "\n".join(printable(line) for line in [*lines, f"  in {self.path}"])

    def _headline(self) -> str:
        if not self.files:
            return "PHI: no file was read"
        number = sum(each.kind == _IDENTITY for each in self.attributes)
        of = f"PS3.15 Table E.1-1, {self.edition}"
        files = counted(self.files, "files")
        if not number:
            return f"PHI: no attribute of the basic profile ({of}) but dates and UIDs in {files}"
        carry = "carries" if number == 1 else "carry"
        attributes = counted(number, "attributes")
        return f"PHI: {attributes} of the basic profile ({of}) {carry} values in {files}"

    def _rest(self, everything: bool) -> Iterator[str]:
        for kind, noun in () if everything else ((_DATE, "dates and times"), (_UID, "UIDs")):
            rows = [each.keyword for each in self.attributes if each.kind == kind]
            if rows:
                more = ", ..." if len(rows) > 3 else ""
                yield f"{len(rows)} attributes of {noun}: {', '.join(rows[:3])}{more} (--all)"
        if self.private_files:
            elements = counted(self.private_elements, "private attributes")
            yield f"{elements} in {counted(self.private_files, 'files')}"
        for reason, files in self.pixels.items():
            yield f"pixels of {counted(files, 'files')}: {PIXEL_REASONS[reason]}"
        for state, files in self.identity_removed.items():
            stated = f"is {state}" if state else "is absent"
            yield f"Patient Identity Removed (0012,0062) {stated} in {counted(files, 'files')}"
        stored = [each.keyword for each in self.attributes if each.in_index and each.kind != _UID]
        if stored:
            yield f"the index holds values of {', '.join(stored)}"

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        listed = [each for each in self.attributes if each.kind == _IDENTITY][:SHOWN_ATTRIBUTES]
        table = html_table(list(_TITLES), [_cells(each) for each in listed], right={2, 3})
        notes = [*self._rest(False), *(f"not read: {p}: {why}" for p, why in self.unread)]
        foot = "".join(f"<p>{escaped(note)}</p>" for note in notes[:SHOWN_ATTRIBUTES])
        return f"<div><p>{escaped(self._headline())}</p>{table if listed else ''}{foot}</div>"


_TITLES: Final = ("tag", "attribute", "files", "values", "action")


def _cells(each: PhiAttribute) -> list[str]:
    return [each.tag, each.keyword, f"{each.files:,}", f"{each.values:,}", each.action]


# --- the check ------------------------------------------------------------------------------------


def check_phi(source: Indexed, *, workers: int | None = None, progress: bool = True) -> PhiCheck:
    """Count what the files of an index carry that may tell who a patient is.

    The headers of all DICOM files are read again, those without an image, too; of a selection,
    those of its frames. Needs the extra ``phi``.

    Parameters
    ----------
    source
        What datasets take: an Index, its path, stacks, Series.
    workers
        The number of processes that read; one per core by default.
    progress
        Show a progress bar.

    Returns
    -------
    PhiCheck
        Counts; no value of an attribute. It prints as a table.

    Raises
    ------
    UsageError
        `workers` is below 1.
    MissingExtra
        The package with the table of the profile is not installed.
    UntrustedRoot
        The index names files below roots that the user has not accepted.

    Examples
    --------
    >>> import tempfile
    >>> import dicomdl
    >>> from pydicom.data import get_testdata_file
    >>> with tempfile.TemporaryDirectory() as out:
    ...     index = dicomdl.scan(get_testdata_file("CT_small.dcm"), out, progress=False)
    ...     check = dicomdl.check_phi(index, progress=False)
    >>> names = [each.keyword for each in check.attributes if each.kind == "identity"]
    >>> names[:3], check.private_elements, check.ok
    (['InstitutionName', 'TimezoneOffsetFromUTC', 'StationName'], 125, False)
    """
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers}, expected at least 1", workers=workers)
    index = as_index(source, "check_phi")
    index.require_readable()
    profile = Profile()
    sources = index.file_sources()
    tally = _Tally()
    with progress_bar(
        total=len(sources), unit="file", desc="reading headers", shown=progress
    ) as bar:
        for found in _found(sources, workers, profile):
            tally.add(found)
            bar.update()
    return tally.result(index, len(sources), profile)


class _Found(NamedTuple):
    """What a file carries, or why it was not read."""

    path: str
    carried: Carried | None
    reason: str = ""


def _found(sources: Sequence[Source], workers: int | None, profile: Profile) -> Iterator[_Found]:
    """Yield what each file carries, in any order."""
    key = secrets.token_bytes(_KEY_BYTES)
    if workers is None:
        workers = 1 if len(sources) < _IN_PROCESS else available_cores()
    chunks = [sources[start : start + _CHUNK] for start in range(0, len(sources), _CHUNK)]
    # A path that is more than text, such as one below a moved root, stays in this process, which
    # alone knows how stores are reached.
    is_plain = all(type(each.path) is str and not is_url(each.path) for each in sources)
    if workers == 1 or len(chunks) < 2 or not is_plain or not sys.executable:
        yield from (_one(each, profile, key) for each in sources)
        return
    messages = [[json.dumps(chunk).encode()] for chunk in chunks]
    for number, answer in answers(
        lambda: Child(_TARGET, key.hex()), messages, min(workers, len(chunks))
    ):
        if isinstance(answer, bytes):
            for path, plain, reason in json.loads(answer):
                yield _Found(path, None if plain is None else _carried(plain), reason)
        else:
            yield from (_one(each, profile, key) for each in chunks[number])


def answering(key: str) -> Answer:
    """Return the function by which a child answers the sources of some files."""
    profile, secret = Profile(), bytes.fromhex(key)

    def answer(message: bytes) -> list[bytes]:
        sources = [Source(*each) for each in json.loads(message)]
        return [json.dumps([_one(each, profile, secret) for each in sources]).encode()]

    return answer


def _carried(plain: Sequence[Any]) -> Carried:
    values, *rest = plain
    return Carried({int(tag): tuple(hashes) for tag, hashes in values.items()}, *rest)


def _one(source: Source, profile: Profile, key: bytes) -> _Found:
    try:
        return _Found(source.path, carried(source, profile, key))
    except DicomdlError as error:
        return _Found(source.path, None, printable(str(error)))


class _Tally:
    """Counts per attribute, and what could not be read."""

    def __init__(self) -> None:
        self.files: Counter[int] = Counter()
        self.values: dict[int, set[str]] = {}
        self.private = [0, 0]
        self.pixels: Counter[str] = Counter()
        self.removed: Counter[str] = Counter()
        self.unread: list[tuple[str, str]] = []

    def add(self, found: _Found) -> None:
        if found.carried is None:
            self.unread.append((found.path, found.reason))
            return
        for tag, hashes in found.carried.values.items():
            self.files[tag] += 1
            known = self.values.setdefault(tag, set())
            if len(known) < MOST_VALUES:
                known.update(hashes)
        self.private[0] += found.carried.private > 0
        self.private[1] += found.carried.private
        self.pixels.update(found.carried.pixels)
        self.removed[found.carried.identity_removed] += 1

    def result(self, index: Index, files: int, profile: Profile) -> PhiCheck:
        columns = _identifying_columns(index)
        attributes = [
            _attribute(tag, count, len(self.values[tag]), profile, columns)
            for tag, count in self.files.items()
        ]
        return PhiCheck(
            path=index.path,
            generation=index.generation,
            edition=EDITION,
            files=files - len(self.unread),
            attributes=tuple(sorted(attributes, key=lambda each: (-each.files, each.tag))),
            private_files=self.private[0],
            private_elements=self.private[1],
            pixels={why: self.pixels[why] for why in PIXEL_REASONS if self.pixels[why]},
            identity_removed=dict(sorted(self.removed.items(), reverse=True)),
            unread=tuple(sorted(self.unread)),
        )


def _attribute(
    tag: int, files: int, values: int, profile: Profile, columns: set[str]
) -> PhiAttribute:
    keyword, action = keyword_of(tag), profile.action(tag)
    return PhiAttribute(
        tag=f"({tag >> 16:04X},{tag & 0xFFFF:04X})",
        keyword=keyword,
        action=action,
        kind=_UID if _UIDS in action and not is_date(tag) else _DATE if is_date(tag) else _IDENTITY,
        files=files,
        values=min(values, MOST_VALUES),
        in_index=snake_case(keyword) in columns,
    )


def _identifying_columns(index: Index) -> set[str]:
    """Return the columns that hold values of the files, by the options of the scan."""
    options = index.manifest["options"]
    without = set() if options.get("texts", True) else set(FREE_TEXTS)
    without |= {"patient_id"} if options.get("patient_id", "keep") != "keep" else set()
    return set(index.columns) - without
