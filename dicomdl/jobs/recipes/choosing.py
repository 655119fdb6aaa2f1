"""A recipe applied to an index: which stacks are used, with which labels, and in which part."""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np

from dicomdl.arrays import Values
from dicomdl.errors import DicomdlWarning, EmptySelection, UsageError
from dicomdl.geometry.linking import READABLE_STATUSES
from dicomdl.index.filtering import selected
from dicomdl.index.index import Index
from dicomdl.index.saved_splits import SavedSplit, load_split
from dicomdl.index.views import Stack
from dicomdl.jobs.exports.options import ExportOptions
from dicomdl.jobs.recipes.places import within
from dicomdl.jobs.recipes.recipe import Labels, Recipe, SplitRule
from dicomdl.labels.read import read_labels
from dicomdl.labels.source import LABEL_KINDS, LabelSource
from dicomdl.values.normalisation import Clip, MinMax, ZScore
from dicomdl.values.windows import Percentile, Window

_MAPS: Final[Mapping[str, Callable[..., Any]]] = {
    "window": Window,
    "clip": Clip,
    "percentile": Percentile,
    "min_max": MinMax,
    "z_score": ZScore,
}
# Facts that name a level.
_LEVELS: Final[Mapping[str, Callable[[Stack], str]]] = {
    "patient": lambda stack: stack.patient_id,
    "study": lambda stack: stack.study_instance_uid,
    "series": lambda stack: stack.series_instance_uid,
}


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a recipe takes of an index.

    Attributes
    ----------
    index
        The frames, with joined labels.
    options
        The options of the export.
    left_out
        {why stacks are left out: their number}.
    """

    index: Index
    options: ExportOptions
    left_out: Mapping[str, int]


def choose(recipe: Recipe, index: Index, folder: str) -> Chosen:
    """Apply a recipe to the index of its sources.

    Raises
    ------
    UsageError
        A condition, a table, the split or an option does not fit the index. An EmptySelection, if
        nothing is left.
    """
    left_out: Counter[str] = Counter()

    def narrowed(index: Index, narrower: Index, why: str) -> Index:
        if (lost := len(index.stacks) - len(narrower.stacks)) > 0:
            left_out[why] += lost
        if not len(narrower):
            raise EmptySelection(f"nothing is left: {_told(left_out)}")
        return narrower

    later = []
    for text in recipe.select:
        try:
            narrower = selected(index, [text])
        except UsageError:
            # A column of a table, perhaps.
            if not recipe.tables:
                raise
            later.append(text)
            continue
        index = narrowed(index, narrower, f"not {text}")
    if recipe.stacks.verdicts:
        narrower = index.select(verdict=list(recipe.stacks.verdicts))
        for verdict, count in sorted(index.stacks.verdicts().items()):
            if verdict not in recipe.stacks.verdicts:
                left_out[f"verdict {verdict}"] += count
        if not len(narrower):
            raise EmptySelection(f"nothing is left: {_told(left_out)}")
        index = narrower
    for table in recipe.tables:
        path = within(folder, table.path)
        options = {f.name: getattr(table, f.name) for f in fields(table) if f.name != "path"}
        try:
            joined = index.join(path, **options)
        except UsageError as error:
            error.add_note(f"while joining {table.path!r}")
            raise
        index = narrowed(index, joined, f"without a row of {os.path.basename(table.path)}")
    for text in later:
        index = narrowed(index, selected(index, [text]), f"not {text}")
    if recipe.stacks.one_per:
        level = recipe.stacks.one_per
        index = narrowed(index, _one_per(index, level), f"another of its {level} has more slices")
    split = _split(recipe.split, index, folder)
    return Chosen(index, options_of(recipe, split, folder), dict(left_out))


def options_of(recipe: Recipe, split: SavedSplit | None, folder: str) -> ExportOptions:
    """Return the options of the export of a recipe."""
    output, grid = recipe.output, recipe.resampling
    return ExportOptions(
        output.to,
        intensity=intensity_of(recipe.intensity),
        size=_tuple(grid.size),
        spacing=_tuple(grid.spacing),
        orientation=grid.orientation,
        interpolation=grid.interpolation,
        irregular=recipe.stacks.irregular,
        channels=output.channels,
        suv=output.suv,
        labels=_labels(recipe.labels, folder),
        target=output.target,
        boxes=output.boxes,
        points=output.points,
        dtype=output.dtype,
        split=split,
        parts=recipe.split.names if recipe.split is not None else (),
        name=output.name,
        names=output.names,
        suffix=output.suffix,
        picture=output.picture,
        shard_bytes=output.shard_bytes,
    )


def intensity_of(given: Any) -> Any:
    """Return the option of datasets for the intensity of a recipe.

    Raises
    ------
    UsageError
        It is no such option.
    """
    if isinstance(given, list):
        numbers = all(isinstance(item, int | float) for item in given)
        return tuple(given) if numbers else tuple(intensity_of(item) for item in given)
    if not isinstance(given, dict):
        return given
    ((name, values), *more) = given.items() if given else [("", None)]
    if more or name not in _MAPS:
        raise UsageError(
            f"intensity {given!r}: expected a name, [center, width], or one of "
            f"{', '.join(_MAPS)} with its values, such as {{clip: [-1000, 1000]}}"
        )
    if isinstance(values, dict):
        return _MAPS[name](**values)
    return _MAPS[name](
        *(values if isinstance(values, list) else [] if values is None else [values])
    )


@dataclass(frozen=True, slots=True)
class Agreement:
    """A label map of a stack: 1 where at least `least` of its objects of a kind cover a voxel."""

    kind: str
    least: int

    def __call__(self, stack: Stack) -> Values:
        """Return the label map, uint8 (slices, rows, columns)."""
        covering = np.zeros(stack.shape, dtype=np.uint16)
        for annotation in stack.annotations:
            if annotation.kind == self.kind and annotation.status in READABLE_STATUSES:
                covering += read_labels(stack, annotation).array > 0
        return (covering >= self.least).astype(np.uint8)


def _labels(labels: Labels | None, folder: str) -> LabelSource | None:
    if labels is None:
        return None
    options = {f.name: getattr(labels, f.name) for f in fields(labels)}
    least = options.pop("agreeing")
    if least is not None:
        if labels.source not in LABEL_KINDS or least < 1:
            raise UsageError(
                f"labels: agreeing={least} is for {' and '.join(LABEL_KINDS)}, from 1 on"
            )
        return LabelSource(**{**options, "source": Agreement(labels.source, least)})
    if labels.source not in LABEL_KINDS:
        options["source"] = within(folder, labels.source)
    return LabelSource(**options)


def _split(rule: SplitRule | None, index: Index, folder: str) -> SavedSplit | None:
    if rule is None:
        return None
    keep = load_split(within(folder, rule.file)) if rule.file else None
    with warnings.catch_warnings():
        # The card and the ledger state the sizes of the parts.
        warnings.simplefilter("ignore", DicomdlWarning)
        return index.split(
            rule.fractions or None,
            rule.by,
            rule.seed,
            k=rule.k,
            stratify=rule.stratify,
            keep=keep,
        ).saved


def _one_per(index: Index, level: str) -> Index:
    """Return the stack with the most slices of each entity, and all that are no images."""
    best: dict[str, Stack] = {}
    others = []
    for stack in index.stacks:
        if stack.content != "image":
            others.append(stack.number)
            continue
        key = _LEVELS[level](stack)
        if key not in best or stack.slices > best[key].slices:
            best[key] = stack
    return index.of_stacks(sorted([*others, *(stack.number for stack in best.values())]))


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _told(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count} stacks {why}" for why, count in left_out.items()) or "no stacks"
