"""idc: series are found in IDC's offline tables, become indexes, and are copied whole."""

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from object_server import ObjectServer, Request, serving
from phantoms import ramp, write_series

import dicomdl
from dicomdl.cli.main import main
from dicomdl.errors import MissingExtra, StorageError, UsageError
from dicomdl.jobs import idc

pytest.importorskip("duckdb")

STUDIES = ("1.2.1", "1.2.1", "1.2.2")
UIDS = ("1.2.1.1", "1.2.1.2", "1.2.2.1")
PREFIXES = tuple(f"{number}0000000-0000-0000-0000-000000000000" for number in range(1, 4))


def table_of_series() -> pa.Table:
    """A table with IDC's columns: two CT series of one patient and one slide."""
    return pa.table(
        {
            "collection_id": ["lung", "lung", "slides"],
            "analysis_result_id": [None, None, None],
            "PatientID": ["A", "A", "B"],
            "SeriesInstanceUID": UIDS,
            "StudyInstanceUID": STUDIES,
            "source_DOI": ["10.1/lung", "10.1/lung", "10.1/unknown"],
            "Modality": ["CT", "CT", "SM"],
            "instanceCount": [6, 5, 2],
            "license_short_name": ["CC BY 3.0", "CC BY 3.0", "CC BY-NC 4.0"],
            "crdc_series_uuid": PREFIXES,
            "series_aws_url": [f"s3://idc-open-data/{prefix}/*" for prefix in PREFIXES],
            "series_size_MB": [1.5, 0.25, 0.000001],
        }
    )


@pytest.fixture(autouse=True)
def idc_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with IDC's tables in small, in place of the 70 MB of the real one."""
    folder = tmp_path / "idc'data"
    folder.mkdir()
    pq.write_table(table_of_series(), folder / "idc_index.parquet")
    source = {"source_doi": "10.1/lung", "citation": "Doe &amp; Roe. <i>Lung\nimages</i>. 2020"}
    sources = {"collection_id": ["lung", "slides"], "sources": [[source], None]}
    pq.write_table(pa.table(sources), folder / "collections_index.parquet")
    results = {"source_DOI": ["10.1/masks"], "citation": ["Roe. Masks. 2021"]}
    pq.write_table(pa.table(results), folder / "analysis_results_index.parquet")
    package = types.ModuleType("idc_index_data")
    package.__file__ = str(folder / "__init__.py")
    monkeypatch.setitem(sys.modules, "idc_index_data", package)
    idc._citation_texts.cache_clear()
    return folder


def test_a_condition_in_sql_selects_series_in_a_stable_order() -> None:
    found = dicomdl.idc.series("collection_id = 'lung' AND Modality = 'CT'")
    assert found.uids == list(UIDS[:2])
    assert dicomdl.idc.series(limit=1).uids == list(UIDS[:1])
    assert len(dicomdl.idc.series("Modality = 'XX'")) == 0
    assert "series_size_MB" in dicomdl.idc.columns()


def test_a_comment_at_the_end_of_a_condition_ends_nothing_else() -> None:
    assert len(dicomdl.idc.series("Modality = 'CT' -- only CT", limit=1)) == 1


def test_series_say_their_size_licenses_sources_and_pages() -> None:
    found = dicomdl.idc.series()
    assert (found.instances, found.size_bytes) == (13, 1_750_001)
    assert found.licenses == {"CC BY 3.0": 2, "CC BY-NC 4.0": 1}
    assert found.dois == ["10.1/lung", "10.1/unknown"]
    assert found.citations() == [
        "Doe & Roe. Lung images. 2020",
        "https://doi.org/10.1/unknown",
    ]
    links = found.viewer_links()
    assert links[0].endswith("?StudyInstanceUIDs=1.2.1&SeriesInstanceUIDs=1.2.1.1")
    assert links[2].endswith("/slim/studies/1.2.2/series/1.2.2.1")
    assert found.urls[0] == f"s3://idc-open-data/{PREFIXES[0]}/"
    assert "13 files" in repr(found)
    assert "PatientID" in found.to_pandas()


@pytest.mark.parametrize(
    "condition", ["no_such_column = 1", "Modality = ", "1 = 1; DROP VIEW idc", "1 = 1)"]
)
def test_a_condition_that_is_no_sql_is_a_typed_error(condition: str) -> None:
    with pytest.raises(UsageError, match="columns"):
        dicomdl.idc.series(condition)


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        (
            "lung",
            "no column 'lung': a text stands in single quotes, such as collection_id = 'nlst'",
        ),
        ("colection_id = 'lung'", "no column 'colection_id': did you mean collection_id"),
        ("Modality = ", "cannot be evaluated: it is no SQL on the columns: syntax error"),
        ("instanceCount = 'x'", "cannot be evaluated: it is no SQL on the columns: Could not"),
    ],
)
def test_an_error_of_a_condition_is_a_sentence(
    condition: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["idc", condition]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "Binder" not in told
    assert "dicomdl idc --columns lists the columns" in told


def test_a_condition_that_no_series_meets_is_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["idc", "collection_id = 'nope'"]) == 1
    assert "no series of IDC meets the condition" in capsys.readouterr().out


def test_a_table_that_lacks_a_column_or_is_damaged_is_a_typed_error(idc_tables: Path) -> None:
    path = idc_tables / "idc_index.parquet"
    pq.write_table(table_of_series().drop_columns(["PatientID", "series_aws_url"]), path)
    with pytest.raises(StorageError, match="lacks PatientID, series_aws_url: install another"):
        dicomdl.idc.series()
    path.write_bytes(b"PAR1")
    with pytest.raises(StorageError, match="cannot be read: install idc-index-data again"):
        dicomdl.idc.columns()


def test_a_table_of_citations_of_another_version_is_a_typed_error(idc_tables: Path) -> None:
    pq.write_table(pa.table({"other": ["x"]}), idc_tables / "analysis_results_index.parquet")
    with pytest.raises(StorageError, match="another version"):
        dicomdl.idc.series().citations()


def test_a_condition_reads_no_other_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    with pytest.raises(UsageError, match="Permission"):
        dicomdl.idc.series(f"(SELECT count(*) FROM read_csv('{secret}')) = 1")


@pytest.mark.parametrize("limit", [-1, 1.5, True])
def test_a_limit_is_a_number_of_series(limit: object) -> None:
    with pytest.raises(UsageError, match="limit"):
        dicomdl.idc.series(limit=limit)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        f"downloadServerUrl=https://x\nListOfSeriesToDownload=\n{UIDS[2]}\n{UIDS[0]}\n1.9.9\n",
        f"﻿Series UID,Collection\n{UIDS[0]},lung\n{UIDS[2]},slides\n1.9.9,x\n",
        f"Collection;SeriesInstanceUID\nlung;{UIDS[0]}\nslides;{UIDS[2]}\nx;1.9.9\n",
    ],
)
def test_manifests_list_series_by_uid(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest").write_text(text, encoding="utf-8")
    found = dicomdl.idc.from_manifest(tmp_path / "manifest")
    assert found.uids == [UIDS[0], UIDS[2]]
    assert found.missing == ("1.9.9",)
    assert "1 of the manifest" in repr(found)


def test_manifests_of_s5cmd_list_prefixes(tmp_path: Path) -> None:
    lines = [f"cp --show-progress s3://idc-open-data/{prefix}/* ." for prefix in PREFIXES[:2]]
    (tmp_path / "manifest.s5cmd").write_text("\n".join(lines))
    assert dicomdl.idc.from_manifest(tmp_path / "manifest.s5cmd").uids == list(UIDS[:2])


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\0\xff", b"a,b\n1,2\n", b'"', b"ListOfSeriesToDownload="),
        # These would take hours if a line or a digit were searched for from each one.
        pytest.param(b"\n" * 10**6, id="empty lines"),
        pytest.param(b"ListOfSeriesToDownload=" + b"1" * 10**6, id="digits"),
    ],
)
@pytest.mark.timeout(60)
def test_a_file_that_lists_no_series_is_a_typed_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "manifest").write_bytes(data)
    with pytest.raises(UsageError, match="lists no series"):
        dicomdl.idc.from_manifest(tmp_path / "manifest")
    with pytest.raises(UsageError, match="cannot be read"):
        dicomdl.idc.from_manifest(tmp_path / "absent")


def test_without_the_package_an_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "idc_index_data", None)
    with pytest.raises(MissingExtra, match=r"dicomdl\[idc\]"):
        dicomdl.idc.series()


def test_no_series_are_neither_indexed_nor_copied(tmp_path: Path) -> None:
    none = dicomdl.idc.series("Modality = 'XX'")
    with pytest.raises(UsageError, match="no series"):
        none.index()
    with pytest.raises(UsageError, match="no series"):
        none.download(tmp_path / "out")


# --- the bucket -----------------------------------------------------------------------------------


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """IDC's bucket with the two CT series."""
    pytest.importorskip("obstore")
    from dicomdl.storage import _stores

    monkeypatch.setenv("DICOMDL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_stores, "MAX_RETRIES", 1)
    server = ObjectServer()
    for number, prefix in enumerate(PREFIXES[:2]):
        files = write_series(tmp_path / "in", series_uid=UIDS[number], seed=number)
        for place, path in enumerate(files):
            server.objects[f"idc-open-data/{prefix}/{place:08x}.dcm"] = path.read_bytes()
    _stores.forget_clients()
    with serving(server) as running:
        yield running
    _stores.forget_clients()


def local(server: ObjectServer) -> dict[str, object]:
    return {"endpoint": server.url, "skip_signature": True, "region": "us-east-1"}


@pytest.mark.slow
def test_an_index_of_series_has_their_license_and_citation(
    bucket: ObjectServer, tmp_path: Path
) -> None:
    found = dicomdl.idc.series("Modality = 'CT'")
    index = found.index(tmp_path / "index", progress=False, storage_options=local(bucket))
    assert index.value(0, "license") == "CC BY 3.0"
    assert index.value(0, "collection_id") == "lung"
    assert index.citations() == ["Doe & Roe. Lung images. 2020 (CC BY 3.0)"]
    assert len(index.select(source_doi="10.1/lung")) == 12
    assert sorted(s.series_instance_uid for s in index.stacks) == list(UIDS[:2])
    assert np.array_equal(dicomdl.read_volume(index.stacks[0]).array, ramp((6, 5, 7)))


def test_files_are_copied_once_whole_and_by_series(bucket: ObjectServer, tmp_path: Path) -> None:
    found = dicomdl.idc.series("Modality = 'CT'")
    options = {"progress": False, "storage_options": local(bucket)}
    assert found.download(tmp_path / "out", **options) == {"copied": 12, "present": 0}
    folder = tmp_path / "out" / "lung" / "1.2.1" / f"CT_{UIDS[1]}"
    copies = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert copies == {
        key.rpartition("/")[2]: data for key, data in bucket.objects.items() if PREFIXES[1] in key
    }
    (folder / "00000003.dcm").unlink()
    bucket.clear()
    assert found.download(tmp_path / "out", **options) == {"copied": 1, "present": 11}
    assert len(bucket.gets()) == 1
    again = dicomdl.idc.from_manifest(tmp_path / "out" / "series.csv")
    assert again.uids == found.uids and not again.missing


@pytest.mark.parametrize("fault", ["other bytes", "404", "503"])
def test_an_object_that_cannot_be_copied_costs_no_other(
    bucket: ObjectServer, tmp_path: Path, fault: str
) -> None:
    def poison(request: Request) -> str:
        return fault if request.path.endswith("2.dcm") and request.method == "GET" else ""

    bucket.fault = poison
    found = dicomdl.idc.series("Modality = 'CT'")
    options = {"progress": False, "storage_options": local(bucket)}
    with pytest.raises(StorageError, match="2 of 12 objects") as error:
        found.download(tmp_path / "out", **options)
    assert error.value.failed == 2  # type: ignore[attr-defined]
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) == 10 and not any(path.name.endswith(".tmp") for path in files)
    bucket.fault = lambda request: ""
    assert found.download(tmp_path / "out", **options) == {"copied": 2, "present": 10}


@pytest.mark.slow
def test_the_command_finds_and_copies(
    bucket: ObjectServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(idc, "_OPEN", local(bucket))
    command = ["idc", "Modality = 'CT'"]
    assert main([*command, "--citations", "--download", str(tmp_path / "out"), "-q"]) == 0
    told = capsys.readouterr().out
    assert "Doe & Roe. Lung images. 2020" in told and "12 files copied" in told
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["series"] == list(UIDS[:2])
    assert main(["idc", "--columns"]) == 0
    assert "collection_id" in capsys.readouterr().out
    assert main(["idc", "x = 1", "--manifest", "m.tcia"]) == 2
