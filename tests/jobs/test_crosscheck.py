"""The check of pixels: decoders that agree, differ, refuse, die, hang and lie.

Also the choice of frames, and the report.
"""

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import phantoms
import phantoms_multi
import pytest
from numpy.typing import NDArray
from oracles import decoders
from phantoms import (
    write_multiframe,
    write_secondary_capture,
    write_segmentation_1bit,
    write_series,
)

import dicomdl
from dicomdl.errors import TruncatedPixels, UsageError
from dicomdl.jobs import _comparison as comparison_module
from dicomdl.jobs import _decoder_pairs as decoder_pairs_module
from dicomdl.jobs import crosscheck
from dicomdl.jobs import second_decoder as seconddecoder
from dicomdl.jobs._comparison import compare_frame
from dicomdl.jobs._decoder_pairs import relation, seconds_for
from dicomdl.jobs.crosscheck import PixelCheck, check_pixels, sampled
from dicomdl.jobs.second_decoder import SecondReader
from dicomdl.pixels import read as pixels
from dicomdl.storage.children import START_S, Child

pytestmark = pytest.mark.slow

Array = NDArray[Any]
Replace = Callable[[str], None]

RLE, DEFLATED, LITTLE = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.1"
JPEG, JPEG_LL, JPEG_LS, J2K, HTJ2K = (
    f"1.2.840.10008.1.2.4.{number}" for number in (50, 70, 80, 90, 201)
)
IDENTITY = ("RAMP^PHANTOM", "RAMP-1", "20200101", "RAMP STUDY", "RAMP CT", "120000")


def scan(folder: Path) -> dicomdl.Index:
    return dicomdl.scan(folder, folder.parent / f"{folder.name}.index", workers=1, progress=False)


def check(index: dicomdl.Index, **options: Any) -> PixelCheck:
    return check_pixels(index, progress=False, **options)


def counts(found: PixelCheck) -> dict[str, int]:
    """Number of frames per outcome, over all transfer syntaxes."""
    return {
        outcome: n
        for outcome in crosscheck.OUTCOMES
        if (n := sum(getattr(row, outcome) for row in found.rows))
    }


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dicomdl.Index:
    """Three native slices, shared by all tests of a misbehaving second decoder."""
    folder = tmp_path_factory.mktemp("plain") / "dicom"
    write_series(folder, shape=(3, 5, 7))
    return scan(folder)


# --- decoders that agree --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> dicomdl.Index:
    """A phantom per way of storing frames."""
    folder = tmp_path_factory.mktemp("many") / "dicom"
    for syntax in (*phantoms.NATIVE_SYNTAXES, RLE, JPEG_LL, JPEG_LS, J2K):
        write_series(
            folder,
            shape=(2, 6, 8),
            transfer_syntax=syntax,
            bits_stored=16,
            signed=True,
            offset=-60,
            seed=1,
        )
        write_series(folder, shape=(2, 6, 8), transfer_syntax=syntax, bits_allocated=8, seed=2)
    for syntax in (LITTLE, DEFLATED, RLE, J2K):
        write_secondary_capture(folder / f"rgb.{syntax}", frames=2, transfer_syntax=syntax)
        write_multiframe(folder / f"multi.{syntax}", transfer_syntax=syntax)
    write_secondary_capture(folder / "planes", planar_configuration=1, seed=7)
    write_secondary_capture(folder / "ybr", photometric="YBR_FULL", seed=8)
    write_segmentation_1bit(folder / "bits")
    for syntax in (LITTLE, RLE):
        phantoms_multi.write_mosaic(folder / f"mosaic.{syntax}", transfer_syntax=syntax)
    return scan(folder)


def test_phantoms_in_many_transfer_syntaxes_are_equal_to_both_decoders(many: dicomdl.Index) -> None:
    found = check(many, sample=None)
    assert found.ok and not found.differences, found.text()
    assert counts(found) == {"equal": len(many)}
    assert found.checked == found.frames == len(many)
    assert {row.transfer_syntax_uid for row in found.rows} == {
        *map(str, phantoms.NATIVE_SYNTAXES),
        RLE,
        JPEG_LL,
        JPEG_LS,
        J2K,
    }


@pytest.mark.parametrize("syntax", [JPEG_LL, JPEG_LS, J2K, JPEG, RLE])
def test_each_second_decoder_of_a_transfer_syntax_gives_the_same(
    tmp_path: Path, syntax: str
) -> None:
    kind = (
        {"bits_allocated": 8}
        if syntax == JPEG
        else {"bits_stored": 16, "signed": True, "offset": -60}
    )
    write_series(tmp_path / "a", shape=(1, 16, 24), transfer_syntax=syntax, **kind)  # type: ignore[arg-type]
    source = scan(tmp_path / "a").source(0)
    with SecondReader() as reader:
        used = []
        for second in seconds_for(source):
            compared = compare_frame(source, reader)
            if compared.second is not None:
                assert compared.difference.outcome in ("equal", "within_rounding"), (
                    compared.difference
                )
                used.append(compared.second.name)
            reader.missing.add(second.name)
    assert used


def colour_jpeg(path: Path) -> Path:
    """A picture with chrominance at half the width, which decoders upsample in different ways."""
    y, x = np.mgrid[:48, :64]
    rgb = np.stack([3 * x, 255 - 4 * y, 2 * x + 2 * y], axis=-1).clip(0, 255).astype("u1")
    stream = imagecodecs.jpeg8_encode(rgb, level=95, subsampling="422")

    def encode(dataset: Any, _: int) -> None:
        dataset.file_meta.TransferSyntaxUID = JPEG
        dataset.PhotometricInterpretation = "YBR_FULL_422"
        dataset.PixelData = phantoms.encapsulate([stream])
        dataset["PixelData"].VR = "OB"

    return write_secondary_capture(path, rows=48, columns=64, edit=encode)


def test_chrominance_that_was_filled_up_otherwise_is_within_rounding_and_listed(
    tmp_path: Path,
) -> None:
    colour_jpeg(tmp_path / "dicom" / "a")
    found = check(scan(tmp_path / "dicom"))
    assert found.ok
    assert sum(counts(found).values()) == 1
    assert set(counts(found)) <= {"equal", "within_rounding"}
    for difference in found.differences:
        assert "decoders differ" in difference.what
        assert difference.path not in found.text()
        assert difference.path in found.text(everything=True)


def test_a_transfer_syntax_with_one_decoder_is_counted_and_not_held_against_the_frame(
    plain: dicomdl.Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_pairs_module, "_SECONDS", {})
    found = check(plain, sample=None)
    assert found.ok and counts(found) == {"no_second_decoder": 3}
    assert "3 frames had no second decoder: decoded once only" in found.text()


def test_jpegls_whose_precision_is_not_bits_stored_is_a_difference(tmp_path: Path) -> None:
    # The writer codes 12 bits with a precision of 16. pydicom 3.0.2 then leaves the sign at bit 12.
    write_series(
        tmp_path / "dicom",
        shape=(1, 16, 24),
        transfer_syntax=JPEG_LS,
        bits_stored=12,
        signed=True,
        offset=-60,
    )
    found = check(scan(tmp_path / "dicom"))
    assert counts(found) in ({"different": 1}, {"equal": 1})
    assert all(d.max_difference == 4096 for d in found.differences)


def test_htj2k_is_decoded_by_another_library(tmp_path: Path) -> None:
    image = phantoms.ramp((1, 16, 24))[0].astype("u2")

    def encode(dataset: Any, _: int) -> None:
        dataset.file_meta.TransferSyntaxUID = HTJ2K
        dataset.PixelData = phantoms.encapsulate([phantoms.encode_htj2k(image)])
        dataset["PixelData"].VR = "OB"

    write_series(tmp_path / "dicom", shape=(1, 16, 24), edit=encode)
    found = check(scan(tmp_path / "dicom"))
    assert found.ok and counts(found) == {"equal": 1}
    assert found.rows[0].seconds["pydicom + imagecodecs.htj2k"] == "independent"


def test_a_second_build_of_one_library_is_called_that() -> None:
    told = {
        (uid, second.name): relation(second, uid)
        for uid, found in decoder_pairs_module._SECONDS.items()
        for second in found
    }
    assert told[J2K, "pydicom/pylibjpeg-openjpeg"] == "same library"
    assert told[JPEG_LS, "pydicom/pyjpegls"] == "same library"
    assert told[JPEG_LS, "pydicom/pylibjpeg-libjpeg"] == "independent"
    assert told[JPEG_LL, "pydicom + SimpleITK (GDCM)"] == "related"
    assert told[RLE, "pydicom/pydicom"] == "independent"
    order = ["independent", "related", "same library"]
    for uid, found in decoder_pairs_module._SECONDS.items():
        ranks = [order.index(told[uid, second.name]) for second in found]
        assert ranks == sorted(ranks), uid


# --- a first decoder that is wrong ----------------------------------------------------------------


def wrong(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    right = pixels.read_frame
    monkeypatch.setattr(
        comparison_module.pixels,
        "read_frame",
        lambda source, **options: change(right(source, **options)),
    )


def test_a_wrong_first_decoder_is_found_and_listed_with_how_wrong_it_is(
    plain: dicomdl.Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(values: Array) -> Array:
        values[2, 3] += 9
        return values

    wrong(monkeypatch, spoil)
    found = check(plain, sample=None)
    assert not found.ok and counts(found) == {"different": 3}
    for difference in found.differences:
        assert (difference.max_difference, difference.share) == (9, 1 / 35)
        assert difference.what.startswith("decoders differ: dicomdl and pydicom")
        assert os.path.basename(difference.path) in found.text()


def test_values_that_are_flipped_or_of_another_shape_are_different(
    plain: dicomdl.Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        wrong(patch, lambda values: values[::-1])
        assert counts(check(plain, sample=None)) == {"different": 3}
    wrong(monkeypatch, lambda values: values.T)
    found = check(plain, sample=None)
    assert counts(found) == {"different": 3}
    assert "shapes (7, 5) and (5, 7)" in found.text()


def test_one_level_is_a_difference_where_nothing_is_lossy(
    many: dicomdl.Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    lossless = many.select(transfer_syntax_uid=[JPEG_LS, J2K])
    wrong(monkeypatch, lambda values: values ^ 1)
    assert set(counts(check(lossless, sample=1))) == {"different"}


def test_a_frame_that_only_the_second_decoder_gives_is_a_difference(
    plain: dicomdl.Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise TruncatedPixels("the frame needs 70 bytes, found 3")

    monkeypatch.setattr(comparison_module.pixels, "read_frame", refuse)
    found = check(plain, sample=None)
    assert not found.ok and counts(found) == {"only_one": 3}
    assert (
        "dicomdl: TruncatedPixels (the frame needs 70 bytes, found 3); "
        "pydicom: gave an array of (5, 7)" in found.text()
    )


@pytest.mark.parametrize("syntax", [JPEG_LL])
def test_a_cut_frame_needs_a_person_whatever_the_second_decoder_makes_of_it(
    tmp_path: Path, syntax: str
) -> None:
    image = phantoms.ramp((1, 32, 48))[0].astype("u2")
    stream = phantoms.encode_frame(image, syntax, 16)

    def cut(dataset: Any, _: int) -> None:
        dataset.PixelData = phantoms.encapsulate([stream[: len(stream) * 2 // 3]])

    write_series(
        tmp_path / "dicom", shape=(1, 32, 48), bits_stored=16, transfer_syntax=syntax, edit=cut
    )
    found = check(scan(tmp_path / "dicom"))
    assert not found.ok
    assert set(counts(found)) <= {"only_one", "refused_by_both"}
    assert "dicomdl: TruncatedPixels" in found.text()


def test_a_frame_that_nobody_can_decode_needs_a_person(tmp_path: Path) -> None:
    def cut(dataset: Any, _: int) -> None:
        dataset.PixelData = phantoms.encapsulate([b"\xff\x4f\xff\x51" + bytes(60)])

    write_series(tmp_path / "dicom", shape=(1, 6, 8), transfer_syntax=J2K, edit=cut)
    found = check(scan(tmp_path / "dicom"))
    assert not found.ok and counts(found) == {"refused_by_both": 1}


@pytest.mark.parametrize("dtype", ["f4", "f8", "u8", "i8"])
def test_floats_and_wide_integers_are_compared_exactly(dtype: str) -> None:
    ours = np.array([[0, 1], [2**53, 3]], dtype)
    assert comparison_module._gaps(ours, ours).max() == 0
    other = ours.copy()
    other[1, 0] = np.nextafter(other[1, 0], 0) if dtype[0] == "f" else 2**53 + 1
    assert np.count_nonzero(comparison_module._gaps(ours, other)) == 1
    if dtype[0] == "f":
        other = ours.copy()
        ours[0, 0] = other[0, 0] = other[0, 1] = np.nan
        assert comparison_module._gaps(ours, other).tolist() == [[0, np.inf], [0, 0]]


# --- a second decoder that misbehaves -------------------------------------------------------------


@pytest.fixture
def replace_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Replace:
    """Make the second process read frames by a function body of `request` and the real `read`."""
    names = (f"replaced_second_{number}" for number in itertools.count())

    def replace(body: str) -> None:
        lines, name = "\n".join(f"    {line}" for line in body.splitlines()), next(names)
        (tmp_path / f"{name}.py").write_text(
            "import json, os, sys, time\n"
            "from dicomdl.jobs import second_decoder\n"
            f"def read(request, read=second_decoder.second_reading):\n{lines}\n"
            "def answering(_): return second_decoder.answering(read=read)\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(seconddecoder, "TARGET", f"{name}:answering")

    return replace


def second_file(index: dicomdl.Index) -> str:
    return index.source(1).path


def test_the_death_of_the_second_process_is_a_result_and_the_next_frame_goes_on(
    plain: dicomdl.Index, replace_second: Replace
) -> None:
    replace_second(
        f"if request['path'] == {second_file(plain)!r}: os.abort()\nreturn read(request)",
    )
    found = check(plain, sample=None)
    assert counts(found) == {"equal": 2, "only_one": 1}
    assert found.differences[0].path == second_file(plain)
    assert "pydicom: its process" in found.differences[0].what
    if os.name == "posix":
        assert "died (SIGABRT)" in found.differences[0].what


def test_a_second_process_that_hangs_is_stopped(
    plain: dicomdl.Index, replace_second: Replace
) -> None:
    replace_second(
        f"if request['path'] == {second_file(plain)!r}: time.sleep(600)\nreturn read(request)",
    )
    found = check(plain, sample=None, timeout_s=2)
    told = {difference.path: difference.what for difference in found.differences}
    assert "pydicom: gave no answer in 2 s and was stopped" in told[second_file(plain)]


def test_the_deadline_of_a_frame_begins_when_the_second_process_has_imported_its_decoder(
    plain: dicomdl.Index, replace_second: Replace, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadlines: list[float | None] = []
    receive = Child.receive

    def recorded(child: Child, timeout_s: float | None = None, *longest: int) -> Any:
        deadlines.append(timeout_s)
        return receive(child, timeout_s, *longest)

    monkeypatch.setattr(Child, "receive", recorded)
    assert counts(check(plain, sample=None, timeout_s=50)) == {"equal": 3}
    assert deadlines == [START_S, 50, 50, 50]


def test_a_second_process_that_cannot_start_is_a_result(
    plain: dicomdl.Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seconddecoder, "TARGET", "no_such_module:answering")
    found = check(plain, sample=1)
    assert counts(found) == {"only_one": 1}
    assert "ended as soon as it started (exit code 1)" in found.differences[0].what
    assert "No module named 'no_such_module'" in found.differences[0].what


@pytest.mark.parametrize(
    "body",
    [
        # The pipe of answers is a duplicate of standard output.
        "for number in range(3, 9):\n    try: os.write(number, b'nonsense' * 9)\n"
        "    except OSError: pass\nreturn read(request)",
        "import numpy; return numpy.zeros((1 << 10, 1 << 10))",
        "import numpy; return numpy.zeros((5, 7), 'c16')",
        "raise RuntimeError('RAMP^PHANTOM')",
    ],
    ids=["noise", "too large", "complex", "refusal"],
)
def test_an_answer_that_is_nonsense_is_a_result(
    plain: dicomdl.Index, replace_second: Replace, body: str
) -> None:
    replace_second(body)
    found = check(plain, sample=1)
    assert counts(found) == {"only_one": 1}
    assert "RAMP^PHANTOM" not in found.text()


def test_what_a_second_decoder_prints_does_not_get_between_its_answers(
    plain: dicomdl.Index, replace_second: Replace
) -> None:
    replace_second("print('hello', flush=True); os.write(1, b'hello'); return read(request)")
    assert counts(check(plain, sample=None)) == {"equal": 3}


def test_a_wrong_second_decoder_is_a_difference_told_neutrally(
    plain: dicomdl.Index, replace_second: Replace
) -> None:
    replace_second("return read(request) + 1")
    found = check(plain, sample=None)
    assert counts(found) == {"different": 3}
    assert all(
        d.what == "decoders differ: dicomdl and pydicom: by 1 at most, in 100.00% of the samples"
        for d in found.differences
    )


def test_the_next_decoder_is_asked_when_one_is_not_installed_or_refuses(
    tmp_path: Path, replace_second: Replace
) -> None:
    write_series(tmp_path / "dicom", shape=(2, 16, 24), transfer_syntax=JPEG_LS)
    index = scan(tmp_path / "dicom")
    for reason in ("ImportError()", "RuntimeError()"):
        replace_second(
            f"if request['name'] != 'pydicom + SimpleITK (GDCM)': raise {reason}\n"
            "return read(request)",
        )
        found = check(index)
        assert counts(found) == {"equal": 2}
        assert dict(found.rows[0].seconds) == {"pydicom + SimpleITK (GDCM)": "same library"}


def test_no_process_is_left_behind(plain: dicomdl.Index, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Child] = []
    monkeypatch.setattr(
        seconddecoder, "Child", lambda *_, **__: started.append(Child(*_, **__)) or started[-1]
    )
    check(plain, sample=None)
    assert len(started) == 1
    assert not started[0].is_alive


def test_what_was_written_for_the_second_decoder_is_removed_though_it_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replace_second: Replace
) -> None:
    write_series(tmp_path / "dicom", shape=(1, 16, 24), transfer_syntax=JPEG_LS)
    replace_second("open(request['scratch'] + '/frame.dcm', 'w').close(); os.abort()")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    assert counts(check(scan(tmp_path / "dicom"))) == {"only_one": 1}
    assert list((tmp_path / "scratch").iterdir()) == []


# --- the choice of frames -------------------------------------------------------------------------


def test_a_sample_has_frames_of_each_kind_and_follows_from_the_seed(many: dicomdl.Index) -> None:
    numbers, kinds = sampled(many, 1)
    assert len(numbers) == kinds == len(sampled(many, 1, seed=5)[0])
    assert sampled(many, 1) == (numbers, kinds)
    assert numbers == sorted(set(numbers))
    for name in (
        "transfer_syntax_uid",
        "bits_allocated",
        "samples_per_pixel",
        "photometric_interpretation",
        "sop_class_uid",
    ):
        assert {many.value(n, name) for n in numbers} == {
            many.value(n, name) for n in range(len(many))
        }
    assert any(sampled(many, 1, seed)[0] != numbers for seed in range(1, 6))


def test_a_sample_takes_one_frame_of_each_stack_before_a_second_of_any(tmp_path: Path) -> None:
    for seed, slices in enumerate((9, 3, 3)):
        write_series(tmp_path / "dicom", shape=(slices, 5, 7), seed=seed)
    index = scan(tmp_path / "dicom")
    for sample, expected in ((2, [1, 1]), (3, [1, 1, 1]), (5, [1, 2, 2]), (99, [3, 3, 9])):
        numbers, kinds = sampled(index, sample)
        stacks = [index.stack_of(n).number for n in numbers]
        assert (kinds, sorted(stacks.count(stack) for stack in set(stacks))) == (1, expected)


@pytest.mark.parametrize(
    "options", [{"sample": 0}, {"sample": -1}, {"timeout_s": 0}, {"timeout_s": float("nan")}]
)
def test_a_sample_or_time_that_is_not_positive_is_refused(
    plain: dicomdl.Index, options: dict[str, Any]
) -> None:
    with pytest.raises(UsageError):
        check(plain, **options)


# --- the report -----------------------------------------------------------------------------------


def test_the_report_is_plain_values_for_json_and_says_nothing_of_a_patient(
    many: dicomdl.Index, plain: dicomdl.Index, replace_second: Replace
) -> None:
    good = check(many, sample=1)
    replace_second("return read(request) + 1")
    bad = check(plain, sample=None)
    for found in (good, bad):
        values = found.to_dict()
        assert json.loads(json.dumps(values, allow_nan=False)) == values
        assert values["ok"] is found.ok
        for told in (
            json.dumps(values),
            found.text(),
            found.text(everything=True),
            repr(found),
            found._repr_html_(),
        ):
            assert not any(word in told for word in IDENTITY)
    assert "a sample of" in good.text() and "same library" in good.text()


def test_escape_sequences_of_a_path_do_not_reach_the_terminal(plain: dicomdl.Index) -> None:
    source = plain.source(0)
    difference = comparison_module.Difference(
        "\x1b[2Jx<b>",
        1,
        source.transfer_syntax_uid,
        "different",
        "dicomdl",
        "pydicom",
        "decoders differ",
    )
    found = check(plain)
    shown = PixelCheck(
        found.path, found.generation, 3, 0, found.rows, (difference,), {"different": 2}
    )
    assert "\x1b" not in shown.text() and "<b>" not in shown._repr_html_()
    assert "2 different" in shown.text()


def test_a_notebook_shows_counts_per_transfer_syntax_and_each_difference(
    plain: dicomdl.Index, replace_second: Replace
) -> None:
    good = check(plain, sample=None)._repr_html_()
    assert good.count("<table>") == 1 and good.count("<tr>") == 2
    replace_second("return read(request) + 1")
    bad = check(plain, sample=None)
    html = bad._repr_html_()
    assert html.count("<table>") == 2 and html.count("<tr>") == 3 + len(bad.differences)
    assert all(each.path in html and each.what in html for each in bad.differences)


def test_only_so_many_differences_are_kept_and_the_others_are_counted(
    plain: dicomdl.Index, monkeypatch: pytest.MonkeyPatch, replace_second: Replace
) -> None:
    monkeypatch.setattr(crosscheck, "KEPT_DIFFERENCES", 2)
    replace_second("return read(request) + 1")
    found = check(plain, sample=None)
    assert (len(found.differences), found.unlisted, counts(found)) == (
        2,
        {"different": 1},
        {"different": 3},
    )


def test_a_check_of_no_frame_shows_nothing_and_is_not_ok(plain: dicomdl.Index) -> None:
    found = check(plain.select(modality="MR"))
    assert not found.ok and found.rows == () and found.checked == 0
    assert "there is no frame to decode" in found.text()


# --- real files -----------------------------------------------------------------------------------


@pytest.mark.corpus
def test_the_compressed_files_of_the_corpus_give_what_another_decoder_gives(
    corpus: Path, tmp_path: Path
) -> None:
    folder = corpus / "cornerstonejs+cornerstone3D"
    index = dicomdl.scan(folder, tmp_path / "index", workers=1, progress=False)
    found = check(index)
    assert found.ok, found.text()
    assert found.checked >= 25 and len(found.rows) >= 12


# --- the oracle -----------------------------------------------------------------------------------


def test_the_oracle_explains_what_it_can_and_prints_what_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "dicom"
    write_series(
        folder, shape=(1, 16, 24), photometric="MONOCHROME1", bits_stored=16, slope=2, intercept=-7
    )
    write_series(folder, shape=(1, 16, 24), transfer_syntax=JPEG_LS, bits_stored=16, seed=2)
    colour_jpeg(folder / "colour")
    table, _ = decoders.compare_folder(folder, str(tmp_path / "index"), 2)
    assert not table.unexplained
    assert ("SimpleITK, the file", "MONOCHROME1 inverted") in table.verdicts
    assert table.counts["pydicom"]["equal"] == 1
    wrong(monkeypatch, lambda values: values[:, ::-1])
    table, _ = decoders.compare_folder(folder, str(tmp_path / "index"), 2)
    assert len(table.unexplained) >= 4
    assert set(decoders.VERDICTS) >= {verdict for _, verdict in table.verdicts}
