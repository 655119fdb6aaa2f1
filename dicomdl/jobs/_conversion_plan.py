"""The plan of a conversion: which stacks make one image, and its name.

Time points, phases and diffusion directions of a group become one image of four dimensions. Echoes,
kernels, coils and all else that distinguishes its stacks become files with a suffix, as dcm2niix
does, and so do magnitude, phase, real and imaginary parts. A group that is no array, because a
stack lacks slices or lies elsewhere, becomes an image per stack.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dicomdl.errors import DicomdlError, UsageError
from dicomdl.geometry.linking import READABLE_STATUSES
from dicomdl.geometry.verdict import Irregular
from dicomdl.index.annotations import Annotation
from dicomdl.index.index import Index
from dicomdl.index.views import Group, Stack
from dicomdl.jobs._file_names import NameTemplate, facts_of
from dicomdl.labels.source import LABEL_KINDS
from dicomdl.volumes.read import require_volume

DEFAULT_NAMES: Final = "{patient_id}/{series_number:03}_{series_description}{suffix}"
# What distinguishes the volumes of an image of four dimensions.
_TOGETHER: Final = frozenset(
    {
        "temporal_position_index",
        "temporal_position_identifier",
        "temporal_position_time_offset",
        "frame_reference_time",
        "frame_reference_date_time",
        "time_slot_vector",
        "time_slice_vector",
        "rr_interval_vector",
        "phase_vector",
        "philips_phase_number",
        "nominal_percentage_of_cardiac_phase",
        "nominal_cardiac_trigger_delay_time",
        "actual_cardiac_trigger_delay_time",
        "trigger_time",
        "nominal_percentage_of_respiratory_phase",
        "nominal_respiratory_trigger_delay_time",
        "diffusion_b_value",
        "diffusion_gradient_orientation",
        "philips_b_value_number",
        "philips_gradient_direction_number",
        "acquisition_number",
        "frame_acquisition_number",
        "acquisition_time",
        "frame_acquisition_time",
        "content_time",
        "image_index",
        "instance_number",
        "dimension_index_values",
    }
)
_SUFFIXES: Final = {
    "echo_time": "e",
    "effective_echo_time": "e",
    "echo_numbers": "e",
    "inversion_time": "ti",
    "flip_angle": "fa",
    "convolution_kernel": "k",
    "siemens_coil": "c",
}
_COMPONENT_SUFFIXES: Final = {"P": "_ph", "R": "_real", "I": "_imaginary"}


@dataclass(frozen=True, slots=True)
class Planned:
    """One image: its stacks, and the path of its files without a suffix, below the output folder.

    `apart` says why the stacks of a group are images of their own; "" for others.
    """

    group: Group
    name: str
    apart: str = ""

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the stacks in the index."""
        return tuple(self.group.stacks.numbers.tolist())

    @property
    def is_one(self) -> bool:
        """Whether it is a single volume."""
        return len(self.group) == 1


def plan(index: Index, names: str | None, irregular: Irregular) -> list[Planned]:
    """Return the images of all whole stacks of an index, in the order of the stacks.

    Raises
    ------
    UsageError
        The template is wrong, or gives two images one name (`paths`). Names of the default template
        get the number of the stack there.
    """
    template = NameTemplate(names or DEFAULT_NAMES, _is_field(index))
    images = [
        (group, suffix, apart)
        for whole in _groups(index)
        for group, suffix, apart in _images(whole, irregular)
    ]
    images.sort(key=lambda image: image[0][0].number)
    return _named(images, template, index, may_number=names is None)


def _groups(index: Index) -> Iterator[Group]:
    """Yield the groups of the selected stacks, with those of their stacks that are selected."""
    chosen: dict[int, list[Stack]] = {}
    for stack in index.stacks:
        chosen.setdefault(stack.group.number, []).append(stack)
    for stacks in chosen.values():
        yield stacks[0].group.only(sorted(stacks, key=lambda stack: stack.group_index))


def _images(group: Group, irregular: Irregular) -> Iterator[tuple[Group, str, str]]:
    """Yield (stacks of one image, suffix, why they are apart) of one group."""
    names = group.dimension_names
    apart = [name for name in names if name not in _TOGETHER]
    parts: dict[tuple[Any, ...], list[Stack]] = {}
    for part in group.parts:
        for stack in part:
            key = (stack.component, *(stack.dimension.get(name) for name in apart))
            parts.setdefault(key, []).append(stack)
    for key, stacks in parts.items():
        suffix = _suffix(key, apart, [other for other in parts if other[0] == key[0]])
        one = group.only(stacks)
        if why := _why_apart(one, irregular):
            for number, stack in enumerate(stacks, 1):
                yield group.only([stack]), f"{suffix}_v{number:03}", why
        else:
            yield one, suffix, ""


def _suffix(key: tuple[Any, ...], names: Sequence[str], alike: Sequence[tuple[Any, ...]]) -> str:
    """Return the suffix of an image: what tells it from those of the same component."""
    words = []
    for number, name in enumerate(names, 1):
        values = list(dict.fromkeys(repr(other[number]) for other in alike))
        if len(values) > 1:
            word = _SUFFIXES.get(name, name.replace("_", ""))
            words.append(f"_{word}{values.index(repr(key[number])) + 1}")
    return "".join(words) + _COMPONENT_SUFFIXES.get(key[0], "")


def _why_apart(group: Group, irregular: Irregular) -> str:
    """Return why several stacks are no array; "" if they are, or if there is one stack."""
    if len(group) < 2:
        return ""
    try:
        require_volume(group, irregular)
    except DicomdlError as error:
        return str(error)
    return ""


def _is_field(index: Index) -> Callable[[str], bool]:
    names = {*index.columns, *_OWN_FIELDS}
    return lambda name: name in names


_OWN_FIELDS: Final = ("suffix", "stack", "group")


def _named(
    images: Sequence[tuple[Group, str, str]],
    template: NameTemplate,
    index: Index,
    *,
    may_number: bool,
) -> list[Planned]:
    planned = [
        Planned(group, _name(group, suffix, template, index), apart)
        for group, suffix, apart in images
    ]
    while clashes := _clashes(planned):
        if not may_number:
            stacks = [[planned[number].numbers[0] for number in numbers] for numbers in clashes]
            # The name itself may hold the PatientID.
            raise UsageError(
                f"the template {template.text!r} gives stack {stacks[0][0]} and stack "
                f"{stacks[0][1]} one name, and {len(stacks) - 1} more such names: add a field such "
                "as {stack} or {series_instance_uid}",
                stacks=stacks,
            )
        for number in {number for numbers in clashes for number in numbers}:
            each = planned[number]
            name = f"{each.name}_s{each.numbers[0]}"
            planned[number] = Planned(each.group, name, each.apart)
    return planned


def _clashes(planned: Sequence[Planned]) -> list[list[int]]:
    """Return the numbers of images that write one path, per path."""
    taken: dict[str, list[int]] = {}
    for number, each in enumerate(planned):
        for name in (each.name, *(name for name, _, _ in named_labels(each))):
            # Some systems do not tell upper from lower case.
            taken.setdefault(name.lower(), []).append(number)
    return [numbers for numbers in taken.values() if len(numbers) > 1]


def labels_of(stack: Stack) -> list[Annotation]:
    """Return the readable label objects of a stack, the oldest first, so that numbers stay."""
    return [
        each
        for each in reversed(stack.annotations)
        if each.kind in LABEL_KINDS and each.status in READABLE_STATUSES
    ]


def unusable_labels_of(stack: Stack) -> list[Annotation]:
    """Return the label objects that name images of a stack and have another status."""
    return [
        each
        for each in stack.annotations
        if each.kind in LABEL_KINDS and each.found and each.status not in READABLE_STATUSES
    ]


def named_labels(planned: Planned) -> Iterator[tuple[str, Stack, Annotation]]:
    """Yield (name, stack, object) of the labels of an image, each object once."""
    seen = set[int]()
    counts = dict.fromkeys(LABEL_KINDS, 0)
    for stack in planned.group:
        for annotation in labels_of(stack):
            if annotation.files[0] not in seen:
                seen.add(annotation.files[0])
                counts[annotation.kind] += 1
                kind = annotation.kind.lower()
                yield f"{planned.name}_{kind}{counts[annotation.kind]}", stack, annotation


def _name(group: Group, suffix: str, template: NameTemplate, index: Index) -> str:
    stack = group[0]
    own = {"suffix": suffix, "stack": stack.number, "group": group.number}
    name = template.name(facts_of(stack, index, own))
    return name if "suffix" in template.fields else f"{name}{suffix}"
