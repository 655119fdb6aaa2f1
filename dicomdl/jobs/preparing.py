"""The partitions of a recipe: whole series, each written by one process, published by one."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from dicomdl.index.access import access_to
from dicomdl.index.index import Index
from dicomdl.index.opening import opened
from dicomdl.jobs import partitions, supervisor
from dicomdl.jobs.card import Card, write_card
from dicomdl.jobs.exports.exporter import HIDDEN, REFUSED, WRITTEN, Exporter
from dicomdl.jobs.exports.formats import exporter_of
from dicomdl.jobs.partitions import LeftOut, Plan
from dicomdl.jobs.recipes.choosing import Chosen, choose
from dicomdl.jobs.recipes.reading import recipe_of
from dicomdl.jobs.recipes.recipe import Recipe
from dicomdl.lazy import cached_property
from dicomdl.storage.children import Answer
from dicomdl.storage.system import share_cores

KIND: Final = "prepare"
TARGET: Final = "dicomdl.jobs.preparing:answering"
# Bytes of decoded pixels per partition.
_PART_BYTES: Final = 2 * 2**30
_SAMPLE_BYTES: Final = 2


def answering(setup: Mapping[str, Any]) -> Answer:
    """Return the function by which a child process makes partitions of a recipe."""
    share_cores(setup["threads"])
    plan = partitions.read_plan(setup["folder"], KIND)
    return supervisor.answering(PrepareTask(plan, workers=setup["threads"]))


def parts_of(recipe: Recipe, chosen: Chosen) -> tuple[list[str], list[dict[str, list[int]]]]:
    """Divide the samples of a recipe into partitions; return the key and the series of each.

    A partition has whole series. One that is larger than the others is a partition of its own.

    Parameters
    ----------
    recipe
        The recipe.
    chosen
        What the recipe takes of the index.
    """
    exporter = exporter_of(chosen.index, chosen.options, workers=1)
    members = divided(exporter, recipe.output.parts)
    keys = []
    for number, part in enumerate(members):
        stacks_of = [stack for stacks in part.values() for stack in stacks]
        state = exporter.state(stacks_of)
        keys.append(partitions.key_of(KIND, chosen.options.fingerprint, number, state))
    return keys, members


def divided(exporter: Exporter, parts: int | None) -> list[dict[str, list[int]]]:
    """Return {Series: its stacks} of each partition."""
    series: dict[str, list[int]] = {}
    weights: dict[str, int] = {}
    for unit in exporter.units():
        stacks = [exporter.index.stack(number) for number in unit]
        uid = stacks[0].series_instance_uid
        series.setdefault(uid, []).extend(unit)
        pixels = sum(math.prod(stack.shape) for stack in stacks)
        weights[uid] = weights.get(uid, 0) + pixels * _SAMPLE_BYTES
    names = list(series)
    count = partitions.per_partition(sum(weights.values()), _PART_BYTES, parts)
    items = partitions.packed([weights[name] for name in names], count)
    return [{names[item]: series[names[item]] for item in each} for each in items]


class PrepareTask:
    """The partitions of a recipe.

    Parameters
    ----------
    plan
        The plan.
    workers
        Samples that are made at once.
    """

    def __init__(self, plan: Plan, *, workers: int = 1) -> None:
        self.plan = plan
        self._workers = workers
        self._members: Sequence[Mapping[str, Sequence[int]]] = plan.setup["members"]

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe."""
        return recipe_of(self.plan.setup["recipe"])

    @cached_property
    def index(self) -> Index:
        """The generation of the index that was planned."""
        return index_of(self.plan.setup["index"], self.plan.setup["generation"])

    @cached_property
    def chosen(self) -> Chosen:
        """What the recipe takes of the index."""
        return choose(self.recipe, self.index, self.plan.setup["data"])

    @cached_property
    def exporter(self) -> Exporter:
        """The exporter of the chosen stacks."""
        return exporter_of(self.chosen.index, self.chosen.options, workers=self._workers)

    def units(self, number: int) -> list[str]:
        """Return the Series of a partition."""
        return list(self._members[number])

    def make(self, number: int, folder: str, left_out: LeftOut) -> dict[str, Any]:
        """Write the samples of a partition; its facts are their entries."""
        stacks = [
            stack
            for series, members in self._members[number].items()
            if series not in left_out
            for stack in members
        ]
        entries = self.exporter.write(stacks, folder, number) if stacks else []
        for series, why in left_out.items():
            reason = f"{supervisor.KILLED}: {why}, each time that its series was read alone"
            cases = self.exporter.samples.cases(self._members[number][series])
            entries += [case.entry(REFUSED, reason) | {"files": {}} for case in cases]
        return {"entries": entries}


def card_of(
    task: PrepareTask, entries: Sequence[Mapping[str, Any]], files: Sequence[str], *, progress: bool
) -> Card:
    """Write the data card of the data set of a plan, whose files are in place.

    It describes the stacks that became samples.
    """
    recipe, chosen = task.recipe, task.chosen
    stacks = {stack for entry in entries if entry["status"] == WRITTEN for stack in entry["stacks"]}
    index = chosen.index.of_stacks(sorted(stacks))
    text = {f.name: getattr(recipe.card, f.name) for f in fields(recipe.card)}
    # Where the data lie is no property of them.
    told = dict(task.plan.setup["recipe"])
    told["sources"] = {k: v for k, v in told["sources"].items() if k not in ("roots", "index")}
    splits = None
    if (saved := chosen.options.split) is not None:
        parts = [index & part for part in chosen.index.split(keep=saved, by=saved.by, stratify=())]
        names = chosen.options.parts if saved.k is None else [f"fold_{n}" for n in range(saved.k)]
        splits = dict(zip(names, parts, strict=True))
    return write_card(
        index,
        task.plan.setup["out"],
        name=recipe.name,
        description=recipe.description,
        splits=splits,
        options=told,
        files=files,
        overwrite=True,
        progress=progress,
        **text,
    )


def index_of(path: str, generation: str) -> Index:
    """Open a generation of an index, as `open_index` opens the current one.

    Raises
    ------
    IndexFolderError
        The generation is gone, or damaged.
    """
    access = access_to(path, generation, None, strict_files=True, trust=False)
    return opened(path, generation, access)


def files_of(folder: str) -> list[str]:
    """Return the files of a partition that belong to the data set, as paths with /."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != HIDDEN)
        for name in sorted(names):
            found.append(os.path.relpath(os.path.join(parent, name), folder).replace(os.sep, "/"))
    return found
