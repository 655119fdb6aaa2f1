"""What an object annotates of a stack: beyond it, the absence of a label says nothing."""

from collections.abc import Callable, Collection
from typing import TypeAlias

import numpy as np

from dicomdl.arrays import Ints, Mask
from dicomdl.headers.annotation import AnnotationFacts
from dicomdl.index.annotated import references_of
from dicomdl.index.annotations import Annotation, hash_of_each, hashes_of
from dicomdl.index.views import Stack

# A function that returns (slices,) bool: the slices of a stack that an object refers to.
Referred: TypeAlias = Callable[[], Mask]


def referred_by_index(stack: Stack, annotation: Annotation) -> Mask:
    """Return (slices,) bool: the slices that an annotation of the index refers to."""
    series, instances = references_of(stack, annotation)
    return _referred(stack, series, instances)


def referred_by_file(stack: Stack, facts: AnnotationFacts) -> Mask:
    """Return (slices,) bool: the slices that a file refers to."""
    series = {each.series_instance_uid for each in facts.references}
    instances = hashes_of(uid for each in facts.references for uid in each.sop_instance_uids)
    return _referred(stack, series, instances)


def _referred(stack: Stack, series: Collection[str], instances: Ints) -> Mask:
    """Return the slices whose instance is named; every one if only their Series is."""
    if len(instances):
        return np.isin(hash_of_each(map(str, stack.values("sop_instance_uid"))), instances)
    return np.full(stack.slices, stack.series_instance_uid in series)
