"""WebDataset: samples in tar shards of bounded size, and a Parquet manifest of their places.

A shard has samples of one part of the split. The manifest has a row per sample with the offset of
each member, so that one ranged read gives any sample; `ShardDataset` reads it.
"""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias

import numpy as np

from dicomdl.errors import DicomdlError
from dicomdl.index.shard_manifests import MANIFEST, sum_of_members, write_manifest
from dicomdl.jobs.exports._ordered import in_order
from dicomdl.jobs.exports._records import Entry, Records
from dicomdl.jobs.exports._samples import Case, stored_values
from dicomdl.jobs.exports._shards import members_of
from dicomdl.jobs.exports.exported import REMARKS
from dicomdl.jobs.exports.exporter import (
    FATAL,
    REFUSED,
    WRITTEN,
    Exporter,
    reason_of,
    written,
)
from dicomdl.storage import publishing as storage
from dicomdl.storage.tar_writing import TarWriter, packed_bytes

# The entry of a sample, and its members; none if it is refused.
_Made: TypeAlias = tuple[Entry, dict[str, bytes]]
# Facts of a sample that the manifest has as columns, for queries.
_COLUMNS: Final = ("modality", "patient_id", "study_instance_uid", "verdict", "units")


class WebDatasetExporter(Exporter):
    """The exporter of "webdataset"."""

    def write(
        self,
        stacks: Iterable[int] | None,
        folder: str,
        part: int = 0,
        *,
        done: Callable[[int], None] | None = None,
    ) -> list[Entry]:
        """Write the samples of some stacks; see `Exporter.write`."""
        storage.make_folder(folder)
        records = Records(folder, self.index, self.options)
        cases = list(self.samples.cases(stacks))
        entries: list[Entry] = []
        for name in self.options.parts:
            of_part = [case for case in cases if case.part == name]
            for made in self._shards(of_part, records, f"{name}-{part:05}"):
                entries += made
                if done is not None:
                    done(len(made))
        return sorted(entries, key=lambda entry: int(entry["row"]))

    def publish(self, entries: Iterable[Entry], folder: str) -> list[str]:
        """Write the manifest; see `Exporter.publish`."""
        taken = written(entries)
        dataset = self.samples.dataset
        facts = {
            "classes": list(dataset.target_classes) if self.options.target else [],
            "target_dtype": dataset.targets.dtype.name if self.options.target else None,
            "label_names": list(dataset.labels.names) if dataset.labels is not None else [],
            "parts": list(self.options.parts),
            "folds": self.options.split.k if self.options.split is not None else None,
            "shards": dict(sorted({p: f for e in taken for p, f in e["files"].items()}.items())),
        }
        write_manifest(os.path.join(folder, MANIFEST), taken, facts)
        return [MANIFEST]

    def _shards(self, cases: list[Case], records: Records, name: str) -> Iterator[list[Entry]]:
        """Yield the entries of each shard of some samples, in order."""
        number = 0
        stream: Iterator[_Made] | None = None
        while cases:
            file = f"{name}-{number:06}.tar"
            entries = records.find(file, cases)
            if entries and not any(entry["status"] == REFUSED for entry in entries):
                stream = None
            else:
                stream = stream or in_order(self._made, cases, self.workers)
                entries, held = self._shard(stream, records.folder, file)
                records.put(file, cases[: len(entries)], entries)
                # The sample that the shard did not hold is the first one of the next.
                stream = itertools.chain(held, stream)
            yield entries
            cases, number = cases[len(entries) :], number + 1

    def _shard(
        self, stream: Iterator[_Made], folder: str, name: str
    ) -> tuple[list[Entry], list[_Made]]:
        """Write a shard of as many samples as it holds, at least one.

        Returns
        -------
        entries : list of dict
            The entries of its samples, and of refused ones among them.
        held : list
            The sample that it did not hold; empty at the end of the stream.
        """
        entries: list[Entry] = []
        held: list[_Made] = []
        with contextlib.ExitStack() as stack:
            inside = stack.enter_context(storage.put_together(os.path.join(folder, name)))
            writer = TarWriter(inside)
            stack.callback(writer.close)
            for entry, members in stream:
                size = packed_bytes(members)
                if writer.bytes and writer.bytes + size > self.options.shard_bytes:
                    held.append((entry, members))
                    break
                if members:
                    start = writer.bytes
                    entry["members"] = writer.add(entry["key"], members)
                    entry |= {"shard": name, "offset": start, "bytes": size}
                entries.append(entry)
            file = writer.finish()
            if not any(entry["status"] == WRITTEN for entry in entries):
                os.unlink(inside)
        for entry in entries:
            entry["files"] = {name: file} if entry["status"] == WRITTEN else {}
        return entries, held

    def _made(self, case: Case) -> _Made:
        """Return the entry of a sample, and its members; none if it is refused."""
        try:
            sample = self.samples.read(case)
        except DicomdlError as error:
            if isinstance(error, FATAL):
                raise
            return case.entry(REFUSED, reason_of(error)), {}
        image = stored_values(sample["image"].numpy(), self.options.dtype)
        facts = {"key": case.key, "split": case.part, "fold": case.fold}
        entry = case.entry(WRITTEN) | {
            "dtype": image.dtype.name,
            "shape": list(image.shape),
            **{name: sample[name] for name in _COLUMNS if name in sample},
        }
        target = sample.get("target")
        if target is not None:
            entry["target"] = np.atleast_1d(target.numpy()).astype(float).tolist()
        members = members_of(sample, image, facts)
        entry["xxh3"] = sum_of_members(members, image.nbytes)
        if lost := self.samples.remarks(case):
            entry[REMARKS] = lost
        return entry, members
