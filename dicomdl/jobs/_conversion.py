"""One image of a conversion: read, saved with its labels and facts, or refused with the reason.

The JSON holds a fingerprint of the input and the options. It is written first, without the files,
and again when they are complete. The next conversion leaves complete images as they are, makes
interrupted ones again, and tells both from files of others.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from dicomdl.errors import DicomdlError, StorageError, UsageError
from dicomdl.geometry.verdict import POLICIES, Irregular
from dicomdl.index.annotations import Annotation
from dicomdl.index.views import Stack
from dicomdl.jobs._conversion_plan import (
    Planned,
    labels_of,
    named_labels,
    unusable_labels_of,
)
from dicomdl.jobs._sidecar import sidecar
from dicomdl.jobs.conversions import ConvertedImage
from dicomdl.labels.read import label_volume
from dicomdl.labels.reader import LabelReader, channel_block, label_block, smallest_dtype
from dicomdl.labels.source import LabelSource
from dicomdl.printing import printable
from dicomdl.storage import publishing as storage
from dicomdl.storage.json_texts import parsed
from dicomdl.values.quantity import RealWorld
from dicomdl.values.suv import SUV
from dicomdl.version import __version__
from dicomdl.volumes.read import read_volume
from dicomdl.volumes.resampling import FORMATS
from dicomdl.volumes.volume import Volume

# .npy has the array alone; its grid is in the JSON.
SUFFIXES: Final = (*FORMATS, ".npy")
# Conditions of the disk that the next image meets, too.
_FATAL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})
_BESIDE: Final = (".bval", ".bvec")


@dataclass(frozen=True, slots=True)
class ConversionOptions:
    """What `convert` was asked for; see there."""

    out: str
    suffix: str = ".nii.gz"
    values: str | SUV | RealWorld = "modality"
    irregular: Irregular = "raise"
    tilt: Literal["sform", "resample"] = "sform"
    labels: bool = True
    overwrite: bool = False
    threads: int = 1

    def __post_init__(self) -> None:
        if self.suffix not in SUFFIXES:
            raise UsageError(
                f"suffix={self.suffix!r}: expected one of {', '.join(SUFFIXES)}",
                suffix=self.suffix,
            )
        if self.irregular not in POLICIES:
            raise UsageError(
                f"irregular={self.irregular!r}: expected one of {', '.join(map(repr, POLICIES))}"
            )
        if self.tilt not in ("sform", "resample"):
            raise UsageError(f"tilt={self.tilt!r}: expected 'sform' or 'resample'")


def convert_image(planned: Planned, options: ConversionOptions) -> ConvertedImage:
    """Convert one image; a reason in place of an error, except where no image can be written.

    Raises
    ------
    StorageError
        The disk is full, or the output folder cannot be written to.
    """
    refused = ConvertedImage(planned.numbers, planned.group[0].series_instance_uid, "refused")
    try:
        key = _fingerprint(planned, options)
        if (found := _present(planned, options, key)) is not None:
            return dataclasses.replace(refused, status="present", **found)
        volume = _volume(planned, options)
        made_before = _made(os.path.join(options.out, f"{planned.name}.json")).files
        with _begun(planned, options, key):
            _remove_beside(planned, options, made_before)
            files, labels, why_not = _written(planned, options, volume)
            # Without the folder, whose name may be a PatientID.
            made = {
                "fingerprint": key,
                "files": {os.path.basename(name): size for name, size in files.items()},
                "labels": labels,
                "refused_labels": why_not,
            }
            _write_json(planned, options, sidecar(volume, planned.numbers, made))
    except DicomdlError as error:
        if isinstance(error, StorageError) and getattr(error, "errno", None) in _FATAL:
            raise
        return dataclasses.replace(refused, reason=_sentence(error))
    return dataclasses.replace(
        refused,
        status="written",
        files=(*files, f"{planned.name}.json"),
        reason=planned.apart,
        refused_labels=why_not,
    )


@contextlib.contextmanager
def _begun(planned: Planned, options: ConversionOptions, key: str) -> Iterator[None]:
    """Write the JSON of an image without its files, and remove it if no image follows."""
    path = os.path.join(options.out, planned.name)
    storage.make_folder(os.path.dirname(path))
    _write_json(planned, options, {"dicomdl": {"fingerprint": key}})
    try:
        yield
    except DicomdlError:
        if not os.path.lexists(f"{path}{options.suffix}"):
            with contextlib.suppress(OSError):
                os.unlink(f"{path}.json")
        raise


def _remove_beside(
    planned: Planned, options: ConversionOptions, made_before: Mapping[str, int]
) -> None:
    """Remove labels and gradients of the image that is replaced, which the new one may not have."""
    image = os.path.join(options.out, planned.name)
    name = os.path.basename(image)
    for other, size in made_before.items():
        path = os.path.join(os.path.dirname(image), other)
        is_beside = other.startswith(f"{name}_") or other in (f"{name}{each}" for each in _BESIDE)
        if is_beside and other.endswith((options.suffix, ".tsv", *_BESIDE)) and _size(path) == size:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _sentence(error: DicomdlError) -> str:
    notes = "; ".join(getattr(error, "__notes__", ()))
    return printable(f"{error} ({notes})" if notes else str(error))


# --- what is there --------------------------------------------------------------------------------


def _fingerprint(planned: Planned, options: ConversionOptions) -> str:
    """Return a hash of all that the files of an image depend on."""
    parts: list[Any] = [__version__, repr(options.values), options.irregular, options.tilt]
    parts += [options.suffix, options.labels, planned.name]
    for stack in planned.group:
        for name in ("sop_instance_uid", "frame_number", "byte_offset", "file_bytes"):
            parts.append(stack.values(name))
        parts.append(stack.values("file_mtime_ns"))
        if options.labels:
            sources = [source for each in labels_of(stack) for source in each.sources]
            parts += [[source.size, source.mtime_ns] for source in sources]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _present(planned: Planned, options: ConversionOptions, key: str) -> dict[str, Any] | None:
    """Return files and refused labels of a complete image of this input and these options.

    Raises
    ------
    UsageError
        Another file lies in the place of the image, and may not be replaced.
    """
    stem = os.path.join(options.out, planned.name)
    made = _made(f"{stem}.json")
    is_same = made.fingerprint == key
    folder = os.path.dirname(planned.name)
    sizes = made.files.items()
    if (
        is_same
        and sizes
        and all(_size(os.path.join(options.out, folder, name)) == size for name, size in sizes)
    ):
        return {
            "files": (*(os.path.join(folder, name) for name, _ in sizes), f"{planned.name}.json"),
            "reason": planned.apart,
            "refused_labels": made.refused_labels,
        }
    mine = (f"{stem}{options.suffix}", f"{stem}.json")
    if not (options.overwrite or is_same) and any(map(os.path.lexists, mine)):
        raise UsageError(
            f"{mine[0]!r} exists, from other data or options: convert into another folder, or "
            "pass overwrite=True"
        )
    return None


class _Made(NamedTuple):
    """What the JSON of an image says of its conversion: nothing if it is none of ours."""

    fingerprint: str = ""
    # {name beside the JSON: bytes}; empty while the image is being made.
    files: Mapping[str, int] = MappingProxyType({})
    refused_labels: Mapping[str, str] = MappingProxyType({})


def _made(path: str) -> _Made:
    """Read the JSON of an image, which may be absent, damaged or of another program."""
    try:
        content = parsed(storage.read_whole(path))["dicomdl"]
        made = _Made(
            content["fingerprint"], content.get("files", {}), content.get("refused_labels", {})
        )
        is_sound = all(
            # A name leads nowhere else.
            isinstance(size, int) and name == os.path.basename(name) and name.isprintable()
            for name, size in made.files.items()
        ) and all(isinstance(text, str) for text in made.refused_labels.values())
    except (ValueError, KeyError, TypeError, AttributeError):
        # StorageError is a ValueError.
        return _Made()
    if not is_sound:
        return _Made()
    shown = {name: printable(text) for name, text in made.refused_labels.items()}
    return made._replace(refused_labels=shown)


def _size(path: str) -> int:
    """Return the size of a file in bytes; -1 without one."""
    try:
        return os.path.getsize(path)
    except OSError:
        return -1


# --- what is written ------------------------------------------------------------------------------


def _volume(planned: Planned, options: ConversionOptions) -> Volume:
    source = planned.group[0] if planned.is_one else planned.group
    volume = read_volume(
        source, values=options.values, irregular=options.irregular, threads=options.threads
    )
    is_tilted = any("tilt_deg" in stack.detail for stack in planned.group)
    if options.tilt == "resample" and is_tilted and options.irregular != "resample":
        volume = volume.resample()
    return volume


def _written(
    planned: Planned, options: ConversionOptions, volume: Volume
) -> tuple[dict[str, int], dict[str, dict[str, str]], dict[str, str]]:
    """Write an image and its labels.

    Returns
    -------
    files : dict
        {path below the output folder: bytes}, the image first.
    labels : dict
        {path: {label: name}} of the label maps among them.
    why_not : dict
        {path of a SEG or RTSTRUCT: why it was not converted}.
    """
    files = dict(_saved(volume, planned.name, options))
    labels: dict[str, dict[str, str]] = {}
    why_not = _unusable(planned) if options.labels else {}
    for name, stack, annotation in named_labels(planned) if options.labels else ():
        try:
            label_map = _on_grid(_label_map(stack, annotation), volume)
            files |= _saved(label_map, name, options)
        except DicomdlError as error:
            if isinstance(error, StorageError):
                raise
            why_not[annotation.path] = _sentence(error)
            continue
        # Masks are numbered by their place in the image.
        names = label_map.names or dict(enumerate(label_map.dimension))
        labels[os.path.basename(f"{name}{options.suffix}")] = {
            str(number): str(text) for number, text in names.items()
        }
        files |= _write_table(name, names, options)
    return files, labels, why_not


def _unusable(planned: Planned) -> dict[str, str]:
    """Return {path: why it is not read} of the label objects that the index calls no labels."""
    return {
        each.path: _sentence_of_status(each)
        for stack in planned.group
        for each in unusable_labels_of(stack)
    }


def _sentence_of_status(annotation: Annotation) -> str:
    about = "; ".join(annotation.remarks)
    return printable(f"its status is {annotation.status}" + (f": {about}" if about else ""))


def _saved(volume: Volume, name: str, options: ConversionOptions) -> Iterator[tuple[str, int]]:
    path = os.path.join(options.out, name)
    if options.suffix == ".npy":
        with storage.put_together(f"{path}.npy") as inside:
            np.save(inside, volume.array, allow_pickle=False)
    else:
        volume.save(f"{path}{options.suffix}")
    for suffix in (options.suffix, *_BESIDE):
        if suffix == options.suffix or os.path.exists(f"{path}{suffix}"):
            yield f"{name}{suffix}", _size(f"{path}{suffix}")


def _write_json(planned: Planned, options: ConversionOptions, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
    # Names of files may have bytes that are no UTF-8: lone surrogates, which JSON escapes.
    data = text.encode("utf-8", "backslashreplace")
    storage.write_whole(os.path.join(options.out, f"{planned.name}.json"), data)


# --- labels ---------------------------------------------------------------------------------------


def _label_map(stack: Stack, annotation: Annotation) -> Volume:
    """Return the labels of an object: a label map, or a mask per label where labels overlap."""
    reader: LabelReader = LabelSource(annotation.kind).of_annotation(stack, annotation)
    start = (0, 0, 0)
    labels, overlap = label_block(reader, start, reader.shape, smallest_dtype(reader.names))
    if not overlap:
        return label_volume(stack, labels, reader)
    masks = channel_block(reader, start, reader.shape).astype(np.uint8)
    return Volume(
        masks,
        stack.geometry,
        frame=stack.middle,
        stack=stack,
        quantity="derived",
        dimension=tuple(reader.names.values()),
        dimension_names=("label",),
    )


def _on_grid(labels: Volume, volume: Volume) -> Volume:
    """Return labels on the grid of the image, which may have been made regular."""
    if labels.geometry == volume.geometry:
        return labels
    return labels.resample_to(volume.geometry, interpolation="nearest", fill=0)


def _write_table(name: str, names: Mapping[int, Any], options: ConversionOptions) -> dict[str, int]:
    """Write the table of labels, as BIDS has it."""
    lines = ["index\tname", *(f"{n}\t{_cell(text)}" for n, text in names.items())]
    data = ("\n".join(lines) + "\n").encode("utf-8", "replace")
    storage.write_whole(os.path.join(options.out, f"{name}.tsv"), data)
    return {f"{name}.tsv": len(data)}


def _cell(text: Any) -> str:
    return printable(" ".join(str(text).split()))
