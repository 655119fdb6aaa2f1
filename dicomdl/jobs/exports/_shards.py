"""The members of a sample in a shard: arrays of NumPy, JSON, and the text of a class."""

import io
import json
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

IMAGE: Final = "image.npy"
# Entries of samples that are arrays of their own; all others are in the JSON.
ARRAYS: Final = ("label", "unlabelled")


def members_of(
    sample: Mapping[str, Any], image: npt.NDArray[Any], facts: Mapping[str, Any]
) -> dict[str, bytes]:
    """Return {kind: bytes} of the members of a sample, in their order.

    Parameters
    ----------
    sample
        The sample, as a dataset gives it.
    image
        Its image, in the dtype of the export.
    facts
        What the JSON has beside the entries of the sample.
    """
    members = {IMAGE: npy(image)}
    values: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    for name, value in sample.items():
        if name in ("image", "row", "epoch"):
            continue
        if not hasattr(value, "numpy"):
            values[name] = value
        elif name in ARRAYS:
            members[f"{name}.npy"] = npy(value.numpy())
        else:
            arrays[name] = _as_json(value.numpy())
    document = {**facts, "values": values, "arrays": arrays}
    members["json"] = json.dumps(document, sort_keys=True, allow_nan=False).encode()
    target = sample.get("target")
    if target is not None and target.numpy().dtype == np.int64 and target.ndim == 0:
        members["cls"] = str(int(target)).encode()
    return members


def npy(array: npt.NDArray[Any]) -> bytes:
    """Return an array in the format of NumPy."""
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()


def _as_json(array: npt.NDArray[Any]) -> dict[str, Any]:
    """Return an array as plain values; numbers that JSON lacks are text."""
    values = [
        value if not isinstance(value, float) or math.isfinite(value) else repr(value)
        for value in array.ravel().tolist()
    ]
    return {"dtype": array.dtype.name, "shape": list(array.shape), "values": values}
