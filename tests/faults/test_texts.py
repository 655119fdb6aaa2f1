"""Hostile texts on the whole way: nothing that is printed commands a terminal or a page.

Texts of 15 character sets, in every text attribute of the index; names of files, folders and
indexes; names and values of joined tables; names of regions and segments.
"""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import phantoms_labels
import pydicom
import pytest
from phantoms import write_series
from pydicom.dataelem import DataElement

pytest.importorskip("torch")
from faults.whole_way import Way

import dicomdl
from dicomdl.cli.main import main
from dicomdl.headers.attribute import TEXT_VRS
from dicomdl.headers.frame import attributes

pytestmark = pytest.mark.slow
SHAPE = (2, 5, 7)
# PS3.3 C.12.1.1.2
CHARSETS = (
    *(f"ISO_IR {n}" for n in (100, 101, 109, 110, 144, 127, 126, 138, 148, 13, 166, 192)),
    *("GB18030", "\\ISO 2022 IR 87", "\\ISO 2022 IR 149"),
)
# What commands a terminal (ESC, BEL, CSI of C1), a page, or the reader (marks of direction), what
# forges lines, and what is no text in any character set, an escape sequence that ends too soon
# among it.
HOSTILE = (
    b"\x1b[2J\x1b]0;t\x07\x9b31m",
    "\u202ecod.exe\u2066\u200f".encode(),
    b"<script>alert(1)</script><img src=x onerror=y>",
    b"a\r\nforged line\x85\x0b\x0c\x00\x7f",
    b"\xff\xfe\xc3\x28\xed\xa0\x80\x1b$B",
    b"=HYPERLINK(1)\t%s{0}$x^2$\x08\x08",
)
PLACE = "P" * 96
NAMES = (b"a\x1b[2J.dcm", b"b\xff\xfe.dcm", b"c\nd.dcm", "\u202efg.dcm".encode(), b"<img>.dcm")


ALONE = [each for each in attributes() if each.vr in TEXT_VRS and not each.tag >> 16 & 1]
# Without these a file is another object, or none.
IDENTIFYING = ("transfer_syntax_uid", "sop_class_uid", "photometric_interpretation", "image_type")


def write_hostile(
    folder: Path, number: int, names: Sequence[str], text: bytes, charset: str
) -> None:
    """Write a series with a text in the attributes of these names, at a path that is hostile."""

    def edit(dataset: Any, z: int) -> None:
        dataset.SpecificCharacterSet = "C" * 40
        for each in ALONE:
            if each.name in names and each.name != "transfer_syntax_uid":
                dataset[each.tag] = DataElement(
                    each.tag, each.vr, PLACE, validation_mode=pydicom.config.IGNORE
                )

    into = os.path.join(os.fsencode(folder), b"r\x1b[1m%d" % number)
    os.makedirs(into)
    images = write_series(folder / "made", shape=SHAPE, seed=number, edit=edit)
    for image, name in zip(images, (NAMES * 2)[number % len(NAMES) :], strict=False):
        raw = image.read_bytes()
        assert PLACE.encode() in raw
        raw = raw.replace(PLACE.encode(), text.ljust(len(PLACE)))
        with open(os.path.join(into, name), "wb") as file:
            file.write(raw.replace(b"C" * 40, charset.encode().ljust(40)))
        image.unlink()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Series with a text in every attribute, per text and character set, and in each alone."""
    root = tmp_path_factory.mktemp("texts")
    harmless = [each.name for each in ALONE if each.name not in IDENTIFYING]
    described = [name for name in harmless if not name.endswith("_uid")]
    cases = [
        *((described, text, charset) for charset in CHARSETS for text in HOSTILE[::2]),
        *((described, text, CHARSETS[0]) for text in HOSTILE),
        *((harmless, text, CHARSETS[11]) for text in HOSTILE),
        *(([each.name], text, "") for each, text in zip(ALONE, itertools.cycle(HOSTILE))),
    ]
    for number, (names, text, charset) in enumerate(cases):
        if names != ["transfer_syntax_uid"]:
            write_hostile(root, number, names, text, charset)
    write_problems(root)
    return root


def write_problems(root: Path) -> None:
    """Write files that are problems, for values of UIDs and numbers, or because they are cut."""
    raw = write_series(root / "made", shape=(1, 5, 7), seed=-1)[0].read_bytes()
    syntax, slope = b"1.2.840.10008.1.2.1\0", b"\x28\0\x53\x10DS\4\0001.0 "
    assert syntax in raw and slope in raw
    into = os.path.join(os.fsencode(root), b"\x9b31m\xe2\x80\xae")
    os.mkdir(into)
    for name, changed in {
        b"syntax" + NAMES[0]: raw.replace(syntax, HOSTILE[0][:20]),
        b"slope" + NAMES[1]: raw.replace(slope, slope[:6] + b"\x10\0" + HOSTILE[0][:16]),
        b"cut" + NAMES[2]: raw[:-3],
        b"empty" + NAMES[3]: b"",
    }.items():
        with open(os.path.join(into, name), "wb") as file:
            file.write(changed)


@pytest.mark.timeout(300)
def test_nothing_that_is_printed_commands_a_terminal_or_a_page(
    folder: Path, tmp_path: Path
) -> None:
    way = Way()
    index = way.walk(folder, tmp_path / "in\x1b[5mdex\u202e")
    assert index is not None and len(index.stacks) > 80 and len(index.problems) == 4
    assert not way.escapes, (len(way.escapes), way.escapes[:20])


def test_regions_segments_and_tables_of_hostile_names_are_printed_without_harm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [text.decode("utf-8", "replace").replace("\0", "") for text in HOSTILE]
    images = write_series(tmp_path / "data", shape=(4, 5, 7))
    square = phantoms_labels.contour([[0, 0, 0], [3, 0, 0], [3, 3, 0], [0, 3, 0]])
    masks = [(1, (0.0, 0.0, 2.0 * z), np.ones((5, 7), np.uint8)) for z in range(4)]

    def utf8(dataset: pydicom.Dataset, z: int) -> None:
        dataset.SpecificCharacterSet = "ISO_IR 192"

    phantoms_labels.write_structure_set(
        tmp_path / "data" / "rt.dcm", images[0], {text: [square] for text in texts}, edit=utf8
    )
    phantoms_labels.write_seg(
        tmp_path / "data" / "seg.dcm", images[0], masks, segments={1: texts[0]}, edit=utf8
    )
    way = Way()
    index = way.walk(tmp_path / "data", tmp_path / "index")
    assert index is not None
    stack = next(stack for stack in index.stacks if stack.content == "image")
    table = {"Patient\x1b[1mID": [stack.patient_id, texts[0]], "a\x1b[2Jb\u202e": texts[:2]}
    joined = way.take(
        "join", lambda: index.join(table, {"PatientID": "Patient\x1b[1mID"}, on_unmatched="keep")
    )
    column = joined.joined.names[0]
    pairing = dicomdl.Pairing({f"<img>{texts[0]}": {"modality": "CT"}, "b": {"modality": "SEG"}})
    for step, do in {
        "regions": lambda: repr(dicomdl.LabelSource("RTSTRUCT").report(stack)),
        "no region": lambda: dicomdl.read_labels(stack, "RTSTRUCT", rois=texts[:1]),
        "no segment": lambda: dicomdl.read_labels(stack, "SEG", segments=["x\x1b[2J"]),
        "joined": lambda: repr(joined) + repr(joined.joined) + repr(joined.joins),
        "join by nothing": lambda: index.join(table, {"x\x1b[2J": "Patient\x1b[1mID"}),
        "join of others": lambda: index.join(table, {"SOPInstanceUID": "Patient\x1b[1mID"}),
        "no table": lambda: index.join("a\x1b[2J.csv", "PatientID"),
        "split": lambda: repr(joined.split((0.5, 0.5), stratify=column)),
        "split html": lambda: joined.split((0.5, 0.5), stratify=column)._repr_html_(),
        "select": lambda: joined.select(f"{column} == \x1b[2J"),
        "select a value": lambda: index.select(modality="\x1b[2J"),
        "targets": lambda: repr(dicomdl.FrameDataset(joined, target=column)),
        "pairs": lambda: (
            repr(pairing) + repr(pairing.pairs(index)) + pairing.pairs(index)._repr_html_()
        ),
        "open": lambda: dicomdl.open_index("a\x1b[2J\u202e"),
        "scan": lambda: dicomdl.scan("a\x1b[2J\udcff", progress=False),
    }.items():
        way.take(step, do)
    assert not way.escapes, (len(way.escapes), way.escapes[:20])
    assert way.outcomes["regions", "fine"] and way.outcomes["joined", "fine"]
    for command in (["show", "--stacks", "--annotations"], ["show", "--csv"], ["check", "--all"]):
        assert main([command[0], str(tmp_path / "index"), *command[1:]]) in (0, 1)
    main(["show", str(tmp_path / "a\x1b[2J")])
    printed = capsys.readouterr()
    way.judge("commands", printed.out + printed.err)
    assert not way.escapes, (len(way.escapes), way.escapes[:20])
