"""The public `prepare`: a recipe to a data set, by processes of this machine or of many."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from dicomdl.errors import DicomdlError, StorageError, UsageError
from dicomdl.index.index import Index
from dicomdl.jobs import partitions, supervisor
from dicomdl.jobs._file_names import output_folder
from dicomdl.jobs.exports.exported import remarks_of
from dicomdl.jobs.partitions import Plan, key_of
from dicomdl.jobs.prepared import (
    Prepared,
    Record,
    is_complete,
    plain_json,
    prepared_of,
    read_record,
    refused_of,
    require_free,
    samples_of,
    write_record,
)
from dicomdl.jobs.recipes.named import recipe_path
from dicomdl.jobs.recipes.places import within
from dicomdl.jobs.recipes.reading import plain_values, read_recipe
from dicomdl.jobs.recipes.recipe import Recipe
from dicomdl.jobs.repairing import repaired
from dicomdl.jobs.scan import scan
from dicomdl.jobs.scan_parts import work_folder
from dicomdl.labels.source import LABEL_KINDS
from dicomdl.storage import locks
from dicomdl.storage import publishing as storage
from dicomdl.storage.locations import is_url
from dicomdl.storage.system import available_cores
from dicomdl.version import __version__

if TYPE_CHECKING:
    # These import torch, which takes seconds that a call without work does not need.
    from dicomdl.jobs.exports.exporter import Exporter
    from dicomdl.jobs.preparing import PrepareTask
    from dicomdl.jobs.recipes.choosing import Chosen

_KIND: Final = "prepare"
_LOCK: Final = ".prepared.lock"


def prepare(
    recipe: str | os.PathLike[str],
    out: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    *,
    changes: Sequence[str] = (),
    dry_run: bool = False,
    overwrite: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> Prepared:
    r"""Prepare a data set by a recipe: scan, select, join, split, resample and export.

    A call that was interrupted continues when it is made again, and one that finds nothing changed
    does nothing beyond a scan. Processes that die are replaced; a series that ends its process
    whenever it is read becomes a refused sample, ``killed_worker``.

    Parameters
    ----------
    recipe
        A file of YAML, or the name of a recipe that comes with dicomdl, such as "rsna-2019-ich".
    out
        The folder of the data set, which is created if it is absent. Unfinished partitions lie in
        a hidden folder beside it.
    data
        The folder that the paths of the recipe are relative to. The default is the folder of the
        recipe.
    changes
        Texts ``key=value`` that change the recipe, such as ``"split.k=5"``.
    dry_run
        Scan, and return what would be made; `out` is not touched.
    overwrite
        Whether a folder with other files, or with the data set of another recipe, is written to.
    workers
        Child processes; one per core by default.
    progress
        Show progress bars.

    Returns
    -------
    Prepared
        The ledger: what was found, prepared and left out, and why.

    Raises
    ------
    UsageError
        The recipe has an error, which the message names with its line; it does not fit the data;
        or the folder has other files.
    StorageError
        The disk is full, or a folder cannot be written to. What is finished stays.
    MissingExtra
        PyYAML or msgspec is not installed (extra `config`).

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import dicomdl
    >>> folder = tempfile.TemporaryDirectory()
    >>> data = dicomdl.demo_data(f"{folder.name}/demo", patients=2)
    >>> recipe = pathlib.Path(folder.name, "ct.yaml")
    >>> _ = recipe.write_text("name: CT\nselect: [modality=CT]\nintensity: ct.lung\n")
    >>> done = dicomdl.prepare(recipe, f"{folder.name}/out", data, dry_run=True, progress=False)
    >>> done.status, sum(done.samples.values())
    ('planned', 3)
    """
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers}, expected at least 1", workers=workers)
    order = _ordered(recipe, out, data, changes)
    if not dry_run:
        require_free(order.out, order.digest, overwrite=overwrite)
    index = _index(order, workers, progress=progress)
    state = _state(order, index)
    record = read_record(order.out)
    if record is not None and state and record.state == state and is_complete(order.out, record):
        return prepared_of(record)
    from dicomdl.jobs.recipes.choosing import choose

    chosen = choose(order.recipe, index, order.data)
    if dry_run:
        return _planned(order, index, chosen)
    work = work_folder(order.out)
    plan = _plan(order, index, chosen, state, work, overwrite=overwrite)
    count = workers or available_cores()
    try:
        complete_parts(plan, "all", workers=count, progress=progress)
        return _merge(work, order.digest, overwrite=overwrite, progress=progress)
    except (UsageError, StorageError):
        # Another process with the same recipe may have published, and removed the plan.
        with _alone(order.out):
            record = read_record(order.out)
            if record is None or not state or record.state != state:
                raise
            if not partitions.has_plan(work):
                partitions.clear(plan)
        return prepared_of(record)


def plan_prepare(
    recipe: str | os.PathLike[str],
    out: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    *,
    changes: Sequence[str] = (),
    work: str | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> Plan:
    """Scan, and write the plan of a recipe; the arguments are those of `prepare`.

    `work` is the folder that the processes share; one beside `out` by default.
    """
    order = _ordered(recipe, out, data, changes)
    require_free(order.out, order.digest, overwrite=overwrite)
    from dicomdl.jobs.recipes.choosing import choose

    index = _index(order, workers, progress=progress)
    chosen = choose(order.recipe, index, order.data)
    state, folder = _state(order, index), work or work_folder(order.out)
    return _plan(order, index, chosen, state, folder, overwrite=overwrite)


def make_parts(
    work: str, part: str = "all", *, workers: int = 1, progress: bool = False
) -> dict[str, int]:
    """Make a share of the partitions of a plan, and count its samples; see `make_scan`."""
    plan = partitions.read_plan(work, _KIND)
    complete_parts(plan, part, workers=workers, progress=progress)
    counts = {"partitions": 0, "samples": 0, "refused": 0}
    for number in partitions.chosen(plan, part):
        marker = partitions.finished(plan, number)
        entries = marker.facts["entries"] if marker else []
        refused = len(refused_of(entries))
        counts["partitions"] += 1
        counts["samples"] += len(entries) - refused
        counts["refused"] += refused
    return counts


def complete_parts(plan: Plan, part: str, *, workers: int, progress: bool) -> None:
    """Make a share of the partitions of a plan in child processes."""
    from dicomdl.jobs.preparing import TARGET, PrepareTask

    task = PrepareTask(plan)
    setup = {"folder": plan.folder, "threads": max(1, available_cores() // workers)}
    numbers = partitions.chosen(plan, part)
    supervisor.complete(task, TARGET, setup, numbers, workers, progress=progress)


def merge_parts(work: str, *, overwrite: bool = False, progress: bool = True) -> Prepared:
    """Check all partitions of a plan, publish the data set, and remove the folder of the plan.

    Raises
    ------
    UsageError
        Partitions are not finished or of another version, or the folder has other files.
    StorageError
        A partition is damaged, another process publishes, or the data set cannot be written.
    """
    return _merge(work, None, overwrite=overwrite, progress=progress)


def _merge(work: str, digest: str | None, *, overwrite: bool, progress: bool) -> Prepared:
    """Publish as `merge_parts`; with `digest`, the plan must still be that of this recipe."""
    plan = partitions.read_plan(work, _KIND)
    out = plan.setup["out"]
    with _alone(out):
        # Another process may have merged meanwhile, or planned another recipe.
        plan = partitions.read_plan(work, _KIND)
        if digest not in (None, plan.setup["digest"]):
            raise UsageError(
                f"another process prepares another recipe in {out!r}: wait for its end, or name "
                "another folder",
                path=out,
            )
        require_free(out, plan.setup["digest"], overwrite=overwrite)
        done = _published(plan, progress=progress)
        partitions.clear(plan)
    return done


def _published(plan: Plan, *, progress: bool) -> Prepared:
    """Put the files of all partitions of a plan in place, while its output folder is locked."""
    from dicomdl.jobs.preparing import PrepareTask, card_of, files_of

    task = PrepareTask(plan)
    markers = partitions.merged(plan)
    entries = sorted(
        (entry for marker in markers for entry in marker.facts["entries"]),
        key=lambda entry: int(entry["row"]),
    )
    out, setup = plan.setup["out"], plan.setup
    before = read_record(out)
    placed = {
        name: os.path.join(marker.folder, name)
        for marker in markers
        for name in files_of(marker.folder)
    }
    # A process that dies here leaves a folder that is known as this recipe's.
    begun = {**(before.files if before else {}), **dict.fromkeys(placed, -1)}
    write_record(out, Record(setup["digest"], "", begun))
    for name, path in placed.items():
        storage.make_folder(os.path.dirname(os.path.join(out, name)))
        storage.place_file(path, os.path.join(out, name))
    published = task.exporter.publish(entries, out)
    files = sorted({*placed, *published})
    card = card_of(task, entries, files, progress=progress)
    files = sorted({*files, *card.files})
    done = replace(_prepared(task, entries, files), fingerprint=card.fingerprint)
    stale = [os.path.join(out, name) for name in begun if name not in files]
    storage.remove_files(stale)
    sizes = {name: storage.size_of(os.path.join(out, name)) for name in files}
    ledger = plain_json(done.to_dict())
    write_record(out, Record(setup["digest"], setup["state"], sizes, ledger))
    return done


# --- what is asked for ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Order:
    """A recipe with its places.

    `digest` names recipe and data: another one is another data set.
    """

    recipe: Recipe
    plain: dict[str, Any]
    out: str
    data: str
    digest: str


def _ordered(
    recipe: str | os.PathLike[str],
    out: str | os.PathLike[str],
    data: str | os.PathLike[str] | None,
    changes: Sequence[str],
) -> _Order:
    path = recipe_path(os.fspath(recipe))
    read = read_recipe(path, changes)
    folder = os.path.dirname(path) if data is None else os.fspath(data)
    folder = os.path.abspath(os.path.expanduser(folder))
    if not os.path.isdir(folder):
        raise UsageError(f"the folder of the data {folder!r} does not exist", path=folder)
    target = output_folder(out)
    plain = plain_json(plain_values(read))
    return _Order(read, plain, target, folder, key_of(plain, folder))


def _index(order: _Order, workers: int | None, *, progress: bool) -> Index:
    """Scan the sources of a recipe."""
    sources = order.recipe.sources
    roots = [within(order.data, root) for root in sources.roots]
    index = scan(
        roots,
        within(order.data, sources.index) if sources.index else None,
        workers=workers,
        progress=progress,
        archives=sources.archives,
        follow_links=sources.follow_links,
        attributes=sources.attributes,
        patient_id=sources.patient_id,
        pixel_hash=sources.pixel_hash,
        texts=sources.texts,
        storage_options=sources.storage_options,
    )
    return repaired(index, order.recipe.repairs)[0]


def _state(order: _Order, index: Index) -> str:
    """Return a digest of all inputs; "" where they cannot be known without reading all of them."""
    recipe = order.recipe
    paths = [within(order.data, table.path) for table in recipe.tables]
    if recipe.split is not None and recipe.split.file:
        paths.append(within(order.data, recipe.split.file))
    has_files = recipe.labels is not None and recipe.labels.source not in LABEL_KINDS
    if has_files or any(map(is_url, paths)):
        return ""
    try:
        digests = [storage.digest_of(path) for path in paths]
    except OSError:
        # The join says which one is absent.
        return ""
    return key_of(order.digest, index.path, index.generation, digests, __version__)


def _plan(
    order: _Order, index: Index, chosen: "Chosen", state: str, work: str, *, overwrite: bool
) -> Plan:
    from dicomdl.jobs.preparing import parts_of

    keys, members = parts_of(order.recipe, chosen)
    setup: dict[str, Any] = {
        "digest": order.digest,
        "state": state,
        "out": order.out,
        "data": order.data,
        "index": index.path,
        "generation": index.generation,
    }
    setup |= {"recipe": order.plain, "members": members, "left_out": dict(chosen.left_out)}
    # Another process may have planned or published since this one began.
    with _alone(order.out):
        require_free(order.out, order.digest, overwrite=overwrite)
        if not overwrite and _digest_of_plan(work) not in ("", order.digest):
            raise UsageError(
                f"{work!r} has the unfinished plan of another recipe for {order.out!r}: finish "
                "it, name another folder, or pass overwrite=True",
                path=work,
            )
        return partitions.write_plan(work, _KIND, keys, setup, b"")


def _digest_of_plan(work: str) -> str:
    """Return the digest of the recipe that a folder has a plan of; "" without one."""
    try:
        return str(partitions.read_plan(work, _KIND).setup["digest"])
    except DicomdlError:
        return ""


# --- what was made --------------------------------------------------------------------------------


def _planned(order: _Order, index: Index, chosen: "Chosen") -> Prepared:
    from dicomdl.jobs.exports.formats import exporter_of
    from dicomdl.jobs.preparing import divided

    exporter = exporter_of(chosen.index, chosen.options, workers=1)
    samples = dict.fromkeys(chosen.options.parts, 0)
    for case in exporter.samples.cases():
        samples[case.part] += 1
    return replace(
        _ledger(order.out, order.recipe, index, exporter, chosen.left_out),
        status="planned",
        samples=samples,
        partitions=len(divided(exporter, order.recipe.output.parts)),
    )


def _prepared(task: "PrepareTask", entries: list[dict[str, Any]], files: Sequence[str]) -> Prepared:
    out, left_out = task.plan.setup["out"], task.plan.setup["left_out"]
    return replace(
        _ledger(out, task.recipe, task.index, task.exporter, left_out),
        samples=samples_of(entries, task.exporter.options.parts),
        refused=refused_of(entries),
        remarks=remarks_of(entries),
        files=tuple(files),
        partitions=len(task.plan),
    )


def _ledger(
    out: str, recipe: Recipe, index: Index, exporter: "Exporter", left_out: Mapping[str, int]
) -> Prepared:
    return Prepared(
        out=out,
        name=recipe.name,
        to=recipe.output.to,
        status="prepared",
        found={**dict(index.ledger), **index.counts},
        problems=dict(index.problems.reasons()),
        left_out={**left_out, **exporter.left_out},
        repaired=dict(index.manifest.get("repaired", {})),
        samples={},
    )


@contextlib.contextmanager
def _alone(out: str) -> Iterator[None]:
    """Hold the lock of an output folder, after a wait for another process."""
    storage.make_folder(out)
    with locks.alone(os.path.join(out, _LOCK)) as held:
        if held is False:
            raise StorageError(
                f"another process publishes into {out!r}: wait for its end, and try again"
            )
        yield
