"""Series of the Imaging Data Commons (IDC), found in its offline table of series.

The package idc-index-data holds one row per series of the public collections: identifiers, size,
license, DOI and the place in the open buckets of IDC. DuckDB answers conditions on it in SQL,
without a network. The table is read in place; the query has no access to other files.
"""

import contextlib
import csv
import difflib
import functools
import html
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from dicomdl.errors import StorageError, UsageError
from dicomdl.extras import import_extra
from dicomdl.index.index import Index
from dicomdl.index.text import counted
from dicomdl.jobs._file_names import UNKNOWN, safe_name
from dicomdl.jobs._idc_manifests import Listed, read_manifest_of_series
from dicomdl.jobs._progress import progress_bar
from dicomdl.jobs.scan import scan
from dicomdl.storage import publishing as storage
from dicomdl.storage.object_copies import Wanted, copy_objects, objects_below
from dicomdl.storage.objects import checked_options, declare

__all__ = ["columns", "from_manifest", "series"]

_FEATURE: Final = "dicomdl.idc"
_VIEWER: Final = "https://viewer.imaging.datacommons.cancer.gov"
# Slide microscopy has a viewer of its own.
_SLIDES: Final = "SM"
# Columns that an index takes over, under these names.
_JOINED: Final = {
    "collection_id": "collection_id",
    "analysis_result_id": "analysis_result_id",
    "license_short_name": "license",
    "source_DOI": "source_doi",
    "citation": "citation",
}
_PACKAGE: Final = "idc-index-data"
# Columns without which its table of series is of a version that is not known here.
_NEEDED: Final = (
    *("collection_id", "analysis_result_id", "PatientID", "StudyInstanceUID", "SeriesInstanceUID"),
    *("Modality", "instanceCount", "series_size_MB", "license_short_name", "source_DOI"),
    *("series_aws_url", "crdc_series_uuid"),
)
# What DuckDB says of a name, and the class of an error that its sentence begins with.
_NO_COLUMN: Final = re.compile(r'column "([^"]+)" not found')
_CLASS: Final = re.compile(r"(Binder|Parser|Conversion|Catalog) Error: ")
_ORDER: Final = "collection_id, PatientID, StudyInstanceUID, SeriesInstanceUID"
# The buckets of IDC are open, and need no credentials.
_OPEN: Final[Mapping[str, Any]] = {"skip_signature": True, "region": "us-east-1"}
_TAG: Final = re.compile(r"<[^<>]*>")


def series(where: str = "", *, limit: int | None = None) -> "IDCSeries":
    """Find series of the Imaging Data Commons.

    Parameters
    ----------
    where
        A condition in SQL on the columns of IDC's table of series, such as ``"collection_id =
        'nlst' AND Modality = 'CT'"``; all series by default. `columns` lists the names.
    limit
        Largest number of series. They are ordered by collection, PatientID and UIDs, so that equal
        calls return equal series.

    Returns
    -------
    IDCSeries
        The series; nothing is downloaded.

    Raises
    ------
    UsageError
        The condition is no SQL on these columns, or `limit` is negative.
    StorageError
        The table of series is damaged, or lacks a column.
    MissingExtra
        The packages of ``dicomdl[idc]`` are not installed.

    Examples
    --------
    >>> import dicomdl
    >>> lung = dicomdl.idc.series(
    ...     "collection_id = 'nlst' AND Modality = 'CT'", limit=2
    ... )  # doctest: +SKIP
    >>> index = lung.index("nlst.index")  # reads headers from the bucket  # doctest: +SKIP
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
        raise UsageError(f"limit={limit!r}: expected a number of series", limit=limit)
    condition = f" WHERE ({where}\n)" if where.strip() else ""
    most = "" if limit is None else f" LIMIT {limit}"
    return IDCSeries(_query(f"SELECT * FROM idc{condition} ORDER BY {_ORDER}{most}"))


def from_manifest(path: str | Path) -> "IDCSeries":
    """Return the series that a manifest of TCIA or IDC lists.

    Parameters
    ----------
    path
        A ``.tcia`` file of the NBIA Data Retriever, a table with a column ``SeriesInstanceUID`` or
        ``Series UID`` (``metadata.csv`` of a download), or a manifest of s5cmd (``.s5cmd``).

    Returns
    -------
    IDCSeries
        The series that IDC has. `IDCSeries.missing` lists the others.

    Raises
    ------
    UsageError
        The file is none of these, or cannot be read.
    MissingExtra
        The packages of ``dicomdl[idc]`` are not installed.
    """
    listed = read_manifest_of_series(path)
    name = "crdc_series_uuid" if listed.are_prefixes else "SeriesInstanceUID"
    sql = f"SELECT * FROM idc WHERE {name} IN (SELECT unnest(?)) ORDER BY {_ORDER}"
    found = _query(sql, list(listed.names))
    return IDCSeries(found, _missing(listed, found[name]))


def columns() -> list[str]:
    """Return the names of the columns of IDC's table of series.

    Returns
    -------
    list of str
        The names for the condition of `series`.

    Raises
    ------
    MissingExtra
        The packages of ``dicomdl[idc]`` are not installed.
    """
    return list(_query("SELECT * FROM idc LIMIT 0"))


def _missing(listed: Listed, found: Iterable[str]) -> tuple[str, ...]:
    known = set(found)
    return tuple(name for name in listed.names if name not in known)


class IDCSeries:
    """Series of the Imaging Data Commons: what they are, what they cost, and whom to cite.

    Attributes
    ----------
    missing
        Identifiers of a manifest that IDC does not have.

    Methods
    -------
    index
        Make an index of them, which reads headers in the bucket.
    download
        Copy their files into a folder.
    citations, viewer_links
        Texts to cite in a publication; pages that show the series.
    """

    def __init__(self, columns: Mapping[str, list[Any]], missing: Sequence[str] = ()) -> None:
        self._columns = columns
        self.missing = tuple(missing)

    def __len__(self) -> int:
        return len(self.uids)

    @property
    def uids(self) -> list[str]:
        """Series Instance UIDs."""
        return self._column("SeriesInstanceUID")

    @property
    def urls(self) -> list[str]:
        """The prefix of each series in its bucket, ``s3://...``, anonymous to read."""
        return [url.removesuffix("*") for url in self._column("series_aws_url")]

    @property
    def instances(self) -> int:
        """The number of files."""
        return sum(self._column("instanceCount"))

    @property
    def size_bytes(self) -> int:
        """The size of all files, to 1 byte per series."""
        return sum(round(size * 1e6) for size in self._column("series_size_MB"))

    @property
    def licenses(self) -> dict[str, int]:
        """{short name of a license: number of series}, the most frequent first."""
        return dict(Counter(self._column("license_short_name")).most_common())

    @property
    def dois(self) -> list[str]:
        """The DOIs of the collections and analysis results, each once, in order."""
        return list(dict.fromkeys(filter(None, self._column("source_DOI"))))

    def citations(self) -> list[str]:
        """Return the texts that the providers ask to cite, each once.

        A DOI stands for a text that IDC's tables do not have.
        """
        texts = _citation_texts()
        return [texts.get(doi, f"https://doi.org/{doi}") for doi in self.dois]

    def viewer_links(self) -> list[str]:
        """Return the address of a page per series that shows it."""
        names = ("Modality", "StudyInstanceUID", "SeriesInstanceUID")
        rows = zip(*map(self._column, names), strict=True)
        return [
            f"{_VIEWER}/slim/studies/{study}/series/{uid}"
            if modality == _SLIDES
            else f"{_VIEWER}/v3/viewer/?StudyInstanceUIDs={study}&SeriesInstanceUIDs={uid}"
            for modality, study, uid in rows
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return what the series are, as plain values for JSON."""
        return {
            "series": self.uids,
            "files": self.instances,
            "bytes": self.size_bytes,
            "licenses": self.licenses,
            "dois": self.dois,
            "citations": self.citations(),
            "viewer_links": self.viewer_links(),
            "missing": list(self.missing),
        }

    def to_pandas(self) -> Any:
        """Return IDC's rows as a pandas DataFrame, one per series."""
        pandas = import_extra("pandas", "IDCSeries.to_pandas", "notebook")
        return pandas.DataFrame(self._columns)

    def index(self, out: str | None = None, **options: Any) -> Index:
        """Make an index of the series, which reads headers in the bucket.

        Parameters
        ----------
        out, **options
            Those of `dicomdl.scan`.

        Returns
        -------
        Index
            The index, with joined columns ``collection_id``, ``analysis_result_id``, ``license``,
            ``source_doi`` and ``citation``; `Index.citations` lists the last.

        Raises
        ------
        UsageError
            There are no series.
        """
        self._require_some()
        index = scan(self.urls, out, **{"storage_options": dict(_OPEN), **options})
        return index.join(
            self._labels(),
            on={"SeriesInstanceUID": "SeriesInstanceUID"},
            label=list(_JOINED.values()),
            level="series",
            on_unmatched={"index": "raise", "table": "drop"},
        )

    def download(
        self,
        folder: str | Path,
        *,
        concurrency: int = 16,
        progress: bool = True,
        storage_options: Mapping[str, Any] | None = None,
    ) -> dict[str, int]:
        """Copy the files into ``folder/collection/study/modality_series/``.

        Each file appears complete or not at all, and its MD5 is compared with the bucket's. A
        second call copies what is missing. ``series.csv`` in the folder lists the series with
        licenses and DOIs; `from_manifest` reads it.

        Parameters
        ----------
        folder
            The folder, which is created if it is absent.
        concurrency
            Number of files that are copied at once.
        progress
            Show a progress bar.
        storage_options
            As for `dicomdl.scan`; the open buckets by default.

        Returns
        -------
        dict of str to int
            The number of files "copied" now, and "present" before.

        Raises
        ------
        UsageError
            There are no series.
        StorageError
            Files cannot be read or written (attribute `failed`); the others are complete.
        """
        self._require_some()
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            raise UsageError(f"concurrency={concurrency!r}: expected a number of at least 1")
        declare(self.urls, checked_options(_OPEN if storage_options is None else storage_options))
        target = os.path.abspath(os.path.expanduser(os.fspath(folder)))
        storage.make_folder(target)
        with progress_bar(
            total=self.size_bytes, unit="B", unit_scale=True, desc="copying", shown=progress
        ) as bar:
            copied, present = copy_objects(self._wanted(target), concurrency, bar.update)
        self._write_table(os.path.join(target, "series.csv"))
        return {"copied": copied, "present": present}

    def _wanted(self, target: str) -> Iterator[Wanted]:
        """Yield the objects of all series, with the paths of their copies."""
        names = ("collection_id", "StudyInstanceUID", "Modality", "SeriesInstanceUID")
        for url, *parts in zip(self.urls, *map(self._column, names), strict=True):
            collection, study, modality, uid = (safe_name(part or "") or UNKNOWN for part in parts)
            folder = os.path.join(target, collection, study, f"{modality}_{uid}")
            yield from objects_below(url, folder)

    def _write_table(self, path: str) -> None:
        """Write the series as CSV, without the columns that hold dates."""
        kept = [name for name in self._columns if not name.endswith("Date")]
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(kept)
        writer.writerows(zip(*(self._columns[name] for name in kept), strict=True))
        storage.write_whole(path, text.getvalue().encode())

    def _labels(self) -> dict[str, list[Any]]:
        """Return the columns that an index takes over, and their key."""
        texts = _citation_texts()
        columns = {new: self._column(old) for old, new in _JOINED.items() if old != "citation"}
        columns["citation"] = [
            texts.get(doi, f"https://doi.org/{doi}") if doi else "" for doi in columns["source_doi"]
        ]
        return {"SeriesInstanceUID": self.uids, **columns}

    def _column(self, name: str) -> list[Any]:
        return self._columns[name]

    def _require_some(self) -> None:
        if not len(self):
            raise UsageError("no series of IDC was found: loosen the condition")

    def __repr__(self) -> str:
        patients = len(set(self._column("PatientID")))
        modalities = Counter(self._column("Modality")).most_common()
        lines = [
            f"IDCSeries: {counted(len(self), 'series')} of {counted(patients, 'patients')},"
            f" {counted(self.instances, 'files')}, {self.size_bytes / 1e9:,.1f} GB",
            "  modalities: " + ", ".join(f"{count} {name}" for name, count in modalities),
            "  licenses: " + ", ".join(f"{n} {name}" for name, n in self.licenses.items()),
        ]
        if self.missing:
            lines.append(f"  {len(self.missing)} of the manifest are not in IDC: see missing")
        return "\n".join(lines)


# --- the tables of idc-index-data -----------------------------------------------------------------


def _table_path(name: str) -> str:
    """Return the path of a Parquet file that the package idc-index-data holds."""
    package = import_extra("idc_index_data", _FEATURE, "idc", _PACKAGE)
    return str(Path(package.__file__).with_name(f"{name}.parquet"))


def _query(sql: str, *values: Any) -> dict[str, list[Any]]:
    """Run a query on the view `idc`, and return its columns.

    Raises
    ------
    UsageError
        The query is no valid SQL on the columns.
    StorageError
        The table is damaged, or lacks a column.
    """
    path = _table_path("idc_index")
    duckdb = import_extra("duckdb", _FEATURE, "idc")
    with _database(duckdb, [path]) as base:
        with _readable(duckdb, path):
            base.execute(f"CREATE VIEW idc AS SELECT * FROM read_parquet({_quoted(path)})")
            names = list(_columns_of(base.execute("SELECT * FROM idc LIMIT 0")))
        if lacking := [name for name in _NEEDED if name not in names]:
            raise StorageError(
                f"the table of IDC's series {path!r} lacks {', '.join(lacking)}: install another "
                f"version of {_PACKAGE}",
                columns=lacking,
            )
        try:
            return _columns_of(base.execute(sql, values or None))
        except duckdb.Error as error:
            raise UsageError(
                f"the condition on IDC's series cannot be evaluated: {_why(str(error), names)}; "
                "dicomdl.idc.columns() lists the columns"
            ) from None


def _why(error: str, names: Sequence[str]) -> str:
    """Return the reason of an error of DuckDB in a sentence; `names` are the columns."""
    first = error.splitlines()[0]
    if absent := _NO_COLUMN.search(first):
        near = difflib.get_close_matches(absent[1], names, 2)
        hint = "a text stands in single quotes, such as collection_id = 'nlst'"
        return f"there is no column {absent[1]!r}: " + (
            f"did you mean {' or '.join(near)}?" if near else hint
        )
    return _CLASS.sub("it is no SQL on the columns: ", first, count=1)


@contextlib.contextmanager
def _readable(duckdb: Any, path: str) -> Iterator[None]:
    """Say which table of IDC cannot be read."""
    try:
        yield
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise StorageError(
            f"the table of IDC {path!r} cannot be read: install {_PACKAGE} again, or another "
            f"version of it ({reason})"
        ) from None


def _database(duckdb: Any, paths: Sequence[str]) -> Any:
    """Return a database in memory that can read some files, and nothing else."""
    base = duckdb.connect()
    base.execute(f"SET allowed_paths = [{', '.join(map(_quoted, paths))}]")
    base.execute("SET enable_external_access = false")
    return base


def _quoted(path: str) -> str:
    return "'" + path.replace("'", "''") + "'"


def _columns_of(result: Any) -> dict[str, list[Any]]:
    names = [column[0] for column in result.description]
    rows = result.fetchall()
    return {name: [row[number] for row in rows] for number, name in enumerate(names)}


@functools.cache
def _citation_texts() -> Mapping[str, str]:
    """Return {DOI: text to cite} of collections and analysis results."""
    paths = [_table_path("collections_index"), _table_path("analysis_results_index")]
    sources, results = map(_quoted, paths)
    sql = (
        "SELECT source.source_doi AS doi, source.citation AS citation FROM "
        f"(SELECT unnest(sources) AS source FROM read_parquet({sources})) "
        f"UNION ALL SELECT source_DOI, citation FROM read_parquet({results})"
    )
    duckdb = import_extra("duckdb", _FEATURE, "idc")
    with _database(duckdb, paths) as base, _readable(duckdb, os.path.dirname(paths[0])):
        found = _columns_of(base.execute(sql))
    pairs = zip(found["doi"], found["citation"], strict=True)
    return {doi: _plain(citation) for doi, citation in pairs if doi and citation}


def _plain(citation: str) -> str:
    """Return a text of HTML without tags, entities and line breaks."""
    return " ".join(html.unescape(_TAG.sub("", citation)).split())
