"""Scans of DICOMweb servers: Orthanc against the folder, and servers of our own that misbehave."""

import json
import os
import pickle
import shutil
import socket
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from network_servers import orthanc
from phantoms import write_multiframe, write_series
from phantoms_labels import contour, write_seg, write_structure_set
from pydicom.data import get_testdata_file
from pydicom.uid import JPEG2000Lossless
from torch.utils.data import DataLoader
from web_server import Answer, Asked, WebServer, as_json, multipart, serving

import dicomdl
from dicomdl.errors import DicomdlError, FileChanged, PixelError, StorageError, UsageError
from dicomdl.jobs import web_roots
from dicomdl.storage import dicomweb
from dicomdl.storage._web_login import TOKEN
from dicomdl.storage.dicomweb import JSON

pytest.importorskip("urllib3")

ENTIRE = (
    *("CT_small.dcm", "JPEG2000.dcm", "JPEG-lossy.dcm", "SC_rgb_jpeg_dcmtk.dcm", "rtdose.dcm"),
    *("examples_palette.dcm", "liver_1frame.dcm", "rtplan.dcm", "SC_rgb_rle_2frame.dcm"),
    *("ExplVR_BigEnd.dcm", "examples_jpeg2k.dcm", "reportsi.dcm"),
)
# What tells where a file lies, and an odd preamble, which the protocol does not pass on.
OF_THE_PLACE = {"path", "file", "row", "byte_offset", "byte_length", "flags"}


@dataclass(frozen=True)
class Archive:
    """A folder, and the root of a server that holds the same objects."""

    folder: Path
    root: str


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """Orthanc with series of CT and MR, several transfer syntaxes, SEG, RTSTRUCT, RTDOSE, SR."""
    folder = tmp_path_factory.mktemp("objects")
    write_series(folder / "ct", shape=(6, 32, 24))
    write_series(folder / "j2k", shape=(3, 32, 24), transfer_syntax=JPEG2000Lossless)
    write_multiframe(folder / "multi.dcm", shape=(5, 32, 24))
    series = sorted((folder / "ct").iterdir())
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in series]
    places = [[float(each) for each in header.ImagePositionPatient] for header in headers]
    spacing = [float(each) for each in headers[0].PixelSpacing]
    write_seg(
        folder / "seg.dcm",
        series[0],
        [(1, place, np.tri(32, 24, n, dtype=np.uint8)) for n, place in enumerate(places)],
        orientation=[float(each) for each in headers[0].ImageOrientationPatient],
        pixel_spacing=spacing,
    )
    square = np.array([[2, 2, 0], [2, 9, 0], [9, 9, 0], [9, 2, 0]]) + places[2]
    write_structure_set(folder / "rt.dcm", series[0], {"Heart": [contour(square)]})
    for name in ENTIRE:
        shutil.copy(str(get_testdata_file(name)), folder)
    with orthanc(tmp_path_factory.mktemp("orthanc")) as server:
        for path in sorted(each for each in folder.rglob("*") if each.is_file()):
            url = f"http://127.0.0.1:{server.http_port}/instances"
            with urllib.request.urlopen(url, path.read_bytes()) as reply:
                assert json.load(reply)["Status"] == "Success", path
        yield Archive(folder, f"dicomweb+{server.web}")


def scanned(root: str | Path, out: Path, **more: Any) -> dicomdl.Index:
    return dicomdl.scan(str(root), out, progress=False, **more)


@pytest.mark.slow
def test_a_server_gives_the_index_and_the_pixels_of_the_folder(
    archive: Archive, tmp_path: Path
) -> None:
    local = scanned(archive.folder, tmp_path / "local")
    remote = scanned(archive.root, tmp_path / "remote")
    assert not len(remote.problems), str(remote.problems)
    key = ["sop_instance_uid", "frame_number"]
    ours = local.to_pandas().sort_values(key).reset_index(drop=True)
    theirs = remote.to_pandas().sort_values(key).reset_index(drop=True)
    assert len(ours) == len(theirs) > 40
    for name in set(ours) - OF_THE_PLACE:
        # -0 is 0 in JSON.
        values = [[_comparable(each) for each in table[name]] for table in (ours, theirs)]
        # Orthanc sends objects of another byte order, or deflated, as what they were.
        assert values[0] == values[1], name
    assert _volumes(local) == _volumes(remote)
    for a, b in zip(ours.row, theirs.row, strict=True):
        one, other = (dicomdl.read_frame(index.frame(n)) for index, n in ((local, a), (remote, b)))
        assert np.array_equal(one, other)
    assert sorted(local.to_pandas("annotations").kind) == sorted(
        remote.to_pandas("annotations").kind
    )


def _comparable(value: Any) -> str:
    return repr(np.asarray(value).tolist() if not isinstance(value, str) else value).replace(
        "-0.0,", "0.0,"
    )


def _volumes(index: dicomdl.Index) -> list[Any]:
    """What a model sees of the stacks that are volumes, in a fixed order."""
    found = []
    for stack in index.stacks:
        if stack.verdict == "regular":
            volume = dicomdl.read_volume(stack)
            found.append((volume.array.tobytes(), np.round(volume.affine, 9).tolist()))
    return sorted(found)


@pytest.mark.slow
def test_labels_are_read_from_a_server(archive: Archive, tmp_path: Path) -> None:
    local = scanned(archive.folder, tmp_path / "local")
    remote = scanned(archive.root, tmp_path / "remote")
    labels = []
    for index in (local, remote):
        (stack,) = [each for each in index.stacks if each.modality == "CT" and each.slices == 6]
        labels.append([dicomdl.read_labels(stack, each).array for each in stack.annotations])
    assert len(labels[0]) == 2 and all(map(np.array_equal, *labels))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_data_sets_read_a_server_once_and_the_cache_afterwards(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    index = scanned(archive.root, tmp_path / "index").select(modality="CT", slices=6)
    for data in (
        dicomdl.FrameDataset(index),
        dicomdl.VolumeDataset(index),
        dicomdl.PatchDataset(index, (4, 8, 8), sampler="grid"),
    ):
        epochs = []
        for epoch in range(2):
            if epoch:
                # Without a server: all bytes are in the cache.
                monkeypatch.setattr(dicomweb.Session, "parts", None)
            loader = DataLoader(data, batch_size=None, num_workers=workers)
            epochs.append([np.asarray(sample["image"]).tobytes() for sample in loader])
        assert len(epochs[0]) and epochs[0] == epochs[1]
        monkeypatch.undo()


# --- a server of our own --------------------------------------------------------------------------

SYNTAX = "1.2.840.10008.1.2.1"


@dataclass
class Fake:
    """Metadata and frames by path, and an answer that replaces another one."""

    items: dict[str, dict[str, Any]] = field(default_factory=dict)
    frames: dict[str, list[bytes]] = field(default_factory=dict)
    instead: Callable[[Asked], Answer | None] = lambda asked: None
    syntax: str = SYNTAX

    def add(self, file: Path) -> None:
        """Add an uncompressed image."""
        data_set = pydicom.dcmread(file)
        frames = int(data_set.get("NumberOfFrames", 1))
        pixels, item = data_set.PixelData, data_set
        del item.PixelData
        path = (
            f"/studies/{item.StudyInstanceUID}/series/{item.SeriesInstanceUID}"
            f"/instances/{item.SOPInstanceUID}"
        )
        size = len(pixels) // frames
        self.frames[path] = [pixels[n * size : (n + 1) * size] for n in range(frames)]
        self.items[path] = json.loads(item.to_json())

    def answer(self, asked: Asked, _: socket.socket) -> Answer | None:
        """Answer as a server does."""
        if (found := self.instead(asked)) is not None:
            return found
        place = asked.path.removeprefix("/web").partition("/metadata")[0]
        below = [item for path, item in self.items.items() if path.startswith(place)]
        if asked.path.endswith("/metadata"):
            return as_json(below) if below else Answer(404)
        if "/frames/" in asked.path:
            place, _, number = place.partition("/frames/")
            frame = self.frames[place][int(number) - 1]
            return multipart(frame, kind=f"application/octet-stream; transfer-syntax={self.syntax}")
        first = "offset=0" in asked.query
        if place.endswith("/instances"):
            uids = [{"00080018": item["00080018"]} for item in self.items.values()]
            return as_json(uids if first else [])
        if place.endswith("/series"):
            names = ("0020000D", "0020000E")
            each = {json.dumps({n: item[n] for n in names}) for item in self.items.values()}
            return as_json([json.loads(text) for text in sorted(each)] if first else [])
        return Answer(404)


@pytest.fixture
def fake(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """A server with a series of three slices."""
    monkeypatch.setattr(dicomweb, "_LONGEST_PAUSE_S", 0.01)
    fake = Fake()
    for path in sorted(write_series(folder / "ct", shape=(3, 16, 12))):
        fake.add(path)
    return fake


@pytest.fixture
def server(fake: Fake) -> Iterator[WebServer]:
    """It runs."""
    with serving(fake.answer) as running:
        yield running


def root_of(server: WebServer) -> str:
    return f"dicomweb+{server.url}/web"


def only(answer: Answer, words: str) -> Callable[[Asked], Answer | None]:
    """Replace the answers to requests whose path ends or contains some words."""
    return lambda asked: answer if words in f"{asked.path}$" else None


@pytest.mark.slow
def test_an_update_asks_for_metadata_alone_and_reads_what_changed(
    fake: Fake, server: WebServer, tmp_path: Path
) -> None:
    first = scanned(root_of(server), tmp_path / "index")
    assert len(first) == 3 and first.stacks[0].verdict == "regular"
    asked = len(server.log)
    again = scanned(root_of(server), tmp_path / "index")
    assert again.generation == first.generation
    assert not any("/frames/" in path for path in server.paths()[asked:])
    assert len(server.log) - asked == 3  # two pages of series, and the metadata of one
    path = next(iter(fake.items))
    fake.items[path]["00081030"] = {"vr": "LO", "Value": ["changed"]}
    fake.frames[path][0] = bytes(reversed(fake.frames[path][0]))
    changed = scanned(root_of(server), tmp_path / "index")
    assert sum("/frames/" in each for each in server.paths()) == 4
    frame = next(changed.frame(n) for n in range(3) if changed.frame(n).path.endswith(path))
    assert frame.study_description == "changed"
    asked = len(server.log)
    dicomdl.read_frame(frame)
    assert len(server.log) == asked, "the frame that told the syntax was kept"


@pytest.mark.slow
def test_metadata_too_long_for_one_answer_come_by_instance_up_to_a_limit(
    fake: Fake, server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = max(len(json.dumps(item)) for item in fake.items.values())
    limits = dicomdl.ReadLimits(header_bytes=longest + 100)
    assert len(scanned(root_of(server), tmp_path / "index", limits=limits)) == 3
    assert sum(path.endswith("/metadata") for path in server.paths()) == 4
    monkeypatch.setattr(web_roots, "_MOST_SERIES_LIMITS", 1)
    index = scanned(root_of(server), tmp_path / "other", limits=limits)
    assert "too long to be read at once" in str(index.problems)


@pytest.mark.slow
def test_a_study_a_series_and_a_filter_are_roots(
    fake: Fake, server: WebServer, tmp_path: Path
) -> None:
    (place,) = {path.partition("/instances")[0] for path in fake.items}
    for number, root in enumerate((place, place.partition("/series")[0], "?Modality=CT")):
        assert len(scanned(root_of(server) + root, tmp_path / str(number))) == 3
    assert any("Modality=CT" in asked.query for asked in server.log)
    for root, words in (("/studies/abc", "leads to no service"), ("?PatientID=7", "filters by")):
        with pytest.raises(UsageError, match=words):
            scanned(root_of(server) + root, tmp_path / "none")


def test_no_secret_reaches_an_index_its_pickle_and_its_errors(
    fake: Fake, server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN, "s3cret-token")
    index = scanned(root_of(server), tmp_path / "index")
    assert {asked.headers["authorization"] for asked in server.log} == {"Bearer s3cret-token"}
    fake.instead = lambda asked: Answer(401)
    with pytest.raises(StorageError, match="wants credentials") as caught:
        scanned(root_of(server), tmp_path / "other")
    texts = [pickle.dumps(index), repr(caught.value).encode()]
    for folder in (tmp_path, Path(os.environ["DICOMDL_CACHE"])):
        texts += [each.read_bytes() for each in folder.rglob("*") if each.is_file()]
    assert not any(b"s3cret" in text for text in texts)
    with pytest.raises(UsageError, match="user name or password"):
        scanned(root_of(server).replace("//", "//me:s3cret@"), tmp_path / "none")


HOSTILE: dict[str, Any] = {
    "rows": {"00280010": {"vr": "US", "Value": [10**9]}},
    "frames": {"00280008": {"vr": "IS", "Value": [10**9]}},
    "many frames": {"00280008": {"vr": "IS", "Value": [900_000]}},
    "large frames": {
        "00280010": {"vr": "US", "Value": [65535]},
        "00280011": {"vr": "US", "Value": [65535]},
    },
    "wrong VR": {"00280010": {"vr": "SQ", "Value": ["x"]}},
    "unknown VR": {"00280010": {"vr": "??", "Value": [1]}},
    "no object": {"00280010": 7},
    "another instance": {"00080018": {"vr": "UI", "Value": ["1.2.3"]}},
    "a path for a UID": {"00080018": {"vr": "UI", "Value": ["../../1.2"]}},
}


@pytest.mark.quick(3)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_metadata_of_one_instance_are_a_problem_and_cost_no_other(
    name: str, fake: Fake, server: WebServer, tmp_path: Path
) -> None:
    path = next(iter(fake.items))
    fake.items[path] |= HOSTILE[name]
    index = scanned(root_of(server), tmp_path / "index")
    if name == "another instance":
        # It is listed under its own UID, and its frames are not there.
        fake.frames["/".join((*path.split("/")[:-1], "1.2.3"))] = fake.frames[path]
        assert len(index) in (2, 3)
        return
    assert len(index) == 2 and len(index.problems) == 1, str(index.problems)


@pytest.mark.slow
def test_nested_json_and_pages_of_html_are_a_problem_of_their_series(
    fake: Fake, server: WebServer, tmp_path: Path
) -> None:
    for body, kind in ((b"[" * 10**5, JSON), (b"<html>", "text/html"), (b"{]", JSON)):
        fake.instead = only(Answer(200, body, {"Content-Type": kind}), "/metadata$")
        index = scanned(root_of(server), tmp_path / "index")
        assert len(index) == 0 and len(index.problems) == 1
        assert "cannot be listed" in str(index.problems)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(401), "wants credentials"),
        (Answer(404), "does not exist on the server"),
        (Answer(500), "status 500"),
        (Answer(302, headers={"Location": "http://other.example/"}), "another address"),
        (as_json([{"0020000D": {"Value": ["../x"]}}]), "valid UID"),
    ],
    ids=["401", "404", "500", "redirected", "hostile UID"],
)
def test_a_service_that_cannot_be_listed_is_an_error(
    answer: Answer, words: str, fake: Fake, server: WebServer, tmp_path: Path
) -> None:
    fake.instead = lambda asked: answer
    with pytest.raises(DicomdlError, match=words):
        scanned(root_of(server), tmp_path / "index")


@pytest.mark.quick(3)
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (multipart(b"12", kind=f"application/octet-stream; transfer-syntax={SYNTAX}"), "2 bytes"),
        (multipart(b"1" * 10**6), "more than"),
        (multipart(bytes(384), bytes(384)), "more than was asked for"),
        (multipart(bytes(384), kind="application/octet-stream; transfer-syntax=1.2.3"), "said"),
        (Answer(200, b"--b", {"Content-Type": "multipart/related; boundary=b"}), "before the last"),
        (Answer(200, b"<html>", {"Content-Type": "text/html"}), "with a page"),
        (Answer(404), "is gone"),
        (Answer(500), "status 500"),
    ],
    ids=["short", "long", "two", "transcoded", "cut", "page", "gone", "500"],
)
def test_frames_other_than_the_scan_said_are_typed_errors(
    answer: Answer,
    words: str,
    fake: Fake,
    server: WebServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake.syntax = "1.2.840.10008.1.2.4.90" if words == "said" else SYNTAX
    index = scanned(root_of(server), tmp_path / "index")
    fake.instead = only(answer, "/frames/")
    monkeypatch.setenv("DICOMDL_BYTE_CACHE", "0")
    with pytest.raises((PixelError, FileChanged), match=words) as caught:
        dicomdl.read_frame(index.frame(0))
    assert "127.0.0.1" not in str(caught.value)


@pytest.mark.slow
def test_a_server_that_contradicts_itself_or_gives_no_frames_is_refused_or_read_as_a_whole(
    fake: Fake, server: WebServer, tmp_path: Path, folder: Path
) -> None:
    path = next(iter(fake.items))
    for item in fake.items.values():
        item["00083002"] = {"vr": "UI", "Value": ["1.2.840.10008.1.2.4.90"]}
    problems = scanned(root_of(server), tmp_path / "index").problems
    assert "sends its frames in" in str(problems), path
    files = {pydicom.dcmread(each).SOPInstanceUID: each for each in (folder / "ct").iterdir()}

    def whole(asked: Asked) -> Answer | None:
        uid = asked.path.rpartition("/")[2]
        if uid in files:
            return multipart(files[uid].read_bytes(), kind="application/dicom")
        return Answer(406) if "/frames/" in asked.path else None

    for item in fake.items.values():
        del item["00083002"]
    fake.instead = whole
    index = scanned(root_of(server), tmp_path / "index")
    local = scanned(folder / "ct", tmp_path / "local")
    assert np.array_equal(
        dicomdl.read_volume(index.stacks[0]).array, dicomdl.read_volume(local.stacks[0]).array
    )


@pytest.mark.slow
def test_without_a_cache_everything_is_asked_for_again(
    fake: Fake, server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setenv("DICOMDL_BYTE_CACHE", "0")
    index = scanned(root_of(server), tmp_path / "index")
    local = scanned(folder / "ct", tmp_path / "local")
    assert np.array_equal(
        dicomdl.read_volume(index.stacks[0]).array, dicomdl.read_volume(local.stacks[0]).array
    )
