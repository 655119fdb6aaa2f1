"""What the status of a DIMSE response means: one table, with the sections of the standard.

A status means something else for another service: 0xA700 of a C-STORE is a full disk (PS3.4 B.2.3),
of a C-FIND an overload (PS3.4 C.4.1.1.4). General statuses (PS3.7 annex C) are for all services.
"""

from typing import Any, Final, Literal, NamedTuple

from dicomdl.errors import NetworkError, PeerFailure

Service = Literal["C-ECHO", "C-STORE", "C-FIND", "C-GET", "C-MOVE", "N-ACTION", "N-EVENT-REPORT"]
Kind = Literal["success", "pending", "warning", "cancel", "failure"]

SUCCESS: Final = 0x0000
OUT_OF_RESOURCES: Final = 0xA700
DATA_SET_MISMATCH: Final = 0xA900
CANNOT_UNDERSTAND: Final = 0xC000
NOT_AUTHORISED: Final = 0x0124
PROCESSING_FAILURE: Final = 0x0110
_ALL: Final[tuple[Service, ...]] = ()
_STORE: Final[tuple[Service, ...]] = ("C-STORE",)
_FIND: Final[tuple[Service, ...]] = ("C-FIND",)
_MOVE: Final[tuple[Service, ...]] = ("C-MOVE",)
_BOTH: Final[tuple[Service, ...]] = ("C-GET", "C-MOVE")
_QUERY: Final[tuple[Service, ...]] = ("C-FIND", "C-GET", "C-MOVE")


class _Row(NamedTuple):
    """A range of statuses of some services, or of all, and what it means."""

    first: int
    last: int
    services: tuple[Service, ...]
    kind: Kind
    words: str
    section: str


def _general(status: int, words: str, kind: Kind = "failure") -> _Row:
    return _Row(status, status, _ALL, kind, words, "PS3.7 annex C")


# The rows of a service come before those of all.
_ROWS: Final = (
    _Row(
        0xA700, 0xA7FF, _STORE, "failure", "it is out of resources, as a full disk", "PS3.4 B.2.3"
    ),
    _Row(0xA900, 0xA9FF, _STORE, "failure", "the data set is not of its SOP class", "PS3.4 B.2.3"),
    _Row(0xB000, 0xB000, _STORE, "warning", "it changed elements of the data set", "PS3.4 B.2.3"),
    _Row(0xB006, 0xB006, _STORE, "warning", "it dropped elements of the data set", "PS3.4 B.2.3"),
    _Row(0xB007, 0xB007, _STORE, "warning", "the data set is not of its SOP class", "PS3.4 B.2.3"),
    _Row(0xC000, 0xCFFF, _STORE, "failure", "it cannot understand the data set", "PS3.4 B.2.3"),
    _Row(0xA700, 0xA700, _FIND, "failure", "it is out of resources", "PS3.4 C.4.1.1.4"),
    _Row(
        0xB001, 0xB001, _FIND, "warning", "it gives no more matches than these", "PS3.4 C.4.1.1.4"
    ),
    _Row(
        0xA701,
        0xA701,
        _BOTH,
        "failure",
        "it cannot count the matches",
        "PS3.4 C.4.2.1.5, C.4.3.1.4",
    ),
    _Row(
        0xA702, 0xA702, _BOTH, "failure", "it cannot send the files", "PS3.4 C.4.2.1.5, C.4.3.1.4"
    ),
    _Row(
        *(0xA801, 0xA801, _MOVE, "failure"),
        "it does not know the AE title to move to: its administrator enters title, host and port",
        "PS3.4 C.4.2.1.5",
    ),
    _Row(0xA900, 0xA900, _QUERY, "failure", "the keys do not fit the level", "PS3.4 C.4"),
    _Row(0xB000, 0xB000, _BOTH, "warning", "some files failed", "PS3.4 C.4.2.1.5, C.4.3.1.4"),
    _Row(0xC000, 0xCFFF, _QUERY, "failure", "it cannot process the request", "PS3.4 C.4"),
    _Row(0xFF00, 0xFF00, _QUERY, "pending", "it continues", "PS3.4 C.4"),
    _Row(0xFF01, 0xFF01, _FIND, "pending", "it ignores some optional keys", "PS3.4 C.4.1.1.4"),
    _general(SUCCESS, "success", "success"),
    _general(0xFE00, "it was cancelled", "cancel"),
    _general(0x0001, "optional attributes are not supported", "warning"),
    _general(0x0105, "an attribute does not exist"),
    _general(0x0106, "an attribute has an invalid value"),
    _general(0x0107, "attributes were not recognised", "warning"),
    _general(PROCESSING_FAILURE, "it failed to process the request"),
    _general(0x0111, "the SOP instance is there already"),
    _general(0x0112, "it has no such SOP instance"),
    _general(0x0113, "it knows no such event"),
    _general(0x0114, "it knows no such argument"),
    _general(0x0115, "an argument has an invalid value"),
    _general(0x0116, "an attribute is out of range", "warning"),
    _general(0x0117, "the SOP Instance UID is invalid"),
    _general(0x0118, "it knows no such SOP class"),
    _general(0x0119, "the SOP instance is not of this class"),
    _general(0x0120, "an attribute is missing"),
    _general(0x0121, "an attribute has no value"),
    _general(0x0122, "it does not support the SOP class"),
    _general(0x0123, "it knows no such action"),
    _general(NOT_AUTHORISED, "this side is not allowed to ask it"),
    _general(0x0210, "the number of the message is in use"),
    _general(0x0211, "it does not know the operation"),
    _general(0x0212, "an argument is of the wrong type"),
    _general(0x0213, "it is out of resources"),
)


def kind_of(status: int, service: Service) -> Kind:
    """Return whether a status of a service is a success, a warning, a failure, ...

    A status that the standard does not define is a failure.
    """
    row = _row(status, service)
    return "failure" if row is None else row.kind


def sentence(status: int, service: Service) -> str:
    """Return what a status of a service means, with its number and the section of the standard."""
    row = _row(status, service)
    if row is None:
        return f"status 0x{status:04X}, which the standard does not define"
    return f"{row.words} (status 0x{status:04X}, {row.section})"


def checked(answer: Any, service: Service, peer: object) -> int:
    """Return the status of an answer that is no failure.

    Parameters
    ----------
    answer
        The data set with the status, as pynetdicom returns it; it is empty where none came.
    service
        The service that was asked for.
    peer
        The server, for messages.

    Raises
    ------
    PeerFailure
        The status is one of a failure; attribute `status`.
    NetworkError
        No answer came in time, or the connection was lost.
    """
    if "Status" not in answer:
        raise NetworkError(
            f"{peer} gave no answer to the {service} in time, or ended the association",
            is_transient=True,
        )
    status = int(answer.Status)
    if kind_of(status, service) == "failure":
        raise PeerFailure(
            f"{peer} refused the {service}: {sentence(status, service)}",
            status=status,
            is_transient=0xA700 <= status <= 0xA7FF or status == 0x0213,
        )
    return status


def _row(status: int, service: Service) -> _Row | None:
    for row in _ROWS:
        if row.first <= status <= row.last and (not row.services or service in row.services):
            return row
    return None
