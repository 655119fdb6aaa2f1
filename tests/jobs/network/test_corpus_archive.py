"""Real files of every kind that Orthanc keeps come back with the index that they had.

One file per SOP class and transfer syntax of the corpus is sent, and fetched by WADO-RS, C-GET and
C-MOVE. Each folder is scanned, and the tables are compared column by column.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from network_servers import Orthanc, free_port, orthanc

pytest.importorskip("urllib3")
pytest.importorskip("pynetdicom")

import dicomdl
from dicomdl.index.schema import STATE_COLUMNS, TABLES
from dicomdl.index.stored_generation import StoredGeneration, read_manifest
from dicomdl.jobs.network.fetch import Access
from dicomdl.jobs.network.outgoing import Outgoing, outgoing
from dicomdl.jobs.network.placing import identity_of, path_of

pytestmark = pytest.mark.slow
_MOST_BYTES = 2**20
# Orthanc writes file meta information and lengths of sequences anew: data lie elsewhere. Neither
# protocol carries the preamble, and with it the flag "also_tiff".
OF_THE_FILE = {"byte_offset", "byte_length", "size"}

# Kinds of JPEG that are retired. Orthanc decodes them for C-GET, and refuses them for C-MOVE.
RETIRED = {"1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55"}


class Kept(NamedTuple):
    """The files that a server keeps, as they would be fetched, and their index."""

    server: Orthanc
    port: int
    folder: Path
    tables: dict[str, dict[str, list[str]]]


def chosen(corpus: Path) -> list[Outgoing]:
    """The smallest file per SOP class and transfer syntax, each of a series of its own."""
    found: dict[tuple[str, str], Outgoing] = {}
    for each in outgoing(corpus):
        if not isinstance(each, Outgoing) or each.syntax in RETIRED:
            continue
        if each.source.size <= _MOST_BYTES:
            other = found.setdefault((each.sop_class, each.syntax), each)
            if each.source.size < other.source.size:
                found[each.sop_class, each.syntax] = each
    return list(found.values())


@pytest.fixture(scope="module")
def kept(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Kept]:
    from conftest import CORPUS

    if not CORPUS.is_dir():
        pytest.skip("needs the corpus (DICOMDL_CORPUS)")
    place, port = tmp_path_factory.mktemp("kept"), free_port()
    for each in chosen(CORPUS):
        data = Path(each.source.path).read_bytes()
        identity = identity_of(data)
        if identity.study and identity.series and not each.is_renamed:
            target = place / "sent" / path_of(identity)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    with orthanc(place / "orthanc", move_to={"DICOMDL": port}) as server:
        sent = dicomdl.send(server.address, place / "sent", progress=False)
        for path in sent.failed:
            Path(path).unlink()
        assert sent.stored > 40, sent
        yield Kept(server, port, place / "sent", tables(place / "sent", place / "index"))


def tables(folder: Path, out: Path) -> dict[str, dict[str, list[str]]]:
    """The columns of all tables, with paths below the folder."""
    dicomdl.scan(folder, out, progress=False)
    stored = StoredGeneration(str(out), read_manifest(str(out))["generation"])
    found: dict[str, dict[str, list[str]]] = {}
    for name in TABLES:
        table = stored.table(name)
        columns = set(table.arrow.schema.names) - {*STATE_COLUMNS, *OF_THE_FILE}
        # Compared by their text, in which NaN is NaN.
        found[name] = {
            each: [
                repr(value).replace(f"{folder}/", "").replace("also_tiff", "")
                for value in table.column(each).to_pylist()
            ]
            for each in sorted(columns)
        }
    return found


def _comparable(value: Any, folder: Path) -> str:
    return repr(value).replace(f"{folder}/", "").replace("also_tiff", "")


@pytest.mark.parametrize("way", ["web", "get", "move"])
def test_every_kind_of_file_comes_back_with_the_index_that_it_had(
    kept: Kept, way: Any, tmp_path: Path
) -> None:
    address = kept.server.web if way == "web" else kept.server.address
    access = Access() if way == "web" else Access(method=way, port=kept.port)
    fetched = dicomdl.fetch(
        address, tmp_path / "got", description="*", access=access, progress=False, tries=2
    )
    assert fetched.ok, repr(fetched)
    assert fetched.fetched == fetched.promised > 40
    got = tables(tmp_path / "got", tmp_path / "index")
    for name, columns in kept.tables.items():
        for column, values in columns.items():
            assert got[name][column] == values, (name, column)
