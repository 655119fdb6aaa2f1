"""Croissant 1.1, the JSON-LD of machine-learning data sets (MLCommons): a dictionary of it."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dicomdl.jobs._card_facts import COLUMNS, REALS, TEXTS, Part
from dicomdl.printing import printable

CONFORMS_TO: Final = "http://mlcommons.org/croissant/1.1"
# The context of the specification, with our facts as plain JSON.
_CONTEXT: Final[Mapping[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{
        name: f"cr:{name}"
        for name in (
            *("arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract"),
            *("field", "fileObject", "fileProperty", "fileSet", "format", "includes", "isArray"),
            *("isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet"),
            *("references", "regex", "repeated", "replace", "samplingRate", "separator", "source"),
            *("subField", "transform"),
        )
    },
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "dicomdl": {"@id": "urn:dicomdl:facts", "@type": "@json"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}
_PLAIN: Final = re.compile(r"[A-Za-z0-9._+=/-]+")
# The table of the system differs from machine to machine.
_ENCODINGS: Final = {
    ".csv": "text/csv",
    ".dcm": "application/dicom",
    ".gz": "application/gzip",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".jsonl": "application/jsonlines",
    ".md": "text/markdown",
    ".parquet": "application/x-parquet",
    ".png": "image/png",
    ".tar": "application/x-tar",
    ".tsv": "text/tab-separated-values",
    ".txt": "text/plain",
    ".yaml": "application/yaml",
    ".zip": "application/zip",
}


@dataclass(frozen=True, slots=True)
class CardFile:
    """A file of the data set: its path below the folder, with /, its size and its SHA-256."""

    path: str
    size: int
    sha256: str


def croissant(
    described: Mapping[str, Any],
    parts: Sequence[Part],
    tables: Mapping[str, str],
    files: Sequence[CardFile],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the JSON-LD of a data set.

    Parameters
    ----------
    described
        Properties of the data set under their names there; None and empty ones are left out.
    parts
        The parts of the split.
    tables
        {name of a part: path of its table of stacks}; the tables are among the files.
    files
        All files of the data set.
    facts
        What else is known, for the key "dicomdl".
    """
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        **{name: value for name, value in described.items() if value not in (None, "", [])},
        "distribution": [_file_object(file, number) for number, file in enumerate(files)],
        "recordSet": [_record_set(part, tables[part.name]) for part in parts],
        "dicomdl": facts,
    }


def _file_object(file: CardFile, number: int) -> dict[str, Any]:
    # An identifier has no white space, not even in an escaped form.
    is_plain = _PLAIN.fullmatch(file.path)
    suffix = os.path.splitext(file.path)[1].lower()
    return {
        "@type": "cr:FileObject",
        "@id": file.path if is_plain else f"file-{number}",
        "name": printable(file.path),
        "contentUrl": file.path,
        "contentSize": f"{file.size} B",
        "encodingFormat": _ENCODINGS.get(suffix, "application/octet-stream"),
        "sha256": file.sha256,
    }


def _record_set(part: Part, table: str) -> dict[str, Any]:
    name = f"stacks_{part.name}"
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"One row per stack of images of the part {part.name}.",
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{name}/{column}",
                "name": column,
                "description": text,
                "dataType": _data_type(column),
                "source": {"fileObject": {"@id": table}, "extract": {"column": column}},
            }
            for column, text in COLUMNS.items()
        ],
    }


def _data_type(column: str) -> str:
    return "sc:Text" if column in TEXTS else "sc:Float" if column in REALS else "sc:Integer"
