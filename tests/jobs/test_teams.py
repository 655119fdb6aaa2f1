"""Teams of child processes: every message has one answer, however many children die."""

from collections.abc import Iterable

import pytest

from dicomdl.jobs.teams import answers
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
