"""A DICOMweb archive on loopback that holds the files of a folder, and misbehaves as a test says.

It answers QIDO-RS of studies, series and instances, and WADO-RS of series and instances. `fault`
gets the path of a request and returns an answer in place of the right one, or None.
"""

import contextlib
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pydicom
from web_server import Answer, Asked, WebServer, as_json, multipart, serving

STUDY, SERIES = "StudyInstanceUID", "SeriesInstanceUID"
KEYS = ("PatientID", "AccessionNumber", "StudyDate", STUDY)


@dataclass
class FakeArchive:
    """The files, by UIDs, and how they are served.

    `promised` is added to the number of instances that a series is said to have; `narrows` is
    whether the keys of a search are looked at.
    """

    files: list[tuple[pydicom.Dataset, bytes]] = field(default_factory=list)
    fault: Callable[[Asked], Answer | None] = lambda asked: None
    promised: int = 0
    narrows: bool = True
    server: WebServer | None = None

    @property
    def url(self) -> str:
        """The root of the service."""
        assert self.server is not None
        return f"{self.server.url}/dicom-web"

    def add_folder(self, folder: Path) -> None:
        """Add the files of a folder."""
        for path in sorted(each for each in folder.rglob("*") if each.is_file()):
            self.files.append((pydicom.dcmread(path, stop_before_pixels=True), path.read_bytes()))

    def retrieved(self) -> list[str]:
        """Return the paths of requests for files."""
        assert self.server is not None
        return [
            path for path in self.server.paths() if re.search(r"/(series|instances)/[^/]+$", path)
        ]

    def answer(self, asked: Asked, _: socket.socket) -> Answer | None:
        """Answer one request."""
        wrong = self.fault(asked)
        if wrong is not None:
            return wrong
        kinds = asked.path.removeprefix("/dicom-web/").split("/")
        uids = dict(zip(kinds[::2], kinds[1::2], strict=False))
        chosen = [each for each in self.files if _is_in(each[0], uids)]
        if kinds[-1] == "studies":
            return as_json(self._studies(asked.query))
        if kinds[-1] == "series":
            return as_json(self._series(chosen, asked.query))
        if kinds[-1] == "instances":
            return as_json([_coded(each, "SOPInstanceUID") for each, _ in chosen])
        if not chosen:
            return Answer(404)
        return multipart(*(data for _, data in chosen), kind="application/dicom")

    def _studies(self, query: str) -> list[dict[str, Any]]:
        found = {}
        for each, _ in self.files:
            asked = dict(pair.split("=") for pair in query.split("&") if pair)
            if not self.narrows or all(
                str(each.get(key, "")) == asked[key] for key in KEYS if key in asked
            ):
                found[each.StudyInstanceUID] = _coded(each, *KEYS)
        return list(found.values())

    def _series(
        self, chosen: list[tuple[pydicom.Dataset, bytes]], query: str
    ) -> list[dict[str, Any]]:
        counts: dict[str, int] = {}
        firsts = {}
        for each, _ in chosen:
            counts[each.SeriesInstanceUID] = counts.get(each.SeriesInstanceUID, 0) + 1
            firsts.setdefault(each.SeriesInstanceUID, each)
        return [
            _coded(each, STUDY, SERIES, "Modality", "SeriesDescription")
            | {"00201209": {"vr": "IS", "Value": [counts[uid] + self.promised]}}
            for uid, each in firsts.items()
            if not self.narrows or f"{SERIES}={uid}" in query.split("&") or SERIES not in query
        ]


def _is_in(each: pydicom.Dataset, uids: dict[str, str]) -> bool:
    names = {"studies": STUDY, "series": SERIES, "instances": "SOPInstanceUID"}
    return all(str(each.get(names[kind], "")) == uid for kind, uid in uids.items())


def _coded(each: pydicom.Dataset, *names: str) -> dict[str, Any]:
    """Return some attributes in the DICOM JSON model."""
    found = {}
    for name in names:
        tag = f"{pydicom.datadict.tag_for_keyword(name):08X}"
        value = str(each.get(name, "") or "")
        found[tag] = {"vr": "LO", **({"Value": [value]} if value else {})}
    return found


def cut(answer: Answer, length: int) -> Answer:
    """Return an answer that ends behind so many bytes, against its Content-Length."""
    return replace(answer, body=answer.body[:length], claims=len(answer.body))


@contextlib.contextmanager
def archive_of(*folders: Path, tls: ssl.SSLContext | None = None) -> Iterator[FakeArchive]:
    """Serve the files of some folders until the block ends."""
    archive = FakeArchive()
    for folder in folders:
        archive.add_folder(folder)
    with serving(lambda asked, link: archive.answer(asked, link), tls) as server:
        archive.server = server
        yield archive
