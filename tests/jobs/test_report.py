"""report: one page about an index, with its facts, its findings, pictures and no identity."""

import base64
import html
import io
import json
import os
import re
import shutil
import stat
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser
from phantoms import write_series
from phantoms_labels import write_seg
from PIL import Image
from pydicom.dataset import Dataset

import dicomdl
from dicomdl.cli.main import main
from dicomdl.errors import MissingExtra, UsageError
from dicomdl.jobs.report import charts, drawing, page, pictures, tables
from dicomdl.jobs.report.drawing import Drawn, Wanted

SHAPE = (10, 16, 16)
EVIL = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"


def scanned(folder: Path) -> dicomdl.Index:
    return dicomdl.scan(folder, folder.with_name("an.index"), progress=False)


def made_of(index: dicomdl.Index, **options: Any) -> Any:
    return index.report(progress=False, **options)


def data_of(report: Any) -> dict[str, Any]:
    """Return the stacks of a page."""
    found = re.search(r'id="data">(.*?)</script>', report.html, re.S)
    assert found is not None
    return dict(json.loads(found[1]))


def column(report: Any, name: str) -> list[Any]:
    held = data_of(report)["columns"][name]
    return [held["v"][code] for code in held["c"]] if isinstance(held, dict) else list(held)


def sheet_of(report: Any, name: str) -> Any:
    found = re.search(rf'id="{name}">([^<]*)</script>', report.html)
    assert found is not None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))))


def text_of(report: Any) -> str:
    """Return the words of a page, without its script and data."""
    kept = re.sub(r"<(script|style)[^>]*>.*?</\1>", "", report.html, flags=re.S)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", kept)))


def described(**attributes: Any) -> Any:
    def edit(dataset: Dataset, z: int) -> None:
        dataset.WindowCenter, dataset.WindowWidth = 500, 1000
        for name, value in attributes.items():
            setattr(dataset, name, value)

    return edit


class Tags(HTMLParser):
    """The elements of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.mark.slow
def test_a_page_states_counts_verdicts_and_facts_of_every_stack(tmp_path: Path) -> None:
    write_series(tmp_path / "in/a", shape=SHAPE, spacing=(2, 1, 1.5), edit=described())
    write_series(tmp_path / "in/b", shape=SHAPE, drop=(4,), seed=1, edit=described())
    report = made_of(scanned(tmp_path / "in"))
    assert (report.stacks, report.undrawn, len(report.needing), report.ok) == (2, {}, 1, False)
    words = text_of(report)
    assert "1 of 2 stacks needs a person" in words and "missing slices" in words
    a, b = (column(report, "folder").index(name) for name in "ab")
    verdicts, slices = column(report, "verdict"), column(report, "slices")
    assert [verdicts[a], verdicts[b]] == ["regular", "missing_slices"]
    assert [slices[a], slices[b]] == [10, 9]
    assert [column(report, name)[a] for name in ("dz", "dy", "dx")] == [2, 1, 1.5]
    assert [column(report, "mb")[each] for each in (a, b)] == [0.00512, 0.004608]
    assert [column(report, "needs")[each] for each in (a, b)] == [0, 1]
    assert column(report, "reason")[b].startswith("1 of 10 slices missing after slice")


@pytest.mark.slow
def test_a_sheet_holds_the_planes_of_each_stack_at_its_place(tmp_path: Path) -> None:
    for number in range(3):
        stored = np.full(SHAPE, 250 * (number + 1))
        write_series(
            tmp_path / f"in/{number}", shape=SHAPE, stored=stored, seed=number, edit=described()
        )
    report = made_of(scanned(tmp_path / "in"), pictures=32)
    sheet = sheet_of(report, "sheet-0")
    folders = [int(name) for name in column(report, "folder")]
    for place, folder in enumerate(folders):
        middle = sheet[16, 96 * place + 16]
        assert np.abs(middle.astype(int) - 255 * (folder + 1) / 4).max() <= 6
    assert data_of(report)["sheets"] == {"across": 5, "per": 100, "planes": 3}


@pytest.mark.slow
def test_labels_lie_over_the_planes_and_have_their_volumes(tmp_path: Path) -> None:
    image = write_series(tmp_path / "in", shape=SHAPE, spacing=(2, 1, 1), edit=described())
    mask = np.zeros(SHAPE[1:], np.uint8)
    mask[2:6, 3:9] = 1
    frames = [(1, (0, 0, 2.0 * z), mask) for z in (3, 4, 5)]
    write_seg(tmp_path / "in/seg.dcm", image[0], frames, segments={1: "Liver", 2: "Spleen"})
    report = made_of(scanned(tmp_path / "in"), pictures=32)
    at = column(report, "content").index("image")
    assert column(report, "labels")[at] == "Liver"
    # 3 slices of 4 x 6 pixels, 2 mm3 each
    assert column(report, "ml")[at] == pytest.approx(3 * 24 * 2 / 1000)
    words = text_of(report)
    assert re.search(r"Liver SEG 1 0 0 0\.144 0\.144 0\.144", words)
    assert re.search(r"Spleen SEG 1 1 0", words)
    over = sheet_of(report, "marks-0")[:32, 96 * at : 96 * at + 32]
    rows, columns = np.nonzero(over[..., 3])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 11, 6, 17)
    without = made_of(dicomdl.open_index(tmp_path / "an.index"), pictures=32, labels=False)
    assert "marks-0" not in without.html


@pytest.mark.slow
def test_a_slider_has_slices_of_the_stacks_that_were_chosen(tmp_path: Path) -> None:
    for number in range(3):
        write_series(tmp_path / f"in/{number}", shape=SHAPE, seed=number, edit=described())
    index = scanned(tmp_path / "in")
    report = made_of(index, pictures=32, sliders=[1])
    assert data_of(report)["strips"] == {"1": list(range(1, 11))}
    assert sheet_of(report, "strip-1").shape == (48, 480, 3)
    assert set(data_of(made_of(index, pictures=32, sliders=2))["strips"]) == {"0", "2"}
    with pytest.raises(UsageError, match="no stack 7"):
        made_of(index, sliders=[7])


@pytest.mark.slow
def test_a_page_shows_no_identity_no_uid_and_no_full_path(tmp_path: Path) -> None:
    secrets = {
        "PatientName": "Doe^Jane",
        "PatientID": "ID-4711",
        "PatientBirthDate": "19501224",
        "StudyDate": "20230817",
        "PatientAge": "072Y",
        "PatientSex": "F",
    }
    paths = write_series(
        tmp_path / "in", shape=SHAPE, repeat=(3,), edit=described(**secrets), patient_id="ID-4711"
    )
    (tmp_path / "in" / "cut.dcm").write_bytes(paths[0].read_bytes()[:900])
    index = scanned(tmp_path / "in")
    text = made_of(index).html
    for word in ("Doe", "ID-4711", "1950", "20230817", "072Y", str(tmp_path)):
        assert word not in text
    uids = {index.value(0, name) for name in ("series_instance_uid", "sop_instance_uid")}
    assert not any(uid in text for uid in uids)
    asked = text_of(made_of(index, demographics=True))
    assert "Age years" in asked and "Sex" in asked


@pytest.mark.slow
def test_paths_are_hashed_when_asked(tmp_path: Path) -> None:
    write_series(tmp_path / "in/jane-doe", shape=SHAPE)
    write_series(tmp_path / "in/other", shape=SHAPE, seed=1)
    (tmp_path / "in/jane-doe/cut.dcm").write_bytes(b"\0" * 128 + b"DICM")
    index = scanned(tmp_path / "in")
    assert "jane-doe" in made_of(index).html
    report = made_of(index, paths="hash")
    assert "jane-doe" not in report.html and "an.index" not in report.html
    assert all(re.fullmatch("[0-9a-f]{12}", name) for name in column(report, "folder"))


def test_sentences_show_no_absolute_path() -> None:
    told = "'/data/a/x.dcm' of \"/home/jane/i\", 's3://bucket/k', 'C:\\\\a\\\\b', "
    told += "'1.2.3.4.5.6.77777777'"
    shown = tables.Paths(["/data/a", "/data/b"], "relative").scrubbed(told)
    assert shown == "'.../a/x.dcm' of '...', '...', '...', '…77777'"
    hashed = tables.Paths(["/data/a", "/data/b"], "hash").scrubbed("'a/x.dcm' and 'CT'")
    assert hashed == "'...' and 'CT'"


@pytest.mark.slow
@pytest.mark.parametrize("readable", ["one.dcm", "two.dcm"])
def test_the_newest_labels_that_can_be_read_are_shown(tmp_path: Path, readable: str) -> None:
    image = write_series(tmp_path / "in", shape=SHAPE, spacing=(2, 1, 1), edit=described())
    mask = np.ones(SHAPE[1:], np.uint8)

    def dated(day: str, name: str) -> Any:
        def edit(dataset: Dataset, z: int) -> None:
            dataset.ContentDate, dataset.ContentTime = day, "120000"
            if name != readable:
                del dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence

        return edit

    for day, name in (("20240101", "one.dcm"), ("20240102", "two.dcm")):
        write_seg(
            tmp_path / "in" / name,
            image[0],
            [(1, (0, 0, 2.0), mask)],
            segments={1: name},
            edit=dated(day, name),
        )
    report = made_of(scanned(tmp_path / "in"), pictures=32)
    at = column(report, "content").index("image")
    assert column(report, "labels")[at] == readable


@pytest.mark.slow
def test_text_from_files_makes_no_element_and_no_script(tmp_path: Path) -> None:
    harmless = write_series(tmp_path / "ok", shape=SHAPE, edit=described())
    plain = Tags(made_of(scanned(tmp_path / "ok")).html)
    folder = tmp_path / "in" / "<img src=x onerror=alert(2)>"
    write_series(
        folder,
        shape=SHAPE,
        edit=described(SeriesDescription=EVIL[:64], StudyDescription=EVIL[:64], PatientSex=""),
    )
    shutil.copy(harmless[0], folder / "<script>x.dcm")
    (folder / "<b>cut.dcm").write_bytes(harmless[0].read_bytes()[:900])
    index = dicomdl.scan(tmp_path / "in", tmp_path / "evil.index", progress=False)
    report = made_of(index.select(modality="CT"))
    evil = Tags(report.html)
    for tags in (plain, evil):
        scripts = [attributes for tag, attributes in tags.found if tag == "script"]
        runs = [each for each in scripts if "type" not in each]
        assert len(runs) == 1 and not any("src" in each for each in scripts)
        assert not any(tag == "img" for tag, _ in tags.found)
        assert not any(name.startswith("on") for _, held in tags.found for name in held)
    assert "\\u003c/script\\u003e" in report.html
    assert "<script>document" not in report.html


def test_data_in_a_script_element_cannot_end_it() -> None:
    text = page.as_json({"a": "</script>\u2028\u2029&<!--"})
    assert text.isascii() and not set(text) & set("<>&")
    assert json.loads(text) == {"a": "</script>\u2028\u2029&<!--"}


def test_the_policy_of_the_page_lets_its_own_script_run_alone(tmp_path: Path) -> None:
    write_series(tmp_path / "in", shape=SHAPE)
    text = made_of(scanned(tmp_path / "in"), pictures=0).html
    import hashlib

    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text and "default-src 'none'" in text
    assert "http" not in re.sub(r"http-equiv", "", text)
    assert len(script.splitlines()) <= 400


@pytest.mark.slow
def test_files_that_are_gone_are_named_on_their_cards(tmp_path: Path) -> None:
    write_series(tmp_path / "in/a", shape=SHAPE, edit=described())
    write_series(tmp_path / "in/b", shape=SHAPE, seed=1, edit=described())
    index = scanned(tmp_path / "in")
    shutil.rmtree(tmp_path / "in/a")
    report = made_of(index)
    (number,) = report.undrawn
    assert not report.ok
    assert column(report, "folder")[number] == "a"
    assert column(report, "error")[number].startswith("FileChanged: ")
    assert str(tmp_path) not in report.html
    assert column(report, "planes")[number] == ""
    assert "Stacks without a picture" in text_of(report)


def test_an_empty_index_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/readme.txt").write_text("no DICOM")
    report = made_of(scanned(tmp_path / "in"))
    assert report.stacks == 0 and data_of(report)["count"] == 0
    assert "no complete stack" in text_of(report)


@pytest.mark.slow
def test_pictures_are_cached_and_a_damaged_entry_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path / "in", shape=SHAPE, edit=described())
    index = scanned(tmp_path / "in")
    first = made_of(index)
    count = []
    real = pictures.draw
    monkeypatch.setattr(pictures, "draw", lambda *given: count.append(1) or real(*given))
    assert made_of(index).html == first.html
    assert not count
    (entry,) = Path(os.environ["DICOMDL_CACHE"], "pictures").rglob("*.bin")
    assert stat.S_IMODE(entry.stat().st_mode) == 0o600
    entry.write_bytes(entry.read_bytes()[:-5])
    assert made_of(index).html == first.html
    assert len(count) == 1
    made_of(index, pictures=32)
    assert len(count) == 2


@pytest.mark.slow
def test_pictures_that_are_cached_come_between_those_that_are_not(tmp_path: Path) -> None:
    for number in range(5):
        write_series(tmp_path / f"in/{number}", shape=(3, 8, 8), seed=number, edit=described())
    index = scanned(tmp_path / "in")
    wanted = {stack.number: Wanted(16) for stack in index.stacks}
    some = {number: wanted[number] for number in (0, 2, 3)}
    assert [n for n, _ in pictures.drawn(index, some, 1, progress=False)] == [0, 2, 3]
    assert [n for n, _ in pictures.drawn(index, wanted, 1, progress=False)] == list(range(5))


@pytest.mark.slow
def test_errors_are_not_cached(tmp_path: Path) -> None:
    write_series(tmp_path / "in", shape=SHAPE, edit=described())
    index = scanned(tmp_path / "in")
    (tmp_path / "in").rename(tmp_path / "away")
    assert made_of(index).undrawn
    (tmp_path / "away").rename(tmp_path / "in")
    assert not made_of(index).undrawn


def test_pictures_come_back_from_bytes_as_they_were() -> None:
    planes = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4)
    drawn = Drawn(("axial", "coronal"), (1.0, 2.0, 3.0), "HU", labels=(("a", None),), planes=planes)
    read = Drawn.from_bytes(drawn.to_bytes())
    assert read.planes is not None and np.array_equal(read.planes, planes)
    assert (read.names, read.labels, read.marks) == (drawn.names, drawn.labels, None)
    for damaged in (b"", b"\0" * 9, drawn.to_bytes()[:-3], b"\4\0\0\0null"):
        with pytest.raises(ValueError):
            Drawn.from_bytes(damaged)


@pytest.mark.slow
def test_worker_processes_draw_the_same_pictures(tmp_path: Path) -> None:
    for number in range(4):
        write_series(tmp_path / f"in/{number}", shape=SHAPE, seed=number, edit=described())
    index = scanned(tmp_path / "in")
    wanted = {stack.number: Wanted(32) for stack in index.stacks}
    alone = {n: drawing.draw(index.stack(n), how) for n, how in wanted.items()}
    together = dict(pictures._by_workers(index, wanted, list(wanted), 2))
    assert sorted(together) == sorted(alone)
    for number, made in alone.items():
        assert made.planes is not None
        assert np.array_equal(made.planes, together[number].planes)


@pytest.mark.slow
def test_a_worker_that_dies_costs_one_stack_its_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        write_series(tmp_path / f"in/{number}", shape=SHAPE, seed=number, edit=described())
    index = scanned(tmp_path / "in")
    wanted = {stack.number: Wanted(32) for stack in index.stacks}
    (tmp_path / "dying.py").write_text(
        "import json, os\n"
        "from dicomdl.jobs.report import drawing\n"
        "def answering(setup):\n"
        "    answer = drawing.answering(setup)\n"
        "    def other(message):\n"
        "        if json.loads(message)['stack'] == 1:\n"
        "            os._exit(3)\n"
        "        return answer(message)\n"
        "    return other\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(pictures, "TARGET", "dying:answering")
    made = dict(pictures._by_workers(index, wanted, list(wanted), 1))
    assert "ended" in made[1].error and not made[0].error and not made[2].error


@pytest.mark.slow
def test_a_split_shows_its_parts_its_leaks_and_the_targets_of_each(tmp_path: Path) -> None:
    for number in range(4):
        write_series(
            tmp_path / f"in/{number}", shape=(3, 8, 8), seed=number, patient_id=f"P{number % 2}"
        )
    index = scanned(tmp_path / "in")
    table = {"name": ["0", "1", "2", "3"], "grade": ["low", "high", "low", "low"]}
    index = index.join(table, on={"parent": "name"})
    apart = made_of(index, split=index.split((0.5, 0.5)), pictures=0)
    assert apart.audit is not None and apart.audit.ok and apart.ok
    assert set(column(apart, "part")) == {"training", "test"}
    words = text_of(apart)
    assert "The parts share no patient" in words and "Targets per part" in words
    assert re.search(r"value training test .*high", words)
    numbers = {name: number for number, name in enumerate(column(apart, "folder"))}
    one, two = ([numbers[name] for name in names] for names in ("01", "23"))
    leaking = made_of(index, split={"a": index.of_stacks(one), "b": index.of_stacks(two)})
    assert not leaking.ok and "what they must not share" in text_of(leaking)
    with pytest.raises(UsageError, match="two or more parts"):
        made_of(index, split=[index])
    index.split((0.5, 0.5)).saved.save(tmp_path / "split.json")
    command = ["report", str(tmp_path / "an.index"), "-o", str(tmp_path / "r.html"), "-q"]
    assert main([*command, "--pictures", "0", "--split", str(tmp_path / "split.json")]) == 0
    assert 'id="split"' in (tmp_path / "r.html").read_text()


@pytest.mark.slow
def test_the_command_counts_the_values_of_a_table_per_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        write_series(
            tmp_path / f"in/{number}", shape=(3, 8, 8), seed=number, patient_id=f"{number}"
        )
    index, out = scanned(tmp_path / "in"), tmp_path / "r.html"
    index.split((0.5, 0.5), seed=1).saved.save(tmp_path / "split.json")
    table = tmp_path / "targets.csv"
    table.write_text("name,grade,site\n0,low,x\n1,high,y\n2,low,x\n")
    command = ["report", index.path, "-o", str(out), "-q", "--pictures", "0", "--overwrite"]
    command += ["--split", str(tmp_path / "split.json")]
    joined = [*command, "--join", str(table), "--on", "parent=name"]
    assert main([*joined, "--target", "grade"]) == 0
    words = re.sub(r"<[^>]+>|\s+", " ", out.read_text())
    assert "Targets per part" in words and "grade (stacks)" in words and "site" not in words
    assert re.search(r"value +training +test +high .*low .*unknown", words)
    assert main(joined) == 0 and "site (stacks)" in out.read_text()
    assert "4 stacks, without pictures" in capsys.readouterr().out
    assert main([*joined, "--where", "grade=low"]) == 0
    for wrong in (["--join", str(table)], ["--target", "grade"], ["--on", "parent=name"]):
        assert main([*command, *wrong]) == 2
        assert "--join" in capsys.readouterr().err


@pytest.mark.slow
def test_a_comparison_shows_what_came_went_and_changed(tmp_path: Path) -> None:
    paths = [
        write_series(tmp_path / f"in/{number}", shape=SHAPE, seed=number, edit=described())
        for number in range(3)
    ]
    before = dicomdl.scan(tmp_path / "in", tmp_path / "before.index", progress=False)
    numbers = {stack.path[-1]: stack.number for stack in before.stacks}
    shutil.rmtree(tmp_path / "in/0")
    write_series(tmp_path / "in/3", shape=SHAPE, seed=3, edit=described())
    paths[1][4].unlink()
    now = scanned(tmp_path / "in")
    report = made_of(now, compare_with=tmp_path / "before.index", pictures=0)
    wanted = {"in both": 2, "changed": 1, "only here": 1, "only there": 1}
    assert report.compared == wanted == report.to_dict()["compared"]
    found = dict(zip(column(report, "folder"), column(report, "compared"), strict=True))
    assert found == {"1": "changed", "2": "same", "3": "only here"}
    words = text_of(report)
    assert "regular, now missing slices; 10 x 16 x 16, now 9 x 16 x 16" in words
    assert f"stack {numbers['0']} CT" in words and "Compared with before.index" in words
    command = ["report", str(tmp_path / "an.index"), "-o", str(tmp_path / "r.html"), "-q"]
    assert main([*command, "--pictures", "0", "--compare", str(tmp_path / "before.index")]) == 1
    assert main([*command, "--overwrite", "--compare", str(tmp_path / "absent")]) == 2


def test_bars_of_two_indexes_are_shares_of_each() -> None:
    made = charts.histogram("Slices", "", [1, 1, 2, None], other=[2])
    assert made is not None and made.is_double
    assert [(bar.label, bar.count, bar.other) for bar in made.bars] == [("1", 2, 0), ("2", 1, 1)]
    assert [bar.share for bar in made.bars] == pytest.approx([2 / 3, 1 / 3])
    assert [bar.other_share for bar in made.bars] == [0, 1]
    whole = charts.histogram("Slices", "", range(1, 101))
    assert whole is not None and whole.bars[0].label == "1 to 5"
    assert sum(bar.count for bar in whole.bars) == 100
    assert charts.histogram("Slices", "", [None]) is None


@pytest.mark.slow
def test_a_file_is_written_for_its_owner_and_never_over_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_series(tmp_path / "in", shape=SHAPE, edit=described())
    scanned(tmp_path / "in")
    out = tmp_path / "new" / "report.html"
    command = ["report", str(tmp_path / "an.index"), "-o", str(out), "-q"]
    assert main(command) == 0
    assert "1 stack, 1 with a picture" in capsys.readouterr().out
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    before = out.read_bytes()
    assert main(command) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert main([*command, "--overwrite", "--pictures", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    assert len(out.read_bytes()) < len(before)


@pytest.mark.slow
def test_the_command_exits_with_1_where_a_person_is_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_series(tmp_path / "in/a", shape=SHAPE, drop=(4,), edit=described())
    write_series(tmp_path / "in/b", shape=SHAPE, seed=1, edit=described())
    scanned(tmp_path / "in")
    command = ["report", str(tmp_path / "an.index"), "-o", str(tmp_path / "r.html"), "-q"]
    assert main([*command, "--sliders", "0,"]) == 1
    assert main([*command, "--overwrite", "--where", "verdict=regular"]) == 0
    assert main([*command, "--overwrite", "--where", "verdict=tilted"]) == 1
    assert main([*command, "--overwrite", "--pictures", "3"]) == 2
    with pytest.raises(SystemExit):
        main([*command, "--sliders", "x"])


@pytest.mark.parametrize(
    "options",
    [{"pictures": -1}, {"pictures": 1000}, {"paths": "full"}, {"workers": 0}, {"sliders": -1}],
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    write_series(tmp_path / "in", shape=(3, 8, 8))
    with pytest.raises(UsageError):
        made_of(scanned(tmp_path / "in"), **options)


def test_a_notebook_shows_the_page_inside_a_frame(tmp_path: Path) -> None:
    write_series(tmp_path / "in", shape=(3, 8, 8), edit=described())
    report = made_of(scanned(tmp_path / "in"))
    shown = report._repr_html_()
    ((tag, attributes),) = Tags(shown).found
    assert tag == "iframe" and attributes["sandbox"] == "allow-scripts"
    assert attributes["srcdoc"] == report.html


def test_without_jinja_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path / "in", shape=(3, 8, 8))
    index = scanned(tmp_path / "in")
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(MissingExtra, match=r"dicomdl\[report\]"):
        made_of(index)


def test_sizes_and_times_are_in_units_for_people() -> None:
    assert [page.size(n) for n in (0, 999, 12_345, 5e6, 2.5e12)] == [
        *("0 B", "999 B", "12.3 kB", "5 MB", "2.5 TB")
    ]
    assert [page.duration(s) for s in (0.0001, 0.04, 12, 200, 7200)] == [
        *("1 ms", "40 ms", "12 s", "3 min", "2 h")
    ]


# --- in a browser ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_browser_shows_cards_and_runs_no_script_of_a_file(
    tmp_path: Path, browser: Browser
) -> None:
    write_series(tmp_path / "in/a", shape=SHAPE, edit=described(SeriesDescription=EVIL[:64]))
    write_series(tmp_path / "in/b", shape=SHAPE, seed=1, edit=described())
    out = tmp_path / "report.html"
    made_of(scanned(tmp_path / "in"), out=out)
    cards = "document.querySelectorAll('.card').length"
    browser.open(f"file://{out}")
    browser.until(f"{cards} === 2")
    assert browser.value("document.title") == "an.index: report"
    assert browser.value("document.getElementById('count').textContent") == "2 stacks"
    browser.until("document.documentElement.outerHTML.includes('blob:')")
    assert all(each.startswith(("file:", "data:", "blob:")) for each in browser.asked)
    assert not browser.faults
    browser.open(f"file://{out}#q=folder-of-none")
    assert browser.value(cards) == 0
    browser.open(f"file://{out}#stack=1")
    browser.until("document.querySelector('dialog').open")
    browser.key("Escape")
    browser.until("!document.querySelector('dialog').open")
    assert not browser.faults


@pytest.mark.slow
def test_axe_finds_no_serious_fault(tmp_path: Path, browser: Browser) -> None:
    write_series(tmp_path / "in/a", shape=SHAPE, drop=(4,), edit=described())
    write_series(tmp_path / "in/b", shape=SHAPE, seed=1, edit=described())
    made_of(scanned(tmp_path / "in"), demographics=True, out=tmp_path / "report.html")
    browser.open(f"file://{tmp_path / 'report.html'}")
    browser.until("document.querySelectorAll('.card').length === 2")
    assert browser.axe() == []
