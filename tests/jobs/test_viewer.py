"""The viewer: what its server tells of stacks, and what it keeps from others."""

import http.client
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nibabel
import numpy as np
import pytest
from browser import Browser
from conftest import index_of
from numpy.typing import NDArray
from phantoms import write_secondary_capture, write_series
from phantoms_labels import write_seg

import dicomdl
from dicomdl.cli import _view
from dicomdl.cli.main import main
from dicomdl.errors import StorageError, UsageError
from dicomdl.jobs.viewer import opened
from dicomdl.jobs.viewer.server import ViewServer

SHAPE = (6, 5, 7)
CANARY = "CANARY"


class Page:
    """A client of a server, as the page is one."""

    def __init__(self, index: dicomdl.Index, niivue: Path | None = None) -> None:
        self.server = ViewServer(index, niivue=niivue)
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


def page_of(pages: list[Page], index: dicomdl.Index, niivue: Path | None = None) -> Page:
    pages.append(Page(index, niivue))
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


@pytest.mark.slow
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


@pytest.mark.quick(2)
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


# --- in 3D ----------------------------------------------------------------------------------------

# What the page uses of NiiVue.
STAND_IN = """
window.x = {}; x.niivue=0;
window.niivue = {
  Niivue: class {
    constructor() { this.volumes = []; this.drawn = 0; }
    async attachToCanvas() {}
    setSliceType() {}
    addVolume(image) { this.volumes.push(image); }
    removeVolume(image) { this.volumes.splice(this.volumes.indexOf(image), 1); }
    updateGLVolume() { this.drawn++; }
  },
  NVImage: {
    new: async (buffer, name) =>
      ({ name, bytes: buffer.byteLength, setColormapLabel(c) { this.colours = c; } }),
  },
};
"""


def labelled(folder: Path, label: str = "Liver") -> dicomdl.Index:
    """An image with a segmentation of one block."""
    image = write_series(folder / "ct", shape=SHAPE, intercept=-1024)[0]
    block = np.zeros(SHAPE[1:], np.uint8)
    block[1:3, 2:5] = 1
    frames = [(1, (0, 0, 2.0 * z), block) for z in range(SHAPE[0])]
    write_seg(folder / "seg.dcm", image, frames, segments={1: label})
    return index_of(folder)


def test_volumes_and_labels_are_nifti_files_on_the_grid_of_the_exporters(
    folder: Path, pages: list[Page], tmp_path: Path
) -> None:
    index = labelled(folder)
    (stack,) = (each for each in index.stacks if each.content == "image")
    page = page_of(pages, index)
    for path, truth in (
        ("volume.nii", dicomdl.read_volume(stack)),
        ("labels/0.nii", dicomdl.read_labels(stack, "SEG")),
    ):
        reply, body = page.get(f"{page.path}stack/{stack.number}/{path}")
        assert reply.status == 200, body
        found, saved = nibabel.Nifti1Image.from_bytes(body), tmp_path / "saved.nii"
        truth.save(saved)
        expected = nibabel.load(saved)
        assert np.allclose(found.affine, expected.affine)
        assert np.array_equal(found.get_fdata(), expected.get_fdata())
    assert page.get(f"{page.path}stack/{stack.number}/labels/7.nii")[0].status == 422


def test_one_slice_and_unknown_positions_are_told_in_a_sentence(
    folder: Path, pages: list[Page]
) -> None:
    write_secondary_capture(folder / "capture.dcm")
    page = page_of(pages, index_of(folder))
    reply, body = page.get(f"{page.path}stack/0/volume.nii")
    assert reply.status == 422 and "one slice is no volume" in json.loads(body)["error"]


def test_niivue_is_the_file_of_the_user_alone(
    folder: Path, pages: list[Page], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_series(folder, shape=SHAPE)
    index, script = index_of(folder), tmp_path / "niivue.umd.js"
    without = page_of(pages, index)
    assert without.get(without.path + "niivue.js")[0].status == 422
    assert without.json("stacks.json")["has_solid"] is False
    script.write_text(STAND_IN)
    page = page_of(pages, index, script)
    assert page.get(page.path + "niivue.js")[1] == STAND_IN.encode()
    assert page.json("stacks.json")["has_solid"] is True
    script.write_text("alert(1)")
    with pytest.raises(UsageError, match=r"niivue\.umd\.js of its package"):
        ViewServer(index, niivue=script)
    assert main(["view", index.path, "--no-browser", "--niivue", str(tmp_path / "none.js")]) == 2
    assert "none.js" in capsys.readouterr().err


# --- in a browser ---------------------------------------------------------------------------------

EVIL = "<img src=x onerror=document.title='EVIL'><script>document.title='EVIL'</script>"
DRAWN = "state.planes.length === 3 && state.planes.every((each) => each.picture && each.placed)"
# The brightest and darkest grey of the plane that the keys move.
GREYS = """(() => {
  const { canvas, placed: { x, y, w, h } } = state.planes[state.chosen];
  const data = canvas.getContext("2d").getImageData(x + 2, y + 2, w - 4, h - 4).data;
  const greys = data.filter((_, n) => n % 4 === 1);
  return greys.reduce(([low, high], grey) => [Math.min(low, grey), Math.max(high, grey)], [255, 0]);
})()"""


@pytest.mark.slow
def test_a_browser_shows_pictures_and_obeys_keys_mouse_and_wheel(
    folder: Path, pages: list[Page], tmp_path: Path, browser: Browser
) -> None:
    index, script = labelled(folder, EVIL[:60]), tmp_path / "niivue.js"
    (stack,) = (each for each in index.stacks if each.content == "image")
    script.write_text(STAND_IN)
    page = page_of(pages, index, script)
    browser.open(f"{page.server.url}#stack={stack.number}")
    browser.until(DRAWN)
    number = "state.planes[state.chosen].number"
    assert browser.value(number) == 3 and "3D" in browser.value("document.body.innerText")
    assert browser.value(GREYS) != [0, 0]

    for key, expected in (
        *(("ArrowDown", 4), ("ArrowUp", 3), ("End", 5), ("Home", 0), ("PageDown", 5)),
        *(("PageUp", 0), ("ArrowUp", 0)),
    ):
        browser.key(key)
        browser.until(f"{number} === {expected}")
    browser.key("2")
    assert browser.value("state.planes[state.chosen].name") == "coronal"
    browser.key("1")

    middle = browser.value(
        "(() => { const b = state.planes[0].canvas.getBoundingClientRect();"
        "return [b.x + b.width / 2, b.y + b.height / 2] })()"
    )
    x, y = middle
    browser.wheel((x, y), 100)
    browser.until(f"{number} === 1")
    before = browser.value("[state.lower, state.width]")
    browser.drag((x, y), (x + 60, y + 20))
    browser.until("state.width !== " + str(before[1]))
    assert browser.value("state.width") > before[1]
    assert float(browser.value("$('width').value")) == pytest.approx(
        browser.value("state.width"), rel=1e-4
    )
    browser.key("r")
    assert browser.value("[state.lower, state.width]") == before
    greys = browser.value(GREYS)
    browser.key("i")
    assert browser.value(GREYS) != greys
    browser.key("i")
    assert browser.value(GREYS) == greys

    browser.key("l")
    browser.until("state.planes.every((each) => each.labels)")
    assert EVIL[:60] in browser.value("$('names').textContent")
    browser.key("d")
    browser.until("solid.shown")
    assert browser.value("$('planes').hidden && !$('solid').hidden")
    shown = browser.value("solid.nv.volumes.map((each) => [each.name, each.bytes > 352])")
    assert shown == [["volume.nii", True], ["labels.nii", True]]
    assert browser.value("solid.nv.volumes[1].colours.I") == [0, 1]
    browser.key("d")
    assert browser.value("$('solid').hidden && !$('planes').hidden")

    browser.key("n"), browser.key("p")
    browser.value("$('filter').value = 'ct', $('filter').dispatchEvent(new Event('input'))")
    assert browser.value("document.querySelectorAll('#stacks button').length") == 1
    assert browser.value("document.title") == "dicomdl view"
    assert all(each.startswith((page.server.url, "data:")) for each in browser.asked)
    assert not browser.faults


@pytest.mark.slow
def test_axe_finds_no_serious_fault_in_the_viewer(
    folder: Path, pages: list[Page], browser: Browser
) -> None:
    page = page_of(pages, labelled(folder))
    for width in (1400, 390):
        browser.size(width, 900)
        browser.open(page.server.url)
        browser.until("state.planes.length && state.planes.every((each) => each.picture)")
        browser.value("document.querySelector('details').open = true; sourced(0)")
        assert browser.axe() == []


@pytest.mark.slow
def test_niivue_itself_draws_a_volume_with_labels(
    folder: Path, pages: list[Page], browser: Browser
) -> None:
    script = os.environ.get("DICOMDL_NIIVUE", "")
    if not os.path.isfile(script):
        pytest.skip("needs niivue.umd.js of NiiVue (DICOMDL_NIIVUE)")
    index = labelled(folder)
    (stack,) = (each for each in index.stacks if each.content == "image")
    page = page_of(pages, index, Path(script))
    browser.open(f"{page.server.url}#stack={stack.number}")
    browser.until(DRAWN)
    browser.value("sourced(0)")
    browser.key("d")
    browser.until("solid.shown")
    sizes = browser.value("solid.nv.volumes.map((each) => each.dimsRAS.slice(1, 4))")
    assert sizes == [[7, 5, 6], [7, 5, 6]]
    assert all(each.startswith((page.server.url, "data:")) for each in browser.asked)
    assert not browser.faults
