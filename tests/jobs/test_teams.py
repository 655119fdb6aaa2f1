"""Teams of child processes: every message has one answer, however many children die."""

from collections.abc import Iterable

import pytest

from dicomdl.errors import StorageError, UsageError
from dicomdl.jobs.teams import Slot, answers, worked
from dicomdl.storage.children import Answer, Child, Death

pytestmark = pytest.mark.slow


def answering(deadly: str) -> Answer:
    """Return a function that answers a text with itself, and ends its process for one text."""

    def answer(message: bytes) -> Iterable[bytes]:
        if message.decode() == deadly:
            import os

            os._exit(7)
        return [message]

    return answer


def start(deadly: str = "") -> Child:
    return Child("test_teams:answering", deadly)


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.syspath_prepend(os.path.dirname(__file__))


def test_every_message_is_answered_once() -> None:
    messages = [[b"part ", str(number).encode()] for number in range(20)]
    found = dict(answers(start, messages, 2))
    assert found == {number: b"part %d" % number for number in range(20)}


def test_a_message_that_ends_its_child_has_the_death_and_others_are_answered() -> None:
    found = dict(answers(lambda: start("3"), [[str(n).encode()] for n in range(8)], 2))
    assert isinstance(found.pop(3), Death)
    assert found == {number: str(number).encode() for number in range(8) if number != 3}


def test_messages_without_a_child_have_the_last_death() -> None:
    found = dict(answers(lambda: start("0"), [[str(n).encode()] for n in range(4)], 1))
    assert sorted(found) == [0, 1, 2, 3]
    assert all(isinstance(answer, Death) and answer.code == 7 for answer in found.values())


@pytest.mark.parametrize("deadly", ["", "0"])
def test_a_caller_that_joins_gets_what_no_child_has_and_no_message_is_lost(deadly: str) -> None:
    messages = [[str(number).encode()] for number in range(300)]
    found = list(answers(lambda: start(deadly), messages, 2, joins=True))
    assert sorted(number for number, _ in found) == [*range(300)]
    assert None in dict(found).values()
    for number, answer in found:
        assert answer in (None, str(number).encode()) or isinstance(answer, Death)


def asked(slot: Slot, number: int) -> tuple[int, bytes | Death]:
    """Send a number to a child, and return it with the answer."""
    return number, slot.ask(str(number).encode())


def test_a_child_that_dies_is_replaced_and_costs_its_item_alone() -> None:
    found = dict(worked(lambda: start("3"), range(8), asked, 1))
    assert isinstance(found.pop(3), Death)
    assert found == {number: str(number).encode() for number in range(8) if number != 3}


def test_an_item_that_is_put_off_is_done_after_the_others() -> None:
    tried: list[int] = []

    def work(slot: Slot, number: int) -> int | None:
        tried.append(number)
        return None if tried == [0] else number

    assert list(worked(start, range(3), work, 1)) == [1, 2, 0]


def test_the_first_error_ends_the_work_of_all_and_no_child_is_left() -> None:
    slots: set[Slot] = set()

    def work(slot: Slot, number: int) -> int:
        slots.add(slot)
        slot.ask(b"")
        if number == 1:
            raise UsageError("no")
        return number

    with pytest.raises(UsageError, match="no"):
        list(worked(start, range(100), work, 2))
    for slot in slots:
        with pytest.raises(StorageError, match="stopped"):
            slot.ask(b"")


def test_children_that_end_while_they_start_are_an_error_in_words() -> None:
    with pytest.raises(StorageError, match=r"a child process cannot start: .*no_such_module"):
        list(worked(lambda: Child("no_such_module:f"), range(3), asked, 2))
