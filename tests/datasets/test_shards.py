"""ShardDataset: the samples of an export, equal to those of the dataset that it came from."""

import json
import pickle
import random
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from conftest import NewFolder, index_of
from phantoms import write_series
from phantoms_labels import write_seg

import dicomdl
from dicomdl.datasets import shards as shards_module
from dicomdl.errors import EmptySelection, IndexFolderError, PixelError, UsageError
from dicomdl.index import shard_manifests

COUNT = 6


@pytest.fixture(scope="module")
def index(new_folder: NewFolder) -> dicomdl.Index:
    folder = new_folder()
    for patient in range(COUNT):
        # Fractions that float16 does not hold.
        write_series(folder / str(patient), patient_id=f"P{patient}", seed=patient, slope=1.3)
    index = index_of(folder)
    grades = {"PatientID": [f"P{n}" for n in range(COUNT)], "grade": list("abcabc")}
    return index.join(grades, on="PatientID")


def shards(index: dicomdl.Index, out: Path, **options: Any) -> Path:
    dicomdl.export(index, "webdataset", out, progress=False, **options)
    return out


def assert_equal(sample: dict[str, Any], expected: dict[str, Any], *, values: Any = None) -> None:
    assert sample.keys() == expected.keys()
    for name in expected.keys() - {"row", "epoch"}:
        want, got = expected[name], sample[name]
        if not isinstance(want, torch.Tensor):
            assert got == want, name
            continue
        want = values(want) if name == "image" and values else want
        assert got.dtype == want.dtype and got.shape == want.shape, name
        assert got.numpy().tobytes() == want.numpy().tobytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16", "auto", "int16"])
def test_samples_are_those_of_the_dataset_up_to_the_dtype(
    index: dicomdl.Index, tmp_path: Path, dtype: str
) -> None:
    options: Any = {"target": "grade", "spacing": (1.5, 0.8, 0.8), "orientation": "RAS"}
    folder = shards(index, tmp_path / "out", dtype=dtype, **options)
    expected = dicomdl.VolumeDataset(index, "modality", **options)
    read = dicomdl.ShardDataset(folder)
    rounded = {
        "float16": lambda image: image.half().float(),
        "int16": lambda image: torch.from_numpy(np.rint(image.numpy())),
    }
    assert len(read) == len(expected) == COUNT
    for sample, wanted in zip(read, expected, strict=True):
        assert_equal(sample, wanted, values=rounded.get(dtype))
    assert np.array_equal(read.targets, expected.targets)
    assert read.target_classes == expected.target_classes == ("a", "b", "c")


def test_labels_boxes_and_numbers_that_are_unknown_come_back(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in" / "ct")
    mask = np.zeros((5, 7), np.uint8)
    mask[1:3, 2:6] = 1
    frames = [(1, (0, 0, 2.0 * z), mask) for z in (2, 3)]
    write_seg(tmp_path / "in" / "seg.dcm", paths[0], frames, segments={1: "liver"})
    index = dicomdl.scan(tmp_path / "in", tmp_path / "index", progress=False)
    index = index.select(modality="CT")
    boxes = {"SOPInstanceUID": [index.stacks[0].values("sop_instance_uid")[1]], "x": [1], "y": [2]}
    boxes |= {"w": [2], "h": [2]}
    index = index.join(boxes, on="SOPInstanceUID", on_unmatched="keep")
    options: Any = {"labels": "SEG", "boxes": dicomdl.Boxes("x", "y", "w", "h")}
    read = dicomdl.ShardDataset(shards(index, tmp_path / "out", **options))
    expected = dicomdl.VolumeDataset(index, "modality", **options)
    assert_equal(read[0], expected[0])
    assert read[0]["label"].sum() == 2 * mask.sum()


def test_a_part_of_the_split_is_taken_by_its_name(index: dicomdl.Index, tmp_path: Path) -> None:
    split = index.split((0.5, 0.5), seed=1)
    folder = shards(index, tmp_path / "out", split=split)
    for name, part in zip(("train", "val"), split, strict=True):
        read = dicomdl.ShardDataset(folder, name)
        assert [s["stack"] for s in read] == part.stacks.numbers.tolist()
    with pytest.raises(UsageError, match="the parts are 'train', 'val'"):
        dicomdl.ShardDataset(folder, "test")


def test_folds_are_taken_by_their_number(index: dicomdl.Index, tmp_path: Path) -> None:
    split = index.split(k=3, seed=1)
    folder = shards(index, tmp_path / "out", split=split)
    for number, (train, val) in enumerate(split.folds()):
        for name, part in (("train", train), ("val", val)):
            read = dicomdl.ShardDataset(folder, name, fold=number)
            assert [s["stack"] for s in read] == part.stacks.numbers.tolist()
    with pytest.raises(UsageError, match="the folds are 0 to 2"):
        dicomdl.ShardDataset(folder, "val", fold=3)


def test_samplers_resume_and_divide_shards_among_ranks(
    index: dicomdl.Index, tmp_path: Path
) -> None:
    read = dicomdl.ShardDataset(shards(index, tmp_path / "out"))

    def keys(sampler: Any) -> list[str]:
        loader = torch.utils.data.DataLoader(
            read, batch_size=1, sampler=sampler, collate_fn=lambda samples: samples[0]
        )
        return [sample["series_instance_uid"] for sample in loader]

    whole = keys(dicomdl.RowSampler(read, seed=3))
    sampler = dicomdl.RowSampler(read, seed=3)
    passed = iter(sampler)
    begun = [next(passed), next(passed)]
    resumed = dicomdl.RowSampler(read, seed=3)
    resumed.load_state_dict(sampler.state_dict())
    assert [read[row]["series_instance_uid"] for row in begun] + keys(resumed) == whole
    shares = [keys(dicomdl.RowSampler(read, seed=3, rank=r, world_size=2)) for r in range(2)]
    assert sorted(shares[0] + shares[1]) == sorted(whole)


@pytest.mark.slow
def test_workers_deliver_the_same_batches(index: dicomdl.Index, tmp_path: Path) -> None:
    read = dicomdl.ShardDataset(shards(index, tmp_path / "out"))
    own = [batch["image"] for batch in torch.utils.data.DataLoader(read, batch_size=2)]
    others = torch.utils.data.DataLoader(read, batch_size=2, num_workers=2)
    for ours, theirs in zip(own, others, strict=True):
        assert torch.equal(ours, theirs["image"])


def test_a_pickle_holds_no_manifest(index: dicomdl.Index, tmp_path: Path) -> None:
    read = dicomdl.ShardDataset(shards(index, tmp_path / "out"))
    copied = pickle.loads(pickle.dumps(read))
    assert_equal(copied[2], read[2])
    assert b"manifest" not in pickle.dumps(read)


def test_a_shard_that_was_cut_or_exchanged_is_named(index: dicomdl.Index, tmp_path: Path) -> None:
    folder = shards(index, tmp_path / "out")
    path = folder / "train-00000-000000.tar"
    data = path.read_bytes()
    path.write_bytes(data[:-512])
    with pytest.raises(PixelError, match=r"'train-00000-000000.tar' has \d+ bytes, expected"):
        dicomdl.ShardDataset(folder)[0]
    path.write_bytes(data[512:] + bytes(512))
    with pytest.raises(PixelError, match="is not the one of the manifest"):
        dicomdl.ShardDataset(folder)[0]
    kept = dicomdl.ShardDataset(folder, on_error="skip")
    with pytest.raises(PixelError):
        kept[0]


def members_in(shard: Path) -> list[range]:
    """The ranges of the bytes of each member of a tar file."""
    with tarfile.open(shard) as archive:
        return [range(each.offset_data, each.offset_data + each.size) for each in archive]


@pytest.mark.quick(1)
@pytest.mark.parametrize("dtype", ["float16", "float32", "auto"])
def test_a_byte_of_a_sample_that_changed_is_found_when_it_is_read(
    index: dicomdl.Index, tmp_path: Path, dtype: str
) -> None:
    folder = shards(index, tmp_path / "out", dtype=dtype, target="grade")
    path = folder / "train-00000-000000.tar"
    data, read = path.read_bytes(), dicomdl.ShardDataset(folder)
    expected, chance = list(read), random.Random(7)
    for number, member in enumerate(members_in(path)):
        ends = (member[0], member[-1], *chance.choices(member, k=12))
        for at in ends:
            damaged = bytearray(data)
            damaged[at] ^= 1 << chance.randrange(8)
            path.write_bytes(damaged)
            row = number // (len(members_in(path)) // COUNT)
            with pytest.raises(PixelError, match=r"000000.tar' is .*damaged: .*export again"):
                read[row]
            assert_equal(read[row - 1], expected[row - 1])
    path.write_bytes(data)
    for sample, wanted in zip(read, expected, strict=True):
        assert_equal(sample, wanted)


@pytest.mark.parametrize("dtype", ["float16", "float32", "auto"])
def test_a_shape_of_the_same_size_in_the_header_of_an_array_is_found(
    index: dicomdl.Index, tmp_path: Path, dtype: str
) -> None:
    folder = shards(index, tmp_path / "out", dtype=dtype)
    path = folder / "train-00000-000000.tar"
    data = path.read_bytes()
    shape = re.search(rb"\(1, (\d+), (\d+), (\d+)\)", data)
    assert shape is not None
    turned = b"(1, %s, %s, %s)" % (shape[1], shape[3], shape[2])
    path.write_bytes(data.replace(shape[0], turned, 1))
    with pytest.raises(PixelError, match="has another checksum"):
        dicomdl.ShardDataset(folder)[0]


def test_damage_is_skipped_and_counted_like_that_of_a_file(
    index: dicomdl.Index, tmp_path: Path
) -> None:
    folder = shards(index, tmp_path / "out")
    path = folder / "train-00000-000000.tar"
    data = bytearray(path.read_bytes())
    data[members_in(path)[0][-1]] ^= 1
    path.write_bytes(data)
    read = dicomdl.ShardDataset(folder, on_error="skip")
    (batch,) = torch.utils.data.DataLoader(read, COUNT, collate_fn=dicomdl.collate)
    assert batch["row"].tolist() == [1, 2, 3, 4, 5]
    assert [skipped.row for skipped in read.skipped] == [0]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_checksums_of_many_blocks_are_the_same_for_any_number_of_threads(
    index: dicomdl.Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, dtype: str
) -> None:
    for module in (shard_manifests, shards_module):
        monkeypatch.setattr(module, "BLOCK_BYTES", 64)
    monkeypatch.setattr(shards_module, "_LEAST_PER_THREAD", 100)
    monkeypatch.setattr(shards_module, "threads_here", lambda: threads)
    folder = shards(index, tmp_path / "out", dtype=dtype)
    expected = dicomdl.VolumeDataset(index, "modality")
    for sample, wanted in zip(dicomdl.ShardDataset(folder), expected, strict=True):
        assert_equal(sample, wanted, values=None if dtype == "float32" else lambda image: image)
    place = shard_manifests.ShardManifest(str(folder)).row(1)
    data = bytearray((folder / place.shard).read_bytes())
    start, length = place.members["image.npy"]
    for at in range(start + length - 4 * 5 * 7, start + length, 17):
        data[at] ^= 16
        (folder / place.shard).write_bytes(data)
        with pytest.raises(PixelError, match="has another checksum"):
            dicomdl.ShardDataset(folder)[1]
        data[at] ^= 16


def test_shards_of_exports_without_checksums_are_read(index: dicomdl.Index, tmp_path: Path) -> None:
    folder = shards(index, tmp_path / "out")
    expected = list(dicomdl.ShardDataset(folder))
    path = folder / "manifest.parquet"
    table = pyarrow.parquet.read_table(path)
    facts = json.loads(table.schema.metadata[b"dicomdl_shards"])
    told = json.dumps({name: facts[name] for name in facts.keys() - {"xxh3", "rows"}})
    old = table.drop_columns(["xxh3"]).replace_schema_metadata({b"dicomdl_shards": told.encode()})
    pyarrow.parquet.write_table(old, path)
    for sample, wanted in zip(dicomdl.ShardDataset(folder), expected, strict=True):
        assert_equal(sample, wanted)


def test_a_manifest_that_changed_is_damaged_or_says_the_same(
    index: dicomdl.Index, tmp_path: Path
) -> None:
    folder = shards(index, tmp_path / "out", target="grade")
    path = folder / "manifest.parquet"
    data, right = path.read_bytes(), shard_manifests.ShardManifest(str(folder))
    chance, found = random.Random(11), 0
    for _ in range(120):
        damaged = bytearray(data)
        damaged[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            read = shard_manifests.ShardManifest(str(folder))
        except IndexFolderError as error:
            found += "manifest" in str(error) and "again" in str(error)
        else:
            assert read.facts == right.facts and read.table.equals(right.table)
    assert found > 40


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda table: table.slice(1), "5 rows, expected 6"),
        (lambda table: table.drop_columns(["xxh3"]), "there is no column xxh3"),
    ],
    ids=["a row less", "without checksums"],
)
def test_a_manifest_that_another_program_wrote_again_is_damaged(
    index: dicomdl.Index, tmp_path: Path, changed: Any, said: str
) -> None:
    """Its pages have right checksums, and its facts are those of the export."""
    path = shards(index, tmp_path / "out") / "manifest.parquet"
    pyarrow.parquet.write_table(changed(pyarrow.parquet.read_table(path)), path)
    with pytest.raises(IndexFolderError, match=said):
        dicomdl.ShardDataset(path.parent)


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IndexFolderError, match=r"has no manifest\.parquet"):
        dicomdl.ShardDataset(tmp_path)
    (tmp_path / "manifest.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(IndexFolderError, match="is damaged"):
        dicomdl.ShardDataset(tmp_path)


def test_a_part_without_samples_is_an_empty_selection(index: dicomdl.Index, tmp_path: Path) -> None:
    folder = shards(index, tmp_path / "out", split=(0.5, 0.5, 0.0))
    with pytest.raises(EmptySelection, match="no samples of 'test'"):
        dicomdl.ShardDataset(folder, "test")


def test_the_package_webdataset_reads_the_shards(index: dicomdl.Index, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    folder = shards(index, tmp_path / "out", target="grade")
    samples = webdataset.WebDataset(str(folder / "train-00000-000000.tar"), shardshuffle=False)
    read = dicomdl.ShardDataset(folder)
    decoded = list(samples.decode())
    assert len(decoded) == len(read)
    for sample, expected in zip(decoded, read, strict=True):
        assert np.array_equal(sample["image.npy"], expected["image"].numpy())
        assert sample["cls"] == int(expected["target"])
        told = sample["json"] if isinstance(sample["json"], dict) else json.loads(sample["json"])
        assert told["split"] == "train"
