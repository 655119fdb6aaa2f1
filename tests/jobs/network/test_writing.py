"""Files are written behind a connection, several at once, and an error reaches who waits."""

import threading

import pytest

from dicomdl.jobs.network import writing
from dicomdl.jobs.network.writing import Writers


def test_a_batch_ends_when_all_of_its_files_are_written() -> None:
    go, done = threading.Event(), list[int]()

    def write(number: int) -> None:
        go.wait(10)
        done.append(number)

    with Writers().open() as writers, writers.batch() as batch:
        for number in range(50):
            batch.add(1, lambda number=number: write(number))  # type: ignore[misc]
        assert not done
        go.set()
    assert sorted(done) == list(range(50))


def test_the_error_of_a_write_comes_at_the_next_file_or_at_the_end_in_place_of_another() -> None:
    def fail() -> None:
        raise OSError("full")

    with Writers().open() as writers:
        with pytest.raises(OSError, match="full"), writers.batch() as batch:
            batch.add(1, fail)
            raise ValueError("the connection was lost")
        with pytest.raises(OSError, match="full"), writers.batch() as batch:
            for _ in range(10**6):
                batch.add(1, fail)
        with writers.batch() as batch:
            batch.add(1, lambda: None)


def test_what_waits_is_bounded_and_a_file_beyond_the_bound_is_written_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writing, "_MOST_BYTES", 100)
    lock, held, most = threading.Lock(), [0], [0]

    def write(size: int) -> None:
        with lock:
            held[0] += size
            most[0] = max(most[0], held[0])
        with lock:
            held[0] -= size

    with Writers().open() as writers, writers.batch() as batch:
        for size in [30] * 20 + [1000] + [30] * 20:
            batch.add(size, lambda size=size: write(size))  # type: ignore[misc]
    assert most[0] == 1000 or most[0] <= 100
    assert held == [0]
