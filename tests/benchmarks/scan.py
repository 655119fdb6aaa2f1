"""Header scan and rescan against the peers and the bare system calls.

    python tests/benchmarks/scan.py --slices 2048 --repeat 5

The header scan reads CT slices of 512 x 512 with full headers (see phantom_ct.py) in one process.
dicomdl reads all its columns and writes the index; the peers read 25 values per file and write
nothing. The rescan checks 50,000 unchanged files in one process, against `os.walk` + `os.stat` of
the same tree.
"""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import phantom_ct
from rounds import Contender, Task, arguments, race

KEYWORDS = {
    "SOPClassUID": 0x00080016,
    "SOPInstanceUID": 0x00080018,
    "PatientID": 0x00100020,
    "StudyInstanceUID": 0x0020000D,
    "SeriesInstanceUID": 0x0020000E,
    "FrameOfReferenceUID": 0x00200052,
    "Modality": 0x00080060,
    "SeriesNumber": 0x00200011,
    "InstanceNumber": 0x00200013,
    "AcquisitionNumber": 0x00200012,
    "ImageType": 0x00080008,
    "ImagePositionPatient": 0x00200032,
    "ImageOrientationPatient": 0x00200037,
    "PixelSpacing": 0x00280030,
    "SliceThickness": 0x00180050,
    "Rows": 0x00280010,
    "Columns": 0x00280011,
    "BitsAllocated": 0x00280100,
    "BitsStored": 0x00280101,
    "PixelRepresentation": 0x00280103,
    "RescaleSlope": 0x00281053,
    "RescaleIntercept": 0x00281052,
    "WindowCenter": 0x00281050,
    "WindowWidth": 0x00281051,
    "AcquisitionTime": 0x00080032,
}
PIXEL_DATA = 0x7FE00010


def system_calls(paths: Sequence[str]) -> Task:
    """Floor: open, fstat, one read of 16 KiB, close."""

    def task() -> int:
        total = 0
        for path in paths:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            os.fstat(descriptor)
            total += len(os.pread(descriptor, 16384, 0))
            os.close(descriptor)
        return total

    return task


def dicomdl_scan(folder: Path, scratch: Path) -> Task:
    """Entire scan: walk, read, stacks and verdicts, writing of the index."""
    import dicomdl

    def task() -> int:
        out = Path(tempfile.mkdtemp(dir=scratch))
        index = dicomdl.scan(folder, out=out, workers=1, progress=False)
        count = len(index)
        del index
        shutil.rmtree(out)
        return count

    return task


def without_compiled_walk(task: Task) -> Task:
    """The same task, with the walk in Python."""
    from dicomdl.headers import many

    def pure() -> object:
        usual, many.CAN_READ = many.CAN_READ, False  # type: ignore[misc]
        try:
            return task()
        finally:
            many.CAN_READ = usual  # type: ignore[misc]

    return pure


def dicomdl_headers(paths: Sequence[str]) -> Task:
    """Read headers into Arrow tables with all columns, as a worker process does.

    The walk, the stacks and the index are excluded.
    """
    from dicomdl.headers.reader import HeaderReader
    from dicomdl.jobs.engine import CHUNK_FILES, read_chunk

    names = [os.fsencode(path) for path in paths]

    def task() -> int:
        reader = HeaderReader()
        return sum(
            len(read_chunk(reader, names[start : start + CHUNK_FILES], start)[1])
            for start in range(0, len(names), CHUNK_FILES)
        )

    return task


def gdcm_scanner(paths: Sequence[str]) -> Task:
    import gdcm

    names = list(paths)

    def task() -> int:
        scanner = gdcm.Scanner()
        for tag in KEYWORDS.values():
            scanner.AddTag(gdcm.Tag(tag >> 16, tag & 0xFFFF))
        scanner.Scan(names)
        return sum(scanner.IsKey(name) for name in names)

    return task


def dicomsdl_headers(paths: Sequence[str]) -> Task:
    import dicomsdl

    def task() -> int:
        rows = []
        for path in paths:
            dataset = dicomsdl.open(path, load_until=PIXEL_DATA)
            rows.append([getattr(dataset, keyword) for keyword in KEYWORDS])
        return len(rows)

    return task


def pydicom_headers(paths: Sequence[str], *, only_wanted: bool) -> Task:
    import pydicom

    tags = list(KEYWORDS.values()) if only_wanted else None

    def task() -> int:
        rows = []
        for path in paths:
            dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
            rows.append([dataset.get(keyword) for keyword in KEYWORDS])
        return len(rows)

    return task


def walk_and_stat(folder: Path) -> Task:
    def task() -> int:
        total = 0
        for parent, _, names in os.walk(folder):
            for name in names:
                total += os.stat(os.path.join(parent, name)).st_size
        return total

    return task


def dicomdl_rescan(folder: Path, scratch: Path) -> Task:
    import dicomdl

    out = scratch / "rescan"

    def task() -> int:
        return len(dicomdl.scan(folder, out=out, workers=1, progress=False))

    task()  # the first scan reads the files; what is timed reads none
    return task


def main() -> None:
    given = arguments(
        __doc__,
        slices=(2048, "slices in the header scan"),
        files=(50_000, "tiny files in the rescan"),
    )
    folder = phantom_ct.ct_folder(given.slices)
    paths = phantom_ct.files_below(folder)

    def all_files(count: int) -> str:
        return "" if count == len(paths) else f"WRONG: {count} of {len(paths)} files"

    with tempfile.TemporaryDirectory(prefix="dicomdl-benchmark-") as scratch_name:
        scratch = Path(scratch_name)
        race(
            f"Header scan of {len(paths)} CT slices, one worker, per file",
            [
                Contender("floor: open, fstat, pread 16 KiB, close", lambda: system_calls(paths)),
                Contender(
                    "dicomdl.scan, index written",
                    lambda: dicomdl_scan(folder, scratch),
                    "all columns",
                    all_files,
                ),
                Contender(
                    "dicomdl.scan, walk in Python",
                    lambda: without_compiled_walk(dicomdl_scan(folder, scratch)),
                    "all columns",
                    all_files,
                ),
                Contender(
                    "dicomdl.jobs.engine.read_chunk",
                    lambda: dicomdl_headers(paths),
                    "all columns",
                    all_files,
                ),
                Contender("gdcm.Scanner", lambda: gdcm_scanner(paths), "25 tags", all_files),
                Contender("dicomsdl", lambda: dicomsdl_headers(paths), "25 values", all_files),
                Contender(
                    "pydicom, stop_before_pixels",
                    lambda: pydicom_headers(paths, only_wanted=False),
                    "25 values",
                    all_files,
                ),
                Contender(
                    "pydicom, specific_tags",
                    lambda: pydicom_headers(paths, only_wanted=True),
                    "25 values",
                    all_files,
                ),
            ],
            repeat=given.repeat,
            units=len(paths),
            unit="us/file",
        )
        if given.files:
            small = phantom_ct.small_files(given.files)
            race(
                f"Rescan of {given.files} files, nothing changed, per file",
                [
                    Contender("floor: os.walk + os.stat", lambda: walk_and_stat(small)),
                    Contender("dicomdl.scan again", lambda: dicomdl_rescan(small, scratch)),
                ],
                repeat=given.repeat,
                units=given.files,
                unit="us/file",
            )


if __name__ == "__main__":
    main()
