"""DIMSE archives: C-FIND finds, C-GET or C-MOVE retrieves (PS3.4 annex C, Study Root).

A server takes one transfer syntax of a presentation context and would convert what is stored in
another one. Every pair of SOP class and transfer syntax therefore has a context of its own, so that
files come as they are stored. An association has 128 of them: the SOP classes of the modality are
proposed first, and those of the instances that did not come afterwards.
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydicom.dataset import Dataset

from dicomdl.errors import PeerFailure
from dicomdl.headers.uids import EXPLICIT_LITTLE, TRANSFER_SYNTAXES
from dicomdl.jobs.fetch_ledger import SeriesFound
from dicomdl.jobs.network.archive import Take, Wanted
from dicomdl.jobs.network.associations import (
    MOST_CONTEXTS,
    Context,
    associated,
    opened,
    pynetdicom,
    storage_classes,
)
from dicomdl.jobs.network.listening import Listener, listening
from dicomdl.jobs.network.peers import Peer, Timeouts
from dicomdl.jobs.network.query import Keys
from dicomdl.jobs.network.statuses import (
    PROCESSING_FAILURE,
    SUCCESS,
    Service,
    checked,
    kind_of,
    sentence,
)
from dicomdl.printing import printable

# UIDs in one request, which a server may limit (PS3.4 C.2.2.2.2).
_UIDS: Final = 50
# SOP classes of a modality, by their names in pynetdicom, the most frequent first.
_CLASSES: Final[Mapping[str, tuple[str, ...]]] = {
    "CT": ("CTImageStorage", "EnhancedCTImageStorage", "SecondaryCaptureImageStorage"),
    "MR": ("MRImageStorage", "EnhancedMRImageStorage", "SecondaryCaptureImageStorage"),
    "PT": ("PositronEmissionTomographyImageStorage", "EnhancedPETImageStorage"),
    "NM": ("NuclearMedicineImageStorage",),
    "CR": ("ComputedRadiographyImageStorage",),
    "DX": ("DigitalXRayImageStorageForPresentation", "DigitalXRayImageStorageForProcessing"),
    "MG": (
        "DigitalMammographyXRayImageStorageForPresentation",
        "DigitalMammographyXRayImageStorageForProcessing",
        "BreastTomosynthesisImageStorage",
    ),
    "US": ("UltrasoundImageStorage", "UltrasoundMultiFrameImageStorage"),
    "XA": ("XRayAngiographicImageStorage", "EnhancedXAImageStorage"),
    "OT": ("SecondaryCaptureImageStorage", "MultiFrameTrueColorSecondaryCaptureImageStorage"),
    "SEG": ("SegmentationStorage",),
    "RTSTRUCT": ("RTStructureSetStorage",),
    "RTDOSE": ("RTDoseStorage",),
    "RTPLAN": ("RTPlanStorage",),
    "SR": ("BasicTextSRStorage", "EnhancedSRStorage", "ComprehensiveSRStorage"),
    "SM": ("VLWholeSlideMicroscopyImageStorage",),
}


@dataclass
class DimseArchive:
    """A DIMSE server.

    Attributes
    ----------
    peer
        The server.
    timeouts
        How long it may take.
    transfer_syntax
        UID that files are asked for in; "" for the one that they are stored in.
    port
        Where files are received that come by C-MOVE; None for C-GET.
    """

    peer: Peer
    timeouts: Timeouts
    transfer_syntax: str = ""
    port: int | None = None
    _finder: Any = field(default=None, repr=False)

    def __str__(self) -> str:
        return str(self.peer)

    def studies(self, keys: Keys) -> Iterator[dict[str, str]]:
        """Yield the studies that match some keys."""
        for answer in self._find("STUDY", {"StudyInstanceUID": "", **keys}):
            yield {name: _text(answer, name) for name in ("StudyInstanceUID", *keys)}

    def series(self, study: str) -> Iterator[SeriesFound]:
        """Yield the series of a study."""
        for answer in self._find_series({"StudyInstanceUID": study, "SeriesInstanceUID": ""}):
            yield answer._replace(study=study)

    def named(self, series: str) -> Sequence[SeriesFound] | None:
        """Return the series of a UID; None where the archive names none with its study.

        Without the UID of the study this is a relational query, which an archive need not answer
        (PS3.4 C.4.1.2): Orthanc and dcmtk's do; others may fail or find nothing.
        """
        answers = list(self._find_series({"StudyInstanceUID": "", "SeriesInstanceUID": series}))
        # A server may ignore the key.
        found = [each for each in answers if each.series == series]
        return found if found and all(each.study for each in found) else None

    def instances(self, found: SeriesFound) -> Sequence[str]:
        """Return the SOP Instance UIDs of a series."""
        answers = self._find("IMAGE", {**_of(found), "SOPInstanceUID": ""})
        return list(dict.fromkeys(_text(answer, "SOPInstanceUID") for answer in answers))

    def retrieve(self, wanted: Wanted, take: Take) -> None:
        """Ask for a series, or for some of its instances."""
        if self.port is None:
            self._get(wanted, take)
        else:
            self._move(wanted, take, self.port)

    def _get(self, wanted: Wanted, take: Take) -> None:
        net = pynetdicom()
        for contexts, identifiers in self._requests(wanted):
            got = _Got(take)
            get = Context(net.sop_class.StudyRootQueryRetrieveInformationModelGet)
            handlers = [(net.evt.EVT_C_STORE, got.store)]
            with associated(
                self.peer, [get, *contexts], handlers=handlers, timeouts=self.timeouts
            ) as association:
                for identifier in identifiers:
                    answers = association.send_c_get(identifier, get.sop_class)
                    try:
                        _delivered(answers, "C-GET", self.peer, got)
                    except PeerFailure as error:
                        # An object of another class than is likely for the modality: its class is
                        # proposed when it is asked for by itself.
                        error.is_transient = error.is_transient or not wanted.instances
                        raise

    def _move(self, wanted: Wanted, take: Take, port: int) -> None:
        """Ask the archive to send to a receiver of this process, which takes all it sends."""
        net, got = pynetdicom(), _Got(take)
        found, instances = wanted
        model = net.sop_class.StudyRootQueryRetrieveInformationModelMove
        parts = _portions(instances) if instances else [()]
        with (
            _receiver(
                self.peer, port, self.transfer_syntax, got, self.timeouts.answer_s
            ) as turned_away,
            associated(self.peer, [Context(model)], timeouts=self.timeouts) as association,
        ):
            for part in parts:
                keys = {**_of(found), "SOPInstanceUID": "\\".join(part)} if part else _of(found)
                identifier = _identifier("IMAGE" if part else "SERIES", keys)
                answers = association.send_c_move(identifier, self.peer.own_title, model)
                try:
                    _delivered(answers, "C-MOVE", self.peer, got)
                except PeerFailure as error:
                    raise _with_cause(error, turned_away) from None

    def close(self) -> None:
        """Release the association of the searches."""
        if self._finder is not None and self._finder.is_established:
            self._finder.release()
        self._finder = None

    def _requests(self, wanted: Wanted) -> Iterator[tuple[list[Context], list[Dataset]]]:
        """Yield the contexts of each association, and what is asked for on it."""
        found, instances = wanted
        classes = self._likely_classes(found)
        if not instances and classes:
            yield self._contexts(classes), [_identifier("SERIES", _of(found))]
            return
        by_class: dict[str, list[str]] = {}
        for uid, sop_class in self._classes_of(found).items():
            if not instances or uid in instances:
                by_class.setdefault(sop_class, []).append(uid)
        for sop_class, uids in by_class.items():
            keys = [{**_of(found), "SOPInstanceUID": "\\".join(part)} for part in _portions(uids)]
            proposed = [sop_class] if sop_class else classes or self._all_classes()
            yield self._contexts(proposed), [_identifier("IMAGE", each) for each in keys]

    def _likely_classes(self, found: SeriesFound) -> list[str]:
        classes = pynetdicom().sop_class
        return [getattr(classes, name) for name in _CLASSES.get(found.modality, ())]

    def _all_classes(self) -> list[str]:
        """Return the classes of all modalities, where a server names neither."""
        names = dict.fromkeys(name for each in _CLASSES.values() for name in each)
        return [getattr(pynetdicom().sop_class, name) for name in names]

    def _classes_of(self, found: SeriesFound) -> dict[str, str]:
        """Return {SOP Instance UID: SOP Class UID} of a series; a server may leave these blank."""
        answers = self._find("IMAGE", {**_of(found), "SOPInstanceUID": "", "SOPClassUID": ""})
        return {_text(each, "SOPInstanceUID"): _text(each, "SOPClassUID") for each in answers}

    def _contexts(self, classes: Sequence[str]) -> list[Context]:
        """Return a context per SOP class and transfer syntax, one less than there may be."""
        syntaxes = [self.transfer_syntax] if self.transfer_syntax else _all_syntaxes()
        pairs = [Context(each, (syntax,), receives=True) for syntax in syntaxes for each in classes]
        return pairs[: MOST_CONTEXTS - 1]

    def _find_series(self, keys: Keys) -> Iterator[SeriesFound]:
        """Yield the series that match some keys, with the study that each answer names."""
        names = ("Modality", "SeriesDescription", "NumberOfSeriesRelatedInstances")
        for answer in self._find("SERIES", {**keys, **dict.fromkeys(names, "")}):
            modality, description, count = (_text(answer, name) for name in names)
            study, uid = _text(answer, "StudyInstanceUID"), _text(answer, "SeriesInstanceUID")
            instances = int(count) if count.isdecimal() else -1
            yield SeriesFound(study, uid, modality, description, instances)

    def _find(self, level: str, keys: Keys) -> Iterator[Dataset]:
        """Yield the answers of a C-FIND, over an association that stays open."""
        net = pynetdicom()
        model = net.sop_class.StudyRootQueryRetrieveInformationModelFind
        if self._finder is None or not self._finder.is_established:
            self._finder = opened(self.peer, [Context(model)], timeouts=self.timeouts)
        for status, answer in self._finder.send_c_find(_identifier(level, keys), model):
            checked(status, "C-FIND", self.peer)
            if answer is not None:
                yield answer


class _Ended(BaseException):
    """What ends a request from within: pynetdicom passes on no `Exception` of a handler."""


class _Got:
    """What comes on an association, and the error that ended it."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self._lock = threading.Lock()
        self.error: BaseException | None = None

    def store(self, event: Any) -> int:
        """Hand a file out, and return the status of the C-STORE."""
        try:
            self._take(event.encoded_dataset())
        except BaseException as error:
            self.error = error
            raise _Ended from error
        return SUCCESS

    def store_elsewhere(self, event: Any) -> int:
        """Do the same on an association that the archive has opened, in a thread of its own."""
        with self._lock:
            if self.error is not None:
                return PROCESSING_FAILURE
            try:
                self._take(event.encoded_dataset())
            except BaseException as error:
                self.error = error
                return PROCESSING_FAILURE
        return SUCCESS


def _delivered(answers: Any, service: Service, peer: Peer, got: _Got) -> None:
    """Read the answers of a C-GET or C-MOVE to their end.

    Raises
    ------
    NetworkError
        The server refused, went away, or could not send some instances.
    """
    last = Dataset()
    try:
        for status, _ in answers:
            last = status
            if got.error is not None:
                raise _Ended
    except _Ended:
        pass
    if got.error is not None:
        raise got.error
    found = checked(last, service, peer)
    failed = int(last.get("NumberOfFailedSuboperations", 0) or 0)
    if failed or kind_of(found, service) != "success":
        raise PeerFailure(
            f"{peer} could not send {failed or 'some'} of the instances by {service}: "
            f"{sentence(found, service)}",
            status=found,
            is_transient=True,
        )


def _with_cause(error: PeerFailure, turned_away: Sequence[str]) -> PeerFailure:
    """Return an error of a C-MOVE that also says whom the receiver of this side turned away."""
    if not turned_away:
        return error
    return PeerFailure(
        f"{error}; meanwhile {turned_away[-1]}",
        status=error.status,
        is_transient=error.is_transient,
    )


@contextlib.contextmanager
def _receiver(
    peer: Peer, port: int, transfer_syntax: str, got: _Got, limit_s: float
) -> Iterator[list[str]]:
    """Receive what an archive sends to the title of this side, until the block ends.

    Yields the sentences about clients that were turned away, as they come.

    Raises
    ------
    StorageError
        The port is in use, or may not be listened on.
    """
    syntaxes = (transfer_syntax,) if transfer_syntax else tuple(_all_syntaxes())
    # A server on this machine is asked on this machine: nobody else can send.
    host = peer.host if peer.host in ("localhost", "127.0.0.1") else ""
    listener = Listener(
        peer.own_title, port, host, tls=peer.tls, by_its_title_alone=True, idle_s=limit_s
    )
    contexts = [Context(each, syntaxes) for each in storage_classes()]
    turned_away: list[str] = []
    handlers = [(pynetdicom().evt.EVT_C_STORE, got.store_elsewhere)]
    with listening(listener, contexts, handlers, turned_away.append):
        yield turned_away


def _all_syntaxes() -> list[str]:
    """Return all transfer syntaxes, the retired ones last.

    dcmtk's archive sends what is not compressed in the first one: most of it is stored so.
    """
    current = map(str, pynetdicom().ALL_TRANSFER_SYNTAXES)
    return list(dict.fromkeys((EXPLICIT_LITTLE, *current, *TRANSFER_SYNTAXES)))


def _portions(uids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield UIDs in portions of one request."""
    for start in range(0, len(uids), _UIDS):
        yield uids[start : start + _UIDS]


def _of(found: SeriesFound) -> dict[str, str]:
    return {"StudyInstanceUID": found.study, "SeriesInstanceUID": found.series}


def _identifier(level: str, keys: Keys) -> Dataset:
    """Return the identifier of a request; text is UTF-8 (PS3.3 C.12.1.1.2)."""
    identifier = Dataset()
    identifier.SpecificCharacterSet = "ISO_IR 192"
    identifier.QueryRetrieveLevel = level
    for name, value in keys.items():
        setattr(identifier, name, value.split("\\") if "\\" in value else value)
    return identifier


def _text(answer: Dataset, name: str) -> str:
    """Return the first value of an attribute; "" without one, or where it cannot be read."""
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
        value = answer.get(name, "")
        if value is not None and not isinstance(value, str | int) and hasattr(value, "__iter__"):
            value = next(iter(value), "")
        return printable(str(value if value is not None else "").strip(" \0"))
    return ""
