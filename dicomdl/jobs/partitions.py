"""The file protocol of jobs: a plan of partitions, a marker per finished one, and their merge.

A job over many files is planned once, made in partitions by any number of processes on any number
of machines that share a folder, and merged once. The folder is all that they share::

    plan.json                    what the job is, and its partitions (sealed by a checksum)
    parts/<key>.<digest>/        the files of a partition, put in place by one rename
    done/<key>.json              its marker, written last: files with sizes and digests, counts,
                                 problems, version of dicomdl
    leases/<key>                 who makes it now, which only spares work

A partition is named by its key, a digest of all that its files depend on, save the version of
dicomdl. So a plan that is made again, after some data changed, finds what is finished already.
Equal partitions have equal bytes: a partition that is made twice, or again after a kill, costs time
alone.
"""

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, TypeAlias

from dicomdl.errors import StorageError, UsageError
from dicomdl.storage import publishing as storage
from dicomdl.storage.checksums import sealed, unsealed
from dicomdl.storage.leases import lease
from dicomdl.version import __version__

_PLAN: Final = "plan.json"
# What a folder holds whose removal was interrupted, or that a slow process wrote to after it.
_OURS: Final = frozenset({"parts", "done", "leases"})
_TEMPORARY: Final = r"\.part\.[0-9a-f]{12}\.tmp"
# Partitions that a message lists.
_LISTED: Final = 8
_DAY_S: Final = 24 * 3600.0

# {unit: the reason why it is left out}.
LeftOut: TypeAlias = Mapping[str, str]
Outcome = Literal["made", "present", "busy"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A job and its partitions.

    Attributes
    ----------
    folder
        The folder that the processes share.
    kind
        The job: "scan" or "prepare".
    keys
        One per partition.
    setup
        Options of the job, as JSON holds them.
    payload
        What the job stores with its plan.
    """

    folder: str
    kind: str
    keys: tuple[str, ...]
    setup: Mapping[str, Any] = field(repr=False)
    payload: bytes = field(repr=False)

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, slots=True)
class Marker:
    """What became of a partition: its folder, the facts that the job gave, and what it left out."""

    number: int
    folder: str
    facts: Mapping[str, Any]
    left_out: LeftOut


class Task(Protocol):
    """A job that runs in partitions."""

    @property
    def plan(self) -> Plan:
        """The plan."""
        ...

    def units(self, number: int) -> Sequence[str]:
        """Return the names of what can be left out of a partition: its series or files."""
        ...

    def make(self, number: int, folder: str, left_out: LeftOut) -> Mapping[str, Any]:
        """Write the files of a partition into a folder, and return its facts, as JSON holds them.

        Files and facts depend on the plan, `number` and `left_out` alone.
        """
        ...


# --- plans ----------------------------------------------------------------------------------------


def key_of(*parts: Any) -> str:
    """Return the key of a partition: a digest of plain values."""
    text = json.dumps(parts, sort_keys=True, default=str).encode()
    return hashlib.blake2b(text, digest_size=12).hexdigest()


def packed(weights: Sequence[int], count: int) -> list[list[int]]:
    """Divide items into `count` partitions of about equal weight, the heaviest items first.

    The items of a partition keep their order, and partitions are sorted by their first item.
    """
    loads = [(0, number) for number in range(max(1, min(count, len(weights))))]
    members: list[list[int]] = [[] for _ in loads]
    import heapq

    for item in sorted(range(len(weights)), key=lambda item: (-weights[item], item)):
        load, number = heapq.heappop(loads)
        members[number].append(item)
        heapq.heappush(loads, (load + max(1, weights[item]), number))
    return sorted(sorted(each) for each in members)


def write_plan(
    folder: str, kind: str, keys: Sequence[str], setup: Mapping[str, Any], payload: bytes
) -> Plan:
    """Write the plan of a job in place of an older one, whose finished partitions stay.

    Raises
    ------
    UsageError
        The folder holds something else.
    StorageError
        The folder cannot be written to.
    """
    plan = Plan(folder, kind, tuple(keys), dict(setup), payload)
    storage.make_folder(folder)
    if set(os.listdir(folder)) - _OURS:
        _require_ours(folder, kind)
    content = {"kind": kind, "dicomdl": __version__, "keys": list(keys), "setup": dict(setup)}
    storage.write_whole(os.path.join(folder, _PLAN), sealed(content, payload))
    clear_remains(plan)
    return plan


def read_plan(folder: str, kind: str) -> Plan:
    """Read the plan of a job.

    Raises
    ------
    UsageError
        There is no plan, or it is of another job or another version of dicomdl.
    StorageError
        The plan is damaged, or another user can have written it: it names files that are read.
    """
    _require_ours(folder, kind)
    storage.require_private(folder, "folder of the plan")
    path = os.path.join(folder, _PLAN)
    try:
        content, payload = unsealed(storage.read_whole(path))
    except ValueError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"the plan {path!r} is damaged: plan again", path=path) from error
    if content["dicomdl"] != __version__:
        raise UsageError(
            f"the plan {path!r} was made by dicomdl {content['dicomdl']}, and this is "
            f"{__version__}: plan again with this one, or finish with that one",
            found=content["dicomdl"],
            expected=__version__,
        )
    return Plan(folder, kind, tuple(content["keys"]), content["setup"], payload)


def has_plan(folder: str) -> bool:
    """Whether a folder has a plan, which may be damaged."""
    return os.path.isfile(os.path.join(folder, _PLAN))


def _require_ours(folder: str, kind: str) -> None:
    path = os.path.join(folder, _PLAN)
    if not has_plan(folder):
        if os.path.isdir(folder) and set(os.listdir(folder)) - _OURS:
            raise UsageError(
                f"{folder!r} holds other files, and no plan: name a folder of its own with work=",
                path=folder,
            )
        raise UsageError(f"there is no plan in {folder!r}: make one with plan", path=folder)
    try:
        found = unsealed(storage.read_whole(path))[0]["kind"]
    except (ValueError, KeyError):
        # A damaged plan is replaced by a new one, and refused by all else.
        return
    if found != kind:
        raise UsageError(
            f"{folder!r} has the plan of a {found}, not of a {kind}: name a folder of its own with "
            "work=",
            path=folder,
        )


def chosen(plan: Plan, part: str) -> list[int]:
    """Return the numbers of the partitions of one share: "3/64", or "all".

    Shares count from 1. With as many shares as partitions, a share is one partition; with fewer, a
    share has every so-many-th partition.

    Raises
    ------
    UsageError
        The text is no share.
    """
    if part == "all":
        return list(range(len(plan)))
    number, slash, count = part.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UsageError(
            f"part is {part!r}, expected 'all' or I/N with I from 1 to N, such as 3/64",
            part=part,
        )
    return list(range(int(number) - 1, len(plan), int(count)))


# --- partitions -----------------------------------------------------------------------------------


def make(task: Task, number: int, left_out: LeftOut, *, word: str = "") -> Outcome:
    """Make a partition, unless it is finished ("present") or another process makes it ("busy").

    Parameters
    ----------
    task
        The job.
    number
        The partition.
    left_out
        Units of it that are left out, with the reasons.
    word
        Text in the lease, by which the supervisor of this process knows it.

    Raises
    ------
    StorageError
        Files cannot be written. Finished partitions stay.
    """
    plan = task.plan
    if finished(plan, number) is not None:
        return "present"
    with lease(lease_of(plan, number), word=word) as is_mine:
        if not is_mine:
            return "busy"
        if finished(plan, number) is not None:
            return "present"
        key, files = plan.keys[number], {}
        parts = os.path.join(plan.folder, "parts")
        storage.make_folder(parts)

        def name(folder: str) -> str:
            files.update(storage.content_of(folder))
            return f"{key}.{key_of(files)}"

        with storage.new_folder(parts, name, what=f"partition {number + 1}") as folder:
            facts = dict(task.make(number, folder, left_out))
        marker = {
            "dicomdl": __version__,
            "folder": f"{key}.{key_of(files)}",
            "files": files,
            "left_out": dict(left_out),
            "facts": facts,
        }
        path = _marker_path(plan, number)
        storage.make_folder(os.path.dirname(path))
        storage.write_whole(path, sealed(marker))
    return "made"


def attempt(task: Task, number: int, units: Iterable[str]) -> None:
    """Do the work of some units of a partition, and drop the result."""
    wanted = set(units)
    others = {unit: "" for unit in task.units(number) if unit not in wanted}
    parts = os.path.join(task.plan.folder, "parts")
    storage.make_folder(parts)
    with storage.scratch_folder(parts) as folder:
        task.make(number, folder, others)


def finished(plan: Plan, number: int) -> Marker | None:
    """Return the marker of a partition that is finished; None for others.

    A partition of another version of dicomdl, or whose files have other sizes, is not finished.
    """
    content = _marker(plan, number)
    if content is None or content["dicomdl"] != __version__:
        return None
    folder = os.path.join(plan.folder, "parts", content["folder"])
    for name, (size, _) in content["files"].items():
        if storage.size_of(os.path.join(folder, name)) != size:
            return None
    return Marker(number, folder, content["facts"], content["left_out"])


def merged(plan: Plan) -> list[Marker]:
    """Return the markers of all partitions, after a check of every file.

    Raises
    ------
    UsageError
        Partitions are not finished, or are of another version of dicomdl (`missing`).
    StorageError
        Files of a partition are not as they were written. Its marker is removed, so that the
        partition is made again.
    """
    contents = {number: _marker(plan, number) for number in range(len(plan))}
    missing = [number for number, content in contents.items() if content is None]
    if missing:
        raise _not_finished(plan, missing, "is not finished", "are not finished")
    others = {
        number: content["dicomdl"]
        for number, content in contents.items()
        if content is not None and content["dicomdl"] != __version__
    }
    if others:
        version = sorted(set(others.values()))[0]
        words = f"made by dicomdl {version}, and this is {__version__}"
        raise _not_finished(plan, list(others), f"was {words}", f"were {words}")
    markers = []
    for number, content in contents.items():
        assert content is not None
        folder = os.path.join(plan.folder, "parts", content["folder"])
        for name, (size, digest) in content["files"].items():
            _require_same(plan, number, os.path.join(folder, name), size, digest)
        markers.append(Marker(number, folder, content["facts"], content["left_out"]))
    return markers


def clear(plan: Plan) -> None:
    """Remove the folder of a plan, after its merge."""
    shutil.rmtree(plan.folder, ignore_errors=True)


def clear_remains(plan: Plan) -> None:
    """Remove temporary folders of processes that were killed."""
    parts = os.path.join(plan.folder, "parts")
    storage.remove_old(parts, _DAY_S, time.time(), pattern=_TEMPORARY)
    leases = os.path.join(plan.folder, "leases")
    storage.remove_old(leases, _DAY_S, time.time(), pattern=r"[0-9a-f]+\.[0-9a-f]{16}\.tmp")


def lease_of(plan: Plan, number: int) -> str:
    """Return the path of the lease of a partition."""
    return os.path.join(plan.folder, "leases", plan.keys[number])


def _marker_path(plan: Plan, number: int) -> str:
    return os.path.join(plan.folder, "done", f"{plan.keys[number]}.json")


def _marker(plan: Plan, number: int) -> dict[str, Any] | None:
    """Return the content of a marker; None without one, or for a damaged one."""
    try:
        return unsealed(storage.read_whole(_marker_path(plan, number)))[0]
    except ValueError:
        return None


def _require_same(plan: Plan, number: int, path: str, size: int, digest: str) -> None:
    found = storage.size_of(path)
    if found == size and storage.digest_of(path) == digest:
        return
    storage.remove_files([_marker_path(plan, number)])
    words = (
        "is absent"
        if found < 0
        else f"has {found} bytes, expected {size}"
        if found != size
        else "has another checksum than when it was written"
    )
    raise StorageError(
        f"{path!r} of partition {number + 1} {words}: make part {number + 1}/{len(plan)} again, "
        "and merge",
        path=path,
        part=number + 1,
    )


def _not_finished(plan: Plan, numbers: Sequence[int], one: str, many: str) -> UsageError:
    shown = ", ".join(str(number + 1) for number in numbers[:_LISTED])
    more = f" and {len(numbers) - _LISTED} more" if len(numbers) > _LISTED else ""
    start = (
        f"partition {shown} of {len(plan)} {one}"
        if len(numbers) == 1
        else f"{len(numbers)} of {len(plan)} partitions {many} ({shown}{more})"
    )
    return UsageError(
        f"{start} in {plan.folder!r}: make part {numbers[0] + 1}/{len(plan)}"
        f"{'' if len(numbers) == 1 else ' and the others, or part all'}, and merge then",
        missing=[number + 1 for number in numbers],
    )


def per_partition(total: int, most: int, wanted: int | None) -> int:
    """Return a number of partitions: the wanted one, or as many as keep each below `most`."""
    if wanted is not None and wanted < 1:
        raise UsageError(f"parts is {wanted}, expected at least 1", parts=wanted)
    return wanted or max(1, math.ceil(total / most))
