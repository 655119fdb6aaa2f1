"""Sources of the files of an index, for jobs that read headers again."""

import numpy as np
import numpy.typing as npt

from dicomdl.headers.frame_source import FILE_FIELDS
from dicomdl.index.rows import Generation
from dicomdl.storage.sources import Source

_NOT_DICOM = "not_dicom"


def file_source(generation: Generation, file: int) -> Source:
    """Return the source of a row of the table `files`."""
    files = generation.files
    state = [files.value(name, file) for name in FILE_FIELDS[1:]]
    return Source(generation.path(files.value("path", file)), *state)


def file_sources(generation: Generation, mask: npt.NDArray[np.bool_] | None) -> list[Source]:
    """Return the sources of the files that hold frames of a mask; None for all DICOM files."""
    files = generation.files
    if mask is not None:
        numbers = np.unique(generation.frames.numbers("file")[mask])
    else:
        codes, kinds = files.codes("kind")
        is_dicom = np.array([kind != _NOT_DICOM for kind in kinds], np.bool_)
        numbers = np.flatnonzero(is_dicom[codes]) if len(codes) else np.zeros(0, np.int64)
    return [file_source(generation, number) for number in numbers.tolist()]
