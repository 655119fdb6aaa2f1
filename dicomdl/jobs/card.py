"""The data card of a data set: card.json in Croissant 1.1, README.md, and tables of its stacks."""

import csv
import datetime
import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dicomdl.errors import StorageError, UsageError
from dicomdl.index.given import Indexed, as_index, require_frames
from dicomdl.index.index import Index
from dicomdl.index.schema import FORMAT
from dicomdl.index.text import counted
from dicomdl.jobs._card_facts import COLUMNS, Part, identified, modalities_of, parts_of
from dicomdl.jobs._card_text import readme
from dicomdl.jobs._croissant import CardFile, croissant
from dicomdl.jobs._file_names import output_folder
from dicomdl.jobs._instances import fingerprint_of
from dicomdl.jobs._progress import progress_bar
from dicomdl.printing import printable, printable_lines
from dicomdl.storage import publishing as storage
from dicomdl.version import __version__

CARD: Final = "card.json"
README: Final = "README.md"
TABLES: Final = "stacks"
# Names of the parts of a split, by their number.
_PARTS: Final = {
    1: ("train",),
    2: ("train", "validation"),
    3: ("train", "validation", "test"),
}
_PART_NAME: Final = re.compile(r"\w+(\.\w+)*")
Splits = Mapping[str, Indexed] | Sequence[Indexed]


@dataclass(frozen=True, slots=True, repr=False)
class Card:
    """The data card that `write_card` wrote.

    Attributes
    ----------
    folder
        The folder of the data set.
    fingerprint
        The fingerprint of instances and options.
    counts
        The numbers of patients, studies, series, stacks and frames.
    parts
        {name of a part of the split: its number of stacks}.
    files
        The paths of the files of the card, below the folder.
    data_files
        The number of files of the data set that card.json lists with their SHA-256.
    """

    folder: str
    fingerprint: str
    counts: Mapping[str, int]
    parts: Mapping[str, int]
    files: tuple[str, ...]
    data_files: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "folder": self.folder,
            "fingerprint": self.fingerprint,
            "counts": dict(self.counts),
            "parts": dict(self.parts),
            "files": list(self.files),
            "data_files": self.data_files,
        }

    def __repr__(self) -> str:
        counts = ", ".join(counted(n, nouns) for nouns, n in self.counts.items())
        parts = ", ".join(f"{counted(n, 'stacks')} in {name}" for name, n in self.parts.items())
        lines = [f"Card: {counts}", f"  {parts}", f"  fingerprint {self.fingerprint}"]
        lines.append(f"  {counted(self.data_files, 'files')} of the data set, in {self.folder}")
        return printable_lines("\n".join(lines))


def write_card(
    source: Indexed,
    folder: str | os.PathLike[str],
    *,
    name: str,
    description: str = "",
    splits: Splits | None = None,
    options: Mapping[str, Any] | None = None,
    license: str | Sequence[str] = (),
    citations: Sequence[str] = (),
    task_categories: Sequence[str] = (),
    tags: Sequence[str] = (),
    creators: Sequence[str] = (),
    url: str = "",
    version: str = "",
    date_published: str = "",
    configs: Mapping[str, Mapping[str, str]] | None = None,
    files: Sequence[str] | None = None,
    contents: bool = True,
    patient_ids: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Card:
    """Write the data card of a data set: ``card.json``, ``README.md`` and ``stacks/*.csv``.

    ``card.json`` is Croissant 1.1, with the SHA-256 of each file of the folder. ``README.md`` is a
    page with the front matter of the Hugging Face Hub. Both have counts, modalities, verdicts, the
    split, licenses, citations, options, versions, and the fingerprint of instances and options. The
    tables have a row per stack. Names of patients, PatientIDs, dates and free texts of headers are
    in none of them. Equal arguments give equal bytes.

    The fingerprint is equal where the bytes of the files, the selected frames, their split, their
    joined values and the options are. Paths, times, the order of files and further copies of the
    same bytes do not change it.

    Parameters
    ----------
    source
        The instances: what `as_index` of datasets takes, such as an Index or its path. Labels are
        those that describe its stacks, and the columns of `Index.join`.
    folder
        The folder of the data set, such as that of an export, which is created if it is absent.
    name, description
        The name of the data set, and what it is, in a sentence.
    splits
        {name: part}, or the parts of `Index.split`: "train", "validation" and "test", or "fold_0"
        and so on of more. Without it, all stacks are "train".
    options
        What the data set was made with, as plain values, such as a recipe without its paths.
    license
        The license or licenses. Those of a joined column ``license`` are added.
    citations
        What to cite. `Index.citations` are added.
    task_categories
        Tasks under the names of the Hub, such as "image-segmentation", which is the default where
        stacks have SEG or RTSTRUCT.
    tags
        Further tags of the Hub, beside "medical" and the modalities.
    creators, url, version, date_published
        Who made it, where it is, its version, and a date "2026-11-29". What is not given is absent:
        no time of the clock enters the card.
    configs
        Further configurations of the Hub, {name: {split: path pattern}}, such as
        ``{"shards": {"train": "train-*.tar"}}``.
    files
        The files of the data set, as paths below the folder; by default all of them but hidden
        ones. Each is read once.
    contents
        Whether files of instances enter the fingerprint with all of their bytes, which are read.
        Otherwise they enter with their SOP Instance UID and size, and the fingerprint begins with
        "uids" in place of "bytes".
    patient_ids
        Whether names of files may have a PatientID. It is an error otherwise: card.json lists them.
    overwrite
        Whether a card that has another content is replaced.
    progress
        Show progress bars.

    Returns
    -------
    Card
        The fingerprint, the counts and the files.

    Raises
    ------
    UsageError
        A card of other content exists, parts share frames or are of another index, an option is no
        plain value, or names of files have a PatientID.
    PixelError
        A file of an instance cannot be read, or has changed since the scan.
    StorageError
        A file of the data set cannot be read, or the card cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> import dicomdl
    >>> from pydicom.data import get_testdata_file
    >>> out = tempfile.TemporaryDirectory()
    >>> index = dicomdl.scan(get_testdata_file("CT_small.dcm"), f"{out.name}/index", progress=False)
    >>> card = dicomdl.write_card(index, f"{out.name}/set", name="One CT", progress=False)
    >>> card.files
    ('stacks/train.csv', 'README.md', 'card.json')
    >>> card.counts["frames"], card.parts
    (1, {'train': 1})
    """
    index = as_index(source, "write_card", (folder,))
    index.require_readable()
    _require_date(date_published)
    name = printable(" ".join(name.split()))
    if not name:
        raise UsageError("the name of the data set is blank")
    target = output_folder(folder)
    named = _named(splits, index)
    images = _images(index)
    require_frames(images, "write_card")
    parts = parts_of(images, {part: _images(each) for part, each in named.items()})
    tables = {f"{TABLES}/{part.name}.csv": _table(part) for part in parts}
    listed = _data_files(target, files, tables)
    if strange := [path for path in listed if not _is_text(path)]:
        raise UsageError(
            f"the name of the file {printable(strange[0])!r} of {target!r} is not UTF-8, which "
            "JSON requires: rename it"
        )
    if not patient_ids and (found := identified(listed, index)):
        raise UsageError(
            f"{counted(len(found), 'files')} of {target!r} have a PatientID in their name, which "
            "the card would list: name files by UIDs, or pass patient_ids=True where PatientIDs "
            "are pseudonyms",
            files=len(found),
        )
    fingerprint = fingerprint_of(index, named, options or {}, contents=contents, progress=progress)
    labels = Counter(a.kind for a in index.annotations if a.status in ("ok", "partial"))
    facts: dict[str, Any] = {
        "name": name,
        "description": description or _described(images),
        "fingerprint": fingerprint,
        "counts": images.counts,
        "modalities": modalities_of(images),
        "labels": dict(sorted(labels.items())),
        "columns": sorted(index.joined.names),
        "problems": dict(sorted(Counter(each.reason for each in index.problems).items())),
        "splits": {part.name: part.counts for part in parts},
        "licenses": _licenses(license, index),
        "citations": _citations(citations, index),
        "task_categories": list(task_categories) or _tasks(labels),
        "tags": sorted({"medical", "dicom", *tags, *_modalities(images)}),
        "options": dict(options or {}),
        "dicomdl": __version__,
        "index_format": FORMAT,
    }
    contents_of = {
        **tables,
        README: readme(facts, parts, configs or {}).encode("utf-8", "replace"),
    }
    every = [
        *(CardFile(path, len(data), _sha256(data)) for path, data in contents_of.items()),
        *_hashed(target, listed, progress=progress),
    ]
    described = {
        "name": name,
        "description": facts["description"],
        "license": facts["licenses"],
        "citeAs": "; ".join(facts["citations"]),
        "creator": [{"@type": "sc:Organization", "name": each} for each in creators],
        "url": url,
        "version": version,
        "datePublished": date_published,
        "keywords": facts["tags"],
        "rai:dataCollection": f"Read from DICOM files by dicomdl {__version__}.",
        "rai:personalSensitiveInformation": "The card has no names of patients, no PatientIDs, no "
        "dates and no free texts of headers. Whether the data have them was not examined.",
    }
    content = croissant(
        described, parts, dict(zip((p.name for p in parts), tables, strict=True)), every, facts
    )
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    contents_of[CARD] = text.encode("utf-8", "replace")
    _publish(target, contents_of, overwrite=overwrite)
    return Card(
        target,
        fingerprint,
        images.counts,
        {part.name: len(part.rows) for part in parts},
        tuple(contents_of),
        len(listed),
    )


# --- what is given --------------------------------------------------------------------------------


def _named(splits: Splits | None, index: Index) -> dict[str, Index]:
    """Return {name: part}.

    Raises
    ------
    UsageError
        Parts share frames or are of another index, or a name is none of a file.
    """
    if splits is None:
        return {}
    if isinstance(splits, Mapping):
        given = dict(splits)
    else:
        names = _PARTS.get(len(splits)) or [f"fold_{n}" for n in range(len(splits))]
        given = dict(zip(names, splits, strict=True))
    parts = {str(name): as_index(part, "write_card") for name, part in given.items()}
    seen = np.zeros(0, dtype=np.int64)
    for name, part in parts.items():
        if not _PART_NAME.fullmatch(name):
            raise UsageError(
                f"the part {name!r} has a name that is none of a file: expected letters, digits, "
                "_ and ."
            )
        if (part.path, part.generation) != (index.path, index.generation):
            raise UsageError(
                f"the part {name!r} is of another index or scan: pass parts of the same index"
            )
        rows = part.rows()
        if not np.isin(rows, index.rows()).all():
            raise UsageError(f"the part {name!r} has frames that are not in the index")
        if shared := int(np.isin(rows, seen).sum()):
            raise UsageError(
                f"the part {name!r} shares {counted(shared, 'frames')} with parts before it: pass "
                "parts without common frames"
            )
        seen = np.concatenate([seen, rows])
    return parts


def _images(index: Index) -> Index:
    """Return the stacks of images; segmentations are labels of theirs."""
    return index.select(not_content="segmentation")


def _require_date(text: str) -> None:
    try:
        if text:
            datetime.date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"date_published={text!r}: expected a date such as 2026-11-29") from None


def _licenses(given: str | Sequence[str], index: Index) -> list[str]:
    own = [given] if isinstance(given, str) else list(given)
    if "license" in index.joined:
        codes, names = index.joined.codes("license", index.rows())
        own += [str(names[code]) for code in np.unique(codes[codes >= 0]).tolist()]
    return sorted({each for each in own if each.strip()})


def _citations(given: Sequence[str], index: Index) -> list[str]:
    own = sorted(index.citations()) if "citation" in index.joined else []
    return list(dict.fromkeys([*given, *own]))


def _modalities(index: Index) -> set[str]:
    return {stack.modality.lower() for stack in index.stacks if stack.modality}


def _tasks(labels: Mapping[str, int]) -> list[str]:
    return ["image-segmentation"] if {"SEG", "RTSTRUCT"} & labels.keys() else []


def _described(index: Index) -> str:
    counts = index.counts
    kinds = ", ".join(sorted(each.upper() for each in _modalities(index))) or "no modality"
    return (
        f"{counted(counts['stacks'], 'stacks')} of {counted(counts['patients'], 'patients')} "
        f"({kinds})."
    )


# --- files ----------------------------------------------------------------------------------------


def _table(part: Part) -> bytes:
    """Return CSV with a row per stack."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(part.rows)
    return text.getvalue().encode("utf-8", "replace")


def _data_files(folder: str, given: Sequence[str] | None, tables: Mapping[str, bytes]) -> list[str]:
    """Return the files of a data set, as sorted paths below its folder, with /."""
    own = {CARD, README, *tables, *_stacks_tables(folder)}
    if given is not None:
        listed = [os.fspath(path).replace(os.sep, "/") for path in given]
        for path in listed:
            if os.path.isabs(path) or ".." in path.split("/"):
                raise UsageError(f"the file {path!r} is not below the folder of the data set")
        return sorted(set(listed) - own)
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = os.path.join(parent, name)
            if not name.startswith(".") and os.path.isfile(path):
                found.append(os.path.relpath(path, folder).replace(os.sep, "/"))
    return sorted(set(found) - own)


def _is_text(path: str) -> bool:
    """Whether a path is UTF-8: bytes of others are surrogates."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _stacks_tables(folder: str) -> list[str]:
    """Return the tables of stacks that an earlier card has, as paths below the folder."""
    try:
        names = os.listdir(os.path.join(folder, TABLES))
    except OSError:
        return []
    return [f"{TABLES}/{name}" for name in names if name.endswith(".csv")]


def _hashed(folder: str, paths: Sequence[str], *, progress: bool) -> Iterator[CardFile]:
    bar = progress_bar(paths, unit="file", desc="hashing", shown=progress)
    for path in bar:
        whole = os.path.join(folder, path)
        with (
            storage.explained(f"{whole!r} cannot be read"),
            storage.open_regular(whole) as file,
        ):
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            yield CardFile(path, file.tell(), digest)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _publish(folder: str, files: Mapping[str, bytes], *, overwrite: bool) -> None:
    """Put the files of a card into its folder, card.json last.

    Raises
    ------
    UsageError
        A file has another content and may not be replaced. Then none is written.
    """
    waiting = []
    for path, data in files.items():
        whole = os.path.join(folder, path)
        if not os.path.lexists(whole):
            waiting.append(path)
        elif not _holds(whole, data):
            if not overwrite:
                raise UsageError(
                    f"{printable(whole)!r} exists, with other content: write the card into "
                    "another folder, or pass overwrite=True",
                    path=whole,
                )
            waiting.append(path)
    for path in set(_stacks_tables(folder)) - files.keys() if overwrite else ():
        with storage.explained(f"{path!r} of the earlier card cannot be removed"):
            os.unlink(os.path.join(folder, path))
    for path in waiting:
        whole = os.path.join(folder, path)
        storage.make_folder(os.path.dirname(whole))
        storage.write_whole(whole, files[path])


def _holds(path: str, data: bytes) -> bool:
    try:
        return os.path.isfile(path) and storage.read_whole(path) == data
    except StorageError:
        return False
