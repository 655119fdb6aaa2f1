"""Objects of stores: ranges, states, the byte cache, reading ahead, and processes."""

import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from object_server import ObjectServer, serving

from dicomdl.errors import FileChanged, PixelError, UsageError
from dicomdl.storage import _byte_cache, _plans, _store_options, _stores, objects
from dicomdl.storage._byte_cache import ByteCache
from dicomdl.storage._store_options import (
    bucket_of,
    checked_options,
    query_of,
    remember_query,
    without_secrets,
)
from dicomdl.storage.ahead import Span, reading_ahead
from dicomdl.storage.handles import UNKNOWN, NotFetched, Source
from dicomdl.storage.listing import listed, state_of_object
from dicomdl.storage.locations import joined
from dicomdl.storage.object_heads import FirstBytes, walk_heads
from dicomdl.storage.objects import RemoteObject, fetch, have_queries
from dicomdl.storage.sources import look_up, opened, read_exactly, read_pieces, read_range

pytest.importorskip("obstore")
RNG = np.random.default_rng(7)
DATA = RNG.bytes(300_000)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    monkeypatch.setenv("DICOMDL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_stores, "MAX_RETRIES", 2)
    _stores.forget_clients()
    with serving(ObjectServer({"b/a.dcm": DATA})) as running:
        declare(running)
        yield running
    _stores.forget_clients()


def declare(server: ObjectServer) -> None:
    options = {"endpoint": server.url, "skip_signature": True, "region": "us-east-1"}
    objects.declare(["s3://b"], options)


def scanned(url: str) -> Source:
    return look_up(Source(url))


def ranges(server: ObjectServer) -> list[tuple[int | None, int | None]]:
    return [(each.start, each.stop) for each in server.gets()]


# --- handles --------------------------------------------------------------------------------------


def test_a_range_of_an_object_is_one_request_of_its_bytes(server: ObjectServer) -> None:
    source = scanned("s3://b/a.dcm")
    assert (source.size, source.ctime_ns, source.inode) == (len(DATA), UNKNOWN, 0)
    server.clear()
    with opened(source) as handle:
        assert handle.read_at(1000, 500) == DATA[1000:1500]
        assert handle.read_at(len(DATA) - 10, 500) == DATA[-10:]
        assert handle.read_at(len(DATA), 5) == b""
    assert ranges(server) == [(1000, 1500), (len(DATA) - 10, len(DATA))]
    assert {each.headers["if-match"] for each in server.gets()} == {f'"{source.etag}"'}


def test_http_and_percent_encoded_names_are_objects_too(server: ObjectServer) -> None:
    server.objects["d/x y+é.dcm"] = DATA
    for path in ("/d/x%20y+%C3%A9.dcm", "/d/x%20y%2B%C3%A9.dcm"):
        with opened(Source(server.url + path)) as handle:
            assert read_range(handle, 5, 7) == DATA[5:12]


def test_keys_are_text_as_they_are(server: ObjectServer) -> None:
    for key in ("x%20y", "a b+c", "é", "a#b?c=1", "q&r"):
        server.objects[f"b/{key}"] = DATA
        with opened(Source(f"s3://b/{key}")) as handle:
            assert read_range(handle, 5, 7) == DATA[5:12]


@pytest.mark.parametrize("etags", [True, False])
def test_an_object_in_another_state_is_refused(server: ObjectServer, etags: bool) -> None:
    server.etags = etags
    source = scanned("s3://b/a.dcm")
    server.objects["b/a.dcm"] = DATA[:-1]
    with opened(source) as handle, pytest.raises(FileChanged, match="scan again"):
        handle.read_at(0, 100)


def test_equal_size_and_another_etag_is_another_object(server: ObjectServer) -> None:
    source = scanned("s3://b/a.dcm")
    server.version = "2"
    with opened(source) as handle, pytest.raises(FileChanged, match="another ETag"):
        handle.read_at(0, 100)


def test_a_store_that_ignores_if_match_mixes_no_states(server: ObjectServer) -> None:
    server.weak = True
    source = scanned("s3://b/a.dcm")
    assert source.etag.startswith("W/")
    with opened(source) as handle:
        assert handle.read_at(0, 10) == DATA[:10]
    assert "if-match" not in server.gets()[-1].headers
    server.version = "2"
    with opened(source) as handle, pytest.raises(FileChanged, match="another ETag"):
        handle.read_at(50, 100)


def test_an_object_that_is_gone_was_changed(server: ObjectServer) -> None:
    source = scanned("s3://b/a.dcm")
    del server.objects["b/a.dcm"]
    with opened(source) as handle, pytest.raises(FileChanged, match="gone"):
        handle.read_at(0, 100)
    with pytest.raises(PixelError, match="no such object"):
        look_up(Source("s3://b/a.dcm"))


def test_an_empty_object_has_a_state(server: ObjectServer) -> None:
    server.objects["b/empty"] = b""
    assert RemoteObject("s3://b/empty").size == 0


FAULTS = [
    ("403", "refuses access"),
    ("401", "credentials"),
    ("404", "no such object"),
    ("416", "ends before"),
    ("429", "fewer requests"),
    ("500", "status 500"),
    ("503", "status 503"),
    ("301", "region"),
    ("cut", "cut its answer"),
    ("short", "sent 50 bytes, expected 100"),
    ("wrong range", "other bytes"),
    ("no range", "byte ranges"),
]


@pytest.mark.quick(12)
@pytest.mark.parametrize(("fault", "words"), FAULTS)
@pytest.mark.parametrize("scheme", ["s3", "http"])
def test_a_fault_of_a_server_is_one_sentence_without_secrets(
    server: ObjectServer, fault: str, words: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stores, "_BODY_TRIES", 1)
    url = remember_query(f"{server.url}/b/a.dcm?sig=SECRET") if scheme == "http" else "s3://b/a.dcm"
    server.fault = lambda request: fault
    with pytest.raises(OSError) as caught:
        fetch(Source(url), 10, 100)
    assert words in str(caught.value.strerror)
    assert "SECRET" not in "".join(traceback.format_exception(caught.value))


def test_a_fault_that_passes_costs_a_retry(server: ObjectServer) -> None:
    server.fault = lambda request: "503" if len(server.log) % 3 else ""
    assert bytes(fetch(Source("s3://b/a.dcm"), 0, 50).data) == DATA[:50]


# --- secrets and options --------------------------------------------------------------------------


def test_a_query_stays_in_memory_and_is_sent(server: ObjectServer) -> None:
    shown = remember_query(f"{server.url}/b/a.dcm?X-Amz-Signature=SECRET")
    assert shown == f"{server.url}/b/a.dcm"
    assert query_of(shown) == "X-Amz-Signature=SECRET"
    with opened(Source(shown)) as handle:
        assert handle.read_at(5, 5) == DATA[5:10]
        assert "SECRET" not in repr(handle.source)
    assert all(each.query == "X-Amz-Signature=SECRET" for each in server.gets())


def test_urls_are_shown_without_secrets() -> None:
    assert without_secrets("https://me:pw@host/a/b?sig=1#c") == "https://host/a/b"
    assert without_secrets("s3://me:pw@bucket/a?b#c") == "s3://bucket/a?b#c"
    assert bucket_of("s3://bucket/a/b") == "s3://bucket"
    assert bucket_of("https://host:1?x") == "https://host:1"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"aws_secret_access_key": "x"}, "environment"),
        ({"regions": "x"}, "expected skip_signature, endpoint"),
        ({"region": 5}, "expected str"),
        ({"endpoint": "http://me:pw@host"}, "password"),
    ],
)
def test_options_are_known_and_no_secrets(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        checked_options(options)
    assert "pw" not in str(caught.value).replace("password", "")


# --- listings -------------------------------------------------------------------------------------


def test_a_listing_has_the_objects_below_a_prefix(server: ObjectServer) -> None:
    for number in range(2500):
        server.objects[f"b/p/{number % 3}/{number}.dcm"] = DATA[:10]
    server.objects |= {"b/p/0": b"", "b/p/.git/config": b"x", "b/p2/other": b"x", "b/p/top": b"x"}
    found = listed("s3://b/p")
    expected = sorted(
        f"s3://{path}".encode()
        for path in server.objects
        if path.startswith("b/p/") and path not in ("b/p/0", "b/p/.git/config")
    )
    assert sorted(found.paths) == expected
    assert found.paths[0] == b"s3://b/p/top"
    assert (found.hidden_folders, found.unreadable) == (1, [])
    assert found.states[0] == state_of_object(_stores.client_of("s3://b/").head("s3://b/p/top"))


def test_an_object_is_a_listing_of_itself(server: ObjectServer) -> None:
    assert listed("s3://b/a.dcm").paths == [b"s3://b/a.dcm"]
    with pytest.raises(FileNotFoundError):
        listed("s3://b/absent")


def test_a_prefix_that_cannot_be_listed_costs_no_other(server: ObjectServer) -> None:
    server.objects |= {f"b/p/{name}/x": b"1" for name in "abc"} | {"b/p/b//odd": b"1"}
    found = listed("s3://b/p")
    assert found.paths == [b"s3://b/p/a/x", b"s3://b/p/c/x"]
    assert len(found.unreadable) == 1 and "s3://b/p/b" in found.unreadable[0]


# --- first bytes ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_first_bytes_are_asked_for_together_and_once(server: ObjectServer) -> None:
    urls = [f"s3://b/h/{number}" for number in range(200)]
    server.objects |= {url[5:]: RNG.bytes(20_000) for url in urls}
    server.delay_s = 0.01
    parsed = walk_heads(urls, lambda handle, first: first, 32)
    assert parsed == [server.objects[url[5:]][: 16 * 1024] for url in urls]
    assert len(server.log) == 200
    assert 8 <= server.most_in_flight <= 32


def test_missing_bytes_are_asked_for_while_others_are_parsed(server: ObjectServer) -> None:
    urls = [f"s3://b/h/{number}" for number in range(50)]
    server.objects |= {url[5:]: RNG.bytes(200_000) for url in urls}
    server.delay_s = 0.01
    parsed = walk_heads(urls, lambda handle, first: handle.read_at(handle.size - 8, 8))
    assert parsed == [server.objects[url[5:]][-8:] for url in urls]
    assert len(server.log) == 100 and server.most_in_flight >= 8


def test_many_small_gaps_are_asked_for_in_growing_ranges(server: ObjectServer) -> None:
    server.objects["b/fragments"] = RNG.bytes(4_000_000)

    def parse(handle: Any, first: bytes | None) -> int:
        return sum(len(handle.read_at(at, 8)) for at in range(0, 4_000_000, 20_000))

    assert walk_heads(["s3://b/fragments"], parse) == [1600]
    assert len(server.log) < 20


def test_an_error_of_one_object_is_its_result(server: ObjectServer) -> None:
    found = walk_heads(["s3://b/a.dcm", "s3://b/absent"], lambda handle, first: handle.size)
    assert found[0] == len(DATA)
    assert isinstance(found[1], FileNotFoundError)


def test_a_parser_that_fails_ends_the_walk(server: ObjectServer) -> None:
    def parse(handle: Any, first: bytes | None) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        walk_heads(["s3://b/a.dcm"], parse)


def test_the_first_request_grows_with_the_headers() -> None:
    first = FirstBytes()
    for _ in range(4):
        first.learn(was_enough=False)
    assert first.size == 32 * 1024
    for _ in range(600):
        first.learn(was_enough=True)
    assert first.size == 16 * 1024
    with pytest.raises(NotFetched):
        raise NotFetched(1, 2)


# --- the byte cache -------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path) -> ByteCache:
    return ByteCache(str(tmp_path), 10**9)


def test_a_cache_gives_what_it_has_and_names_what_is_missing(cache: ByteCache) -> None:
    cache.add("0" * 40, 1000, DATA[1000:2000])
    cache.add("0" * 40, 1500, DATA[1500:3000])
    cache.add("0" * 40, 5000, DATA[5000:6000])
    buffer = bytearray(1800)
    assert cache.read_into("0" * 40, memoryview(buffer), 1100) is None
    assert bytes(buffer) == DATA[1100:2900]
    assert cache.read_into("0" * 40, memoryview(buffer), 500) == (500, 1000)
    assert cache.read_into("0" * 40, memoryview(bytearray(5000)), 500) == (500, 5000)
    assert cache.read_into("1" * 40, memoryview(buffer), 0) == (0, 1800)


@pytest.mark.parametrize("at", [3, 45, 60])
def test_a_damaged_file_is_removed(cache: ByteCache, tmp_path: Path, at: int) -> None:
    cache.add("0" * 40, 0, DATA[:1000])
    (file,) = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)
    buffer = bytearray(1000)
    assert cache.read_into("0" * 40, memoryview(buffer), 0) == (0, 1000)
    assert not list(tmp_path.iterdir())
    cache.add("0" * 40, 0, DATA[:1000])
    assert cache.read_into("0" * 40, memoryview(buffer), 0) is None
    assert bytes(buffer) == DATA[:1000]


def test_a_cache_keeps_to_its_limit(tmp_path: Path) -> None:
    cache = ByteCache(str(tmp_path), 100_000)
    for number in range(60):
        cache.add(f"{number:040x}", 0, DATA[:5000])
    total = sum(size for _, size, _ in _byte_cache.used_files(str(tmp_path)))
    assert 50_000 < total <= 106_000


def test_ranges_of_a_clock_that_was_ahead_are_removed_first(tmp_path: Path) -> None:
    cache = ByteCache(str(tmp_path), 100_000)
    for number in range(20):
        cache.add(f"{number:040x}", 0, DATA[:5000])
    for path in tmp_path.iterdir():
        os.utime(path, (time.time() + 3e7,) * 2)
    for number in range(100, 104):
        cache.add(f"{number:040x}", 0, DATA[:5000])
    left = {path.name[:40] for path in tmp_path.iterdir()}
    assert {f"{number:040x}" for number in range(100, 104)} < left


def test_a_file_in_the_place_of_a_removed_one_is_looked_at_again(
    cache: ByteCache, tmp_path: Path
) -> None:
    cache.add("0" * 40, 0, DATA[:1000])
    cache.add("0" * 40, 1000, DATA[1000:2000])
    buffer = bytearray(2000)
    assert cache.read_into("0" * 40, memoryview(buffer), 0) is None
    # As a file system that gives the inode of a removed file to the next one.
    (file,) = tmp_path.iterdir()
    os.truncate(file, 0)
    other = ByteCache(str(tmp_path), 10**9)
    other.add("0" * 40, 1000, DATA[1000:2000])
    other.add("0" * 40, 0, DATA[:1000])
    assert cache.read_into("0" * 40, memoryview(buffer), 0) is None
    assert buffer == DATA[:2000]


def test_a_folder_of_ranges_that_is_removed_is_made_again(cache: ByteCache, tmp_path: Path) -> None:
    tmp_path.rmdir()
    cache.add("0" * 40, 0, DATA[:1000])
    assert cache.read_into("0" * 40, memoryview(bytearray(1000)), 0) is None
    assert os.name != "posix" or tmp_path.stat().st_mode & 0o77 == 0


def test_a_full_file_system_leaves_the_cache_without_the_range(
    cache: ByteCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_byte_cache, "_write", lambda descriptor, head, view: 10)
    cache.add("0" * 40, 0, DATA[:1000])
    assert cache.read_into("0" * 40, memoryview(bytearray(10)), 0) == (0, 10)


def test_bytes_are_asked_for_once_and_kept_for_their_owner(
    server: ObjectServer, tmp_path: Path
) -> None:
    source = scanned("s3://b/a.dcm")
    server.clear()
    for start, stop in [(1000, 2000), (1000, 2000), (1500, 1800), (1500, 2500), (500, 3000)]:
        with opened(source) as handle:
            assert read_range(handle, start, stop - start) == DATA[start:stop]
    assert ranges(server) == [(1000, 2000), (2000, 2500), (500, 3000)]
    folder = tmp_path / "cache" / "bytes"
    assert folder.stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o077 == 0 for file in folder.iterdir())


def test_the_cache_can_be_switched_off(
    server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DICOMDL_BYTE_CACHE", "0")
    source = scanned("s3://b/a.dcm")
    server.clear()
    for _ in range(2):
        with opened(source) as handle:
            assert handle.read_at(0, 100) == DATA[:100]
    assert len(server.gets()) == 2 and not (tmp_path / "cache" / "bytes").exists()
    monkeypatch.setenv("DICOMDL_BYTE_CACHE", "2.5G")
    assert _byte_cache.limit_bytes() == 2.5 * 2**30
    monkeypatch.setenv("DICOMDL_BYTE_CACHE", "much")
    with pytest.raises(UsageError, match="DICOMDL_BYTE_CACHE"):
        _byte_cache.limit_bytes()


# --- reading ahead --------------------------------------------------------------------------------


def many(server: ObjectServer, count: int = 60) -> list[Source]:
    urls = [f"s3://b/many/{number}" for number in range(count)]
    server.objects |= {url[5:]: RNG.bytes(30_000) for url in urls}
    return [scanned(url) for url in urls]


def test_pieces_are_asked_for_together_once_each(server: ObjectServer) -> None:
    sources = many(server)
    server.clear()
    server.delay_s = 0.02
    buffers = np.empty((60, 10_000), np.uint8)
    pieces = [(source, 100 + number) for number, source in enumerate(sources)]
    for _ in range(2):
        buffers[:] = 0
        assert len(list(read_pieces(pieces, list(buffers)))) == 60
        for (source, offset), buffer in zip(pieces, buffers, strict=True):
            assert bytes(buffer) == server.objects[source.path[5:]][offset : offset + 10_000]
    # The second pass reads the cache.
    assert len(server.gets()) == 60
    assert server.most_in_flight >= 8
    assert server.sent_bytes < 1.1 * 60 * 10_000


def test_ranges_may_be_read_in_parts_in_any_order_and_again(server: ObjectServer) -> None:
    sources = many(server)
    server.clear()
    with reading_ahead([Span(source, 1000, 5000) for source in sources]):
        for source in [*reversed(sources), *sources[:5]]:
            with opened(source) as handle:
                for start in (1000, 1008):
                    part = np.empty(8 if start == 1000 else 4992, np.uint8)
                    read_exactly(handle, part, start)
                    data = server.objects[source.path[5:]]
                    assert bytes(part) == data[start : start + part.nbytes]
    assert len(server.gets()) == 60


def test_the_next_ranges_are_asked_for_although_those_before_reach_the_cache_first(
    server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_plans, "CONCURRENCY", 8)
    added = threading.Semaphore(0)
    add = ByteCache.add

    def counted(self: ByteCache, digest: str, offset: int, data: Any) -> None:
        add(self, digest, offset, data)
        added.release()

    monkeypatch.setattr(ByteCache, "add", counted)
    sources = many(server)
    server.clear()
    with reading_ahead([Span(source, 0, 100) for source in sources]):
        for number, source in enumerate(sources):
            with opened(source) as handle:
                assert handle.read_at(0, 100) == server.objects[source.path[5:]][:100]
            # One more range follows each that was read, and lies in the cache before its turn.
            for _ in range(9 if number == 0 else number < 52):
                assert added.acquire(timeout=20)
    assert len(server.gets()) == 60


def test_a_loop_that_ends_early_asks_for_no_more(server: ObjectServer) -> None:
    sources = many(server, 200)
    server.clear()
    server.delay_s = 0.05
    with reading_ahead([Span(source, 0, 100) for source in sources]), opened(sources[0]) as handle:
        handle.read_at(0, 100)
    assert len(server.gets()) < 200
    assert not _plans.loops.running


def test_an_error_ahead_is_raised_where_its_range_is_read(server: ObjectServer) -> None:
    sources = many(server, 3)
    del server.objects[sources[1].path[5:]]
    read = []
    with reading_ahead([Span(source, 0, 100) for source in sources]):
        for source in sources:
            try:
                with opened(source) as handle:
                    read.append(handle.read_at(0, 100)[:0])
            except FileChanged:
                read.append(b"gone")
    assert read == [b"", b"gone", b""]


def test_a_plan_of_another_process_is_not_waited_for(
    server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = many(server, 3)
    with reading_ahead([Span(source, 0, 100) for source in sources]):
        monkeypatch.setattr(_plans.loops.running[0], "process", -1)
        server.clear()
        with opened(sources[0]) as handle:
            assert handle.read_at(0, 100) == server.objects[sources[0].path[5:]][:100]
    assert len(server.gets()) == 1


# --- processes ------------------------------------------------------------------------------------


def _read_in_child(server_url: str, sources: list[Source], answers: Any) -> None:
    options = {"endpoint": server_url, "skip_signature": True, "region": "us-east-1"}
    objects.declare(["s3://b"], options)
    try:
        buffers = np.empty((len(sources), 100), np.uint8)
        for _ in read_pieces([(source, 50) for source in sources], list(buffers)):
            pass
        listing = listed("s3://b/many")
        try:
            look_up(Source("s3://b/absent"))
        except PixelError as error:
            answers.put((buffers.tobytes(), len(listing.paths), str(error)))
    except BaseException as error:
        answers.put(repr(error))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_reads_although_its_parent_has_used_the_client(
    server: ObjectServer, method: str
) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    sources = many(server, 20)
    context = multiprocessing.get_context(method)
    answers = context.SimpleQueue()
    child = context.Process(target=_read_in_child, args=(server.url, sources, answers))
    child.start()
    data, found, words = answers.get()
    child.join()
    assert data == b"".join(server.objects[source.path[5:]][50:150] for source in sources)
    assert found == 20 and "no such object" in words
    assert os.getpid() != child.pid


def test_a_query_concerns_its_own_url_and_no_other_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_store_options._given, "queries", {})
    assert not have_queries([b"https://host/a.zip"])
    assert remember_query("https://host/a.zip?signature=1") == "https://host/a.zip"
    member = os.fsencode(joined("https://host/a.zip", "b.dcm"))
    assert have_queries([b"/data/a.dcm", b"https://host/a.zip"]) and have_queries([member])
    assert not have_queries([b"/data/a.dcm", b"https://host/c.dcm"])
