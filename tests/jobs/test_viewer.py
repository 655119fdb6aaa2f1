"""The viewer: what its server tells of stacks, and what it keeps from others."""

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from conftest import index_of
from numpy.typing import NDArray
from phantoms import write_secondary_capture, write_series

import dicomdl
from dicomdl.cli import _view
from dicomdl.cli.main import main
from dicomdl.errors import StorageError
from dicomdl.jobs.viewer import opened
from dicomdl.jobs.viewer.server import ViewServer

SHAPE = (6, 5, 7)
CANARY = "CANARY"


class Page:
    """A client of a server, as the page is one."""

    def __init__(self, index: dicomdl.Index) -> None:
        self.server = ViewServer(index)
        self.server.start()
        self.path = urlsplit(self.server.url).path

    def get(self, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
        client = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        try:
            client.request("GET", path, headers=headers)
            reply = client.getresponse()
            return reply, reply.read()
        finally:
            client.close()

    def json(self, path: str) -> Any:
        return json.loads(self.get(self.path + path)[1])

    def array(self, path: str) -> NDArray[Any]:
        reply, body = self.get(self.path + path)
        assert reply.status == 200, body
        shape = [int(n) for n in reply.headers["X-Shape"].split(",")]
        return np.frombuffer(body, reply.headers["X-Dtype"]).reshape(shape)


@pytest.fixture
def pages() -> Iterator[list[Page]]:
    made: list[Page] = []
    yield made
    for page in made:
        page.server.close()


def page_of(pages: list[Page], index: dicomdl.Index) -> Page:
    pages.append(Page(index))
    return pages[-1]


def test_the_list_has_a_row_per_stack_and_the_page_loads_nothing_from_elsewhere(
    folder: Path, pages: list[Page]
) -> None:
    write_series(folder / "a", shape=SHAPE, patient_id=CANARY)
    write_series(folder / "b", shape=SHAPE, drop=[3], seed=1)
    page = page_of(pages, index_of(folder))
    rows = page.json("stacks.json")["stacks"]
    assert {row["verdict"] for row in rows} == {"regular", "missing_slices"}
    assert [row["needs_person"] for row in rows if row["verdict"] != "regular"] == [True]
    for name in ("", "page.js", "page.css", "stacks.json"):
        reply, body = page.get(page.path + name)
        assert reply.status == 200 and b"http" not in body and CANARY.encode() not in body
        assert "default-src 'none'" in reply.headers["Content-Security-Policy"]


def test_pictures_are_the_values_of_the_volume(folder: Path, pages: list[Page]) -> None:
    write_series(folder, shape=SHAPE, intercept=-1024)
    index = index_of(folder)
    page, volume = page_of(pages, index), dicomdl.read_volume(index.stacks[0]).array
    facts = page.json("stack/0/facts.json")
    assert [plane["name"] for plane in facts["planes"]] == ["axial", "coronal", "sagittal"]
    assert (facts["units"], facts["is_colour"], facts["labels"]) == ("HU", False, [])
    assert np.array_equal(page.array("stack/0/picture?plane=axial&number=4"), volume[4])
    assert np.array_equal(page.array("stack/0/picture?plane=coronal&number=1"), volume[::-1, 1])


def test_the_window_of_the_file_is_the_first_one_shown(folder: Path, pages: list[Page]) -> None:
    def edit(data_set: Any, number: int) -> None:
        data_set.WindowCenter, data_set.WindowWidth = 40, 400
        data_set.VOILUTFunction = "LINEAR_EXACT"

    write_series(folder, shape=SHAPE, edit=edit)
    assert page_of(pages, index_of(folder)).json("stack/0/facts.json")["window"] == [-160, 400]


def test_ct_without_a_window_is_shown_with_that_of_soft_tissue(
    folder: Path, pages: list[Page]
) -> None:
    write_series(folder, shape=SHAPE, intercept=-1024)
    assert page_of(pages, index_of(folder)).json("stack/0/facts.json")["window"] == [-150, 400]


def test_colour_and_images_without_geometry_are_shown(folder: Path, pages: list[Page]) -> None:
    write_secondary_capture(folder / "capture.dcm")
    page = page_of(pages, index_of(folder))
    assert page.json("stack/0/facts.json")["planes"][0]["name"] == ""
    assert page.array("stack/0/picture?plane=&number=0").shape[0] > 1


def test_labels_of_the_demo_lie_on_its_pictures(tmp_path: Path, pages: list[Page]) -> None:
    dicomdl.demo_data(tmp_path / "demo", patients=1)
    index = dicomdl.scan(tmp_path / "demo", tmp_path / "index", progress=False)
    stack = next(each for each in index.stacks if each.annotations)
    page = page_of(pages, index)
    sources = page.json(f"stack/{stack.number}/facts.json")["labels"]
    assert [each["kind"] for each in sources] == ["SEG", "RTSTRUCT"]
    truth = dicomdl.read_labels(stack, "SEG")
    names = page.json(f"stack/{stack.number}/names.json?source=0")
    assert names == {str(number): name for number, name in truth.names.items()}
    number = int((truth.array > 0).sum((1, 2)).argmax())
    query = f"plane=axial&number={number}&source=0"
    assert np.array_equal(page.array(f"stack/{stack.number}/labels?{query}"), truth.array[number])


def test_a_stack_whose_files_are_gone_is_told_in_a_sentence_and_others_are_shown(
    folder: Path, pages: list[Page]
) -> None:
    write_series(folder / "a", shape=SHAPE)
    write_series(folder / "b", shape=SHAPE, seed=1)
    index = index_of(folder)
    gone = index.stacks[0]
    for path in gone.paths:
        Path(path).unlink()
    page = page_of(pages, index)
    reply, body = page.get(f"{page.path}stack/0/facts.json")
    assert reply.status == 422 and "gone" in json.loads(body)["error"]
    assert page.json("stack/1/facts.json")["number"] == 1


def test_two_stacks_stay_open_and_older_ones_are_closed(folder: Path) -> None:
    for number in range(3):
        write_series(folder / str(number), shape=SHAPE, seed=number)
    stacks = opened.OpenStacks(index_of(folder))
    first = stacks.get(0)
    assert stacks.get(0) is first
    stacks.get(1), stacks.get(2)
    assert stacks.get(0) is not first


@pytest.mark.parametrize(
    "path",
    [
        "stack/9/facts.json",
        "stack/0/picture?plane=axial&number=6",
        "stack/0/picture?plane=oblique&number=0",
        "stack/0/picture?plane=axial",
        "stack/0/labels?plane=axial&number=0&source=0",
        "stack/x/facts.json",
        "../server.py",
        "page.py",
    ],
)
def test_what_does_not_exist_is_refused_in_a_sentence(
    folder: Path, pages: list[Page], path: str
) -> None:
    write_series(folder, shape=SHAPE)
    page = page_of(pages, index_of(folder))
    reply, body = page.get(page.path + path)
    assert reply.status in (404, 422) and json.loads(body)["error"]


def test_without_the_token_or_under_another_host_nothing_is_told(
    folder: Path, pages: list[Page]
) -> None:
    write_series(folder, shape=SHAPE)
    page = page_of(pages, index_of(folder))
    for path in ("/", "/stacks.json", f"/{'x' * 32}/stacks.json", page.path[:-2] + "/stacks.json"):
        assert page.get(path)[0].status == 404
    assert page.get(page.path, Host="example.org")[0].status == 403
    assert page.server.url.startswith("http://127.0.0.1:")


def test_an_index_without_stacks_is_an_empty_list(folder: Path, pages: list[Page]) -> None:
    folder.mkdir(exist_ok=True)
    assert page_of(pages, index_of(folder)).json("stacks.json")["stacks"] == []


def test_a_port_that_is_taken_is_an_error(folder: Path, pages: list[Page]) -> None:
    write_series(folder, shape=SHAPE)
    index = index_of(folder)
    port = page_of(pages, index).server.port
    with pytest.raises(StorageError, match=str(port)):
        ViewServer(index, port)


def test_the_command_prints_the_address_and_ends_with_ctrl_c(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(folder, shape=SHAPE)
    index = index_of(folder)
    seen: list[str] = []
    monkeypatch.setattr(_view.webbrowser, "open", seen.append)

    def interrupted(server: ViewServer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ViewServer, "wait", interrupted)
    assert main(["view", index.path]) == 0
    printed = capsys.readouterr().out
    assert seen and seen[0] in printed and "closed" in printed
    assert main(["view", index.path, "--no-browser"]) == 0 and len(seen) == 1


def test_several_requests_at_once_have_their_own_pictures(folder: Path, pages: list[Page]) -> None:
    write_series(folder, shape=SHAPE)
    index = index_of(folder)
    page, volume = page_of(pages, index), dicomdl.read_volume(index.stacks[0]).array
    found: dict[int, NDArray[Any]] = {}

    def ask(number: int) -> None:
        found[number] = page.array(f"stack/0/picture?plane=axial&number={number}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[number], volume[number]) for number in range(6))
