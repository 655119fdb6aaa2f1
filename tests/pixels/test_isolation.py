"""isolation: what a decoder does in a helper process is the error of one frame."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phantoms_codec import COLUMNS, JXL, ROWS, codestream, image, write_codec

from dicomdl.errors import (
    DecodeError,
    DecoderDied,
    DecoderTimeout,
    PixelError,
    StorageError,
    TruncatedPixels,
    UnsupportedSyntax,
    UsageError,
)
from dicomdl.headers.frame_source import FrameSource
from dicomdl.pixels import decoders as codecs
from dicomdl.pixels import isolation as isolation_module
from dicomdl.pixels.isolation import Isolation, as_isolation, isolation_here
from dicomdl.pixels.options import Decoding
from dicomdl.storage import children

posix_only = pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
APART = Isolation(timeout_s=60)


def source(uid: str = JXL, bits: int = 8) -> FrameSource:
    return FrameSource(
        path="somewhere/7.dcm",
        frame_number=3,
        byte_offset=0,
        byte_length=0,
        bit_offset=0,
        deflated=False,
        file_bytes=0,
        file_mtime_ns=-1,
        transfer_syntax_uid=uid,
        rows=ROWS,
        columns=COLUMNS,
        samples_per_pixel=1,
        photometric_interpretation="MONOCHROME2",
        planar_configuration=0,
        bits_allocated=bits,
        bits_stored=bits,
        high_bit=bits - 1,
        pixel_representation=0,
        float_pixels=False,
    )


def end_helpers() -> None:
    while isolation_module._helpers.idle:
        isolation_module._helpers.idle.pop().child.end()


@pytest.fixture(autouse=True)
def helpers_end() -> Iterator[None]:
    """End the helpers, which know the path of the test that started them."""
    end_helpers()
    yield
    end_helpers()


@pytest.fixture
def codec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Helpers have the codec that does what it is told."""
    monkeypatch.syspath_prepend(write_codec(tmp_path / "codec"))


def decode(word: str = "", value: int = 0, isolation: Isolation = APART) -> Any:
    return codecs.decode(codestream(value, word), source(), isolation=isolation).samples


def helper_ids() -> list[int]:
    return [helper.child._process.pid for helper in isolation_module._helpers.idle]


@pytest.mark.usefixtures("codec")
@pytest.mark.slow
def test_a_decoder_that_dies_is_the_error_of_its_frame_and_the_next_frame_is_decoded() -> None:
    for word, why in (
        ("abort", "SIGABRT"),
        ("segfault", "SIGSEGV"),
        ("kill", "SIGKILL"),
        ("exit", "exit code 3"),
    ):
        if os.name != "posix" and word != "exit":
            continue
        with pytest.raises(DecoderDied, match=why) as caught:
            decode(word)
        error = caught.value
        assert (error.path, error.frame_number) == ("somewhere/7.dcm", 3)
        assert error.decoder == "imagecodecs.jpegxl_decode" in str(error)
        assert not isinstance(error, DecoderTimeout) and isinstance(error, PixelError)
        assert np.array_equal(decode(value=9), image(9))


@pytest.mark.slow
@pytest.mark.usefixtures("codec")
@pytest.mark.parametrize("word", ["sleep", "hang"])
def test_a_decoder_that_hangs_is_stopped_at_its_deadline(word: str) -> None:
    assert np.array_equal(decode(value=9), image(9))
    with pytest.raises(DecoderTimeout, match=r"in 0\.05 s") as caught:
        decode(word, isolation=Isolation(timeout_s=0.05))
    assert caught.value.timeout_s == 0.05 and "Isolation(timeout_s" in str(caught.value)
    assert helper_ids() == []


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits are Linux's")
@pytest.mark.usefixtures("codec")
def test_a_decoder_that_takes_all_memory_is_the_error_of_its_frame() -> None:
    with pytest.raises((MemoryError, DecoderDied)):
        decode("allocate", isolation=Isolation(memory_bytes=2**29))


@pytest.mark.slow
@pytest.mark.usefixtures("codec")
def test_errors_of_a_decoder_arrive_as_those_of_this_process_would() -> None:
    with pytest.raises(DecodeError, match="DicomrleError: the words of the codec"):
        decode("refuse")
    with pytest.raises(DecodeError, match=r"BaseException$"):
        decode("panic")
    with pytest.raises(DecoderDied, match="cannot be read"):
        decode("wide")
    rle = codecs.decode
    stream = (1).to_bytes(4, "little") + (64).to_bytes(4, "little") + b"\0" * 60
    apart, here = [], []
    for found, how in ((apart, APART), (here, Isolation("none"))):
        with pytest.raises((TruncatedPixels, DecodeError, UnsupportedSyntax)) as caught:
            rle(stream, source("1.2.840.10008.1.2.5"), isolation=how)
        found.append((type(caught.value), str(caught.value)))
    # The codec of the helper decodes no RLE, so pydicom's decoder is asked there.
    assert apart[0][0] in (TruncatedPixels, DecodeError) and here[0][0] is TruncatedPixels


@pytest.mark.slow
def test_the_real_codecs_give_the_same_values_in_a_helper() -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    values = np.random.default_rng(2).integers(0, 256, (ROWS, COLUMNS)).astype("u1")
    for uid, stream in (
        ("1.2.840.10008.1.2.4.80", imagecodecs.jpegls_encode(values, level=0)),
        ("1.2.840.10008.1.2.4.90", imagecodecs.jpeg2k_encode(values, level=0, codecformat="j2k")),
    ):
        out = np.empty_like(values)
        found = codecs.decode(bytes(stream), source(uid), out, isolation=APART).samples
        assert np.array_equal(found, values)
    with pytest.raises(TruncatedPixels):
        codecs.decode(bytes(stream)[:-20], source(uid), isolation=APART)
    assert len(helper_ids()) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("codec")
def test_one_helper_serves_frame_after_frame_and_each_thread_has_its_own() -> None:
    decode()
    first = helper_ids()
    decode()
    assert helper_ids() == first and len(first) == 1
    began, go = threading.Barrier(2), []

    def work() -> None:
        began.wait()
        go.append(decode(value=5))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [int(values[0, 0]) for values in go] == [5, 5]


@pytest.mark.slow
@posix_only
@pytest.mark.usefixtures("codec")
def test_a_helper_that_was_killed_while_it_waited_is_replaced_without_an_error() -> None:
    decode()
    (first,) = helper_ids()
    os.kill(first, signal.SIGKILL)
    isolation_module._helpers.idle[0].child._process.wait()
    assert np.array_equal(decode(value=4), image(4))
    assert helper_ids() != [first]


@pytest.mark.usefixtures("codec")
@pytest.mark.slow
def test_a_forked_process_uses_helpers_of_its_own() -> None:
    decode()
    parent = helper_ids()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            is_right = np.array_equal(decode(value=8), image(8))
            status = 0 if is_right and helper_ids() != parent else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert np.array_equal(decode(value=6), image(6)) and helper_ids() == parent


def test_by_default_only_decoders_that_fuzzing_has_not_proven_are_isolated() -> None:
    default = Isolation("unproven")
    isolated = {  # all are fallbacks
        decoder.name
        for syntax in codecs.SYNTAXES.values()
        for decoder in (*syntax.decoders, *syntax.reducers)
        if default.includes(decoder)
    }
    assert isolated == {
        "pydicom's plugin pylibjpeg",
        "pydicom's plugin pyjpegls",
    }
    jpeg2000 = codecs.find_syntax("1.2.840.10008.1.2.4.90").decoders
    assert not any(map(default.includes, jpeg2000))  # pylibjpeg is openjpeg here
    one = codecs.find_syntax(JXL).decoders[0]
    assert Isolation().includes(one) and not default.includes(one)


def test_the_environment_decides_where_no_option_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, decoders in (("", "unproven"), ("auto", "unproven"), ("process", "all")):
        isolation_here.cache_clear()
        monkeypatch.setenv(isolation_module.VARIABLE, text)
        assert isolation_here().decoders == decoders
    isolation_here.cache_clear()
    monkeypatch.setenv(isolation_module.VARIABLE, "yes")
    with pytest.raises(UsageError, match="DICOMDL_ISOLATION='yes'"):
        isolation_here()
    isolation_here.cache_clear()


def test_options_are_checked_and_compare_as_values() -> None:
    assert as_isolation("process") == Isolation() and as_isolation("auto") is None
    assert Decoding(isolation=Isolation()).with_threads(3).isolation == Isolation()
    wrong: Any
    for wrong in ({"decoders": "some"}, {"timeout_s": 0}, {"timeout_s": "1"}, {"memory_bytes": 0}):
        with pytest.raises(UsageError):
            Isolation(**wrong)
    with pytest.raises(UsageError, match="isolation='thread'"):
        as_isolation("thread")  # type: ignore[arg-type]


def test_without_python_no_frame_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children.sys, "executable", "/no/python")
    with pytest.raises(StorageError, match="no process can be started"):
        decode()


def test_a_helper_that_cannot_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation_module, "_TARGET", "dicomdl.no_such_module:answering")
    with pytest.raises(StorageError, match="isolation='none'"):
        decode()
