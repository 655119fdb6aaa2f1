"""The datasets that training.py compares, and the truth to check their samples by.

All have one form: ``dataset[i]`` is {"image", "where"}. `image` is (1, a, b, c) in the axis order
of the peer. `where` is the number of the series and the affine from voxels of the patch to LPS mm,
by which a patch from any position is compared with the true voxels. Peers return plain tensors, not
their tensor types, and `where` as bytes: workers of a loader send bytes directly, but each tensor
through a separate file.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import phantom_ct
import torch
from numpy.typing import NDArray
from volume import slice_order, true_volume

Array = NDArray[Any]
Place = tuple[int, tuple[int, int, int]]  # series, first voxel
Item = dict[str, Any]
SIZE = (96, 96, 96)
LOWER, WIDTH = -1350.0, 1500.0  # of the window "ct.lung"
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # from RAS, which MONAI and TorchIO count in


def window(values: Array) -> NDArray[np.float32]:
    """Apply the lung window in place, as written by hand."""
    result = values.astype(np.float32)
    result -= np.float32(LOWER)
    result /= np.float32(WIDTH)
    return np.clip(result, 0, 1, out=result)


def without_padding(slices: int) -> Path:
    """The CT of `phantom_ct.ct_folder` with no Pixel Padding Value in its headers.

    There it is 0, which air has now and then.
    """

    def write(folder: Path) -> None:
        kept = phantom_ct.OPTIONAL.pop("PixelPaddingValue")
        try:
            phantom_ct._write_ct(folder, slices)
        finally:
            phantom_ct.OPTIONAL["PixelPaddingValue"] = kept

    return phantom_ct._kept(f"ct-unpadded-{slices}", write)


class Truth:
    """HU of all series of a folder by pydicom, with their affines."""

    def __init__(self, folder: Path) -> None:
        self.folders = phantom_ct.series_folders(folder)
        self.paths = [slice_order(phantom_ct.files_below(one)) for one in self.folders]
        self.volumes = [true_volume(paths) for paths in self.paths]
        # phantom_ct.vary_slice: (slice, row, column) to LPS mm.
        self.affine = np.array(
            [
                [0, 0, 0.703125, -173.3],
                [0, 0.703125, 0, -168.25],
                [0.625, 0, 0, -120.5],
                [0, 0, 0, 1],
            ]
        )

    def padding_of(self, series: int) -> int | None:
        """The HU that a series says are padding.

        Dicomdl makes the lowest value of them, the peers do not look.
        """
        import pydicom

        stored = pydicom.dcmread(self.paths[series][0], stop_before_pixels=True).get(
            "PixelPaddingValue"
        )
        return None if stored is None else int(stored) - 1024

    def fault(self, image: Array, series: int, affine: Array, padding: int | None = None) -> str:
        """Return the fault of an image (a, b, c), "" for a right one."""
        to_voxels = np.linalg.inv(self.affine) @ affine
        steps, start = np.rint(to_voxels[:3, :3]).astype(int), np.rint(to_voxels[:3, 3]).astype(int)
        axes = np.abs(steps).argmax(axis=0)  # of the volume, for each axis of the image
        along = [np.arange(0)] * 3
        for mine, its in enumerate(axes):
            along[its] = start[its] + steps[its, mine] * np.arange(image.shape[mine])
        if sorted(image.shape) != sorted(SIZE) or not np.allclose(
            to_voxels[:3, :3], steps, atol=1e-3
        ):
            return f"WRONG PLACE OR SIZE {image.shape}"
        expected = self.volumes[series][np.ix_(*along)].transpose(axes)
        return fault_of_values(image, expected, padding)

    def affine_at(self, start: Sequence[int]) -> Array:
        """The affine of a patch that begins at a voxel."""
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ np.asarray(start)
        return affine


def fault_of_values(image: Array, expected: Array, padding: int | None = None) -> str:
    """The fault of stored values (uint16), HU (int16) or windowed values, empty without one.

    The true HU and the mask of padding are given.
    """
    padded = np.zeros(expected.shape, bool) if padding is None else expected == padding
    if image.dtype == np.uint16:
        return (
            ""
            if np.array_equal(image, (expected + 1024).astype(np.uint16))
            else "WRONG STORED VALUES"
        )
    if image.dtype == np.int16:
        return (
            ""
            if np.array_equal(image[~padded], expected[~padded]) and (image[padded] <= LOWER).all()
            else "WRONG HU"
        )
    windowed = window(expected)
    windowed[padded] = 0
    return "" if np.allclose(image, windowed, rtol=0, atol=1e-6) else "WRONG VALUES"


def packed(series: int, affine: Array) -> bytes:
    """Encode `where` of an item."""
    return np.array([series, *np.asarray(affine, np.float64).ravel()]).tobytes()


def unpacked(where: bytes) -> tuple[int, Array]:
    """Decode `where` to the number of the series and the affine."""
    numbers = np.frombuffer(where)
    return int(numbers[0]), numbers[1:].reshape(4, 4)


class At(torch.utils.data.Dataset[Item]):
    """Patches at given places, each by a function (series, where) -> array (D, H, W)."""

    def __init__(
        self,
        truth: Truth,
        places: Sequence[Place],
        read: Callable[[int, tuple[slice, slice, slice]], Array],
    ) -> None:
        where = [
            tuple(slice(a, a + n) for a, n in zip(start, SIZE, strict=True)) for _, start in places
        ]
        self._rows = [
            (series, part, packed(series, truth.affine_at(start)))
            for (series, start), part in zip(places, where, strict=True)
        ]
        self._read = read

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Item:
        series, part, where = self._rows[number]
        image = torch.from_numpy(self._read(series, part))[None]  # type: ignore[arg-type]
        return {"image": image, "where": where}


def bare_rows(truth: Truth) -> Callable[..., Array]:
    """The floor.

    One open, preadv and close a slice for the rows of the patch, its columns copied into a
    fresh array.
    """
    slice_bytes = phantom_ct.ROWS * phantom_ct.COLUMNS * 2
    places = [
        [(path, os.path.getsize(path) - slice_bytes) for path in paths] for paths in truth.paths
    ]

    def read(series: int, where: tuple[slice, slice, slice]) -> Array:
        z, y, x = where
        patch = np.empty(SIZE, np.uint16)
        band = np.empty((y.stop - y.start, phantom_ct.COLUMNS), np.uint16)
        view, skip = [band.data.cast("B")], 2 * y.start * phantom_ct.COLUMNS
        for target, (path, offset) in zip(patch, places[series][z], strict=True):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            os.preadv(descriptor, view, offset + skip)
            os.close(descriptor)
            target[...] = band[:, x]
        return patch

    return read


def npy_store(truth: Truth, scratch: Path) -> list[Array]:
    """A memory map of each volume, int16."""
    for number, volume in enumerate(truth.volumes):
        np.save(scratch / f"{number}.npy", volume)
    return [
        np.load(scratch / f"{number}.npy", mmap_mode="r") for number in range(len(truth.volumes))
    ]


def nnunet_store(truth: Truth) -> list[Any]:
    """Blosc2 as nnU-Net keeps it.

    Network values as float32, ZSTD 8, blocks for the L1 cache, mapped. Kept between runs.
    """
    import blosc2

    def write(folder: Path) -> None:
        for number, volume in enumerate(truth.volumes):
            parameters = {"codec": blosc2.Codec.ZSTD, "clevel": 8, "nthreads": 2}
            path = str(folder / f"{number}.b2nd")
            blosc2.asarray(
                window(volume),
                chunks=(64, 64, 64),
                blocks=(16, 16, 16),
                cparams=parameters,
                urlpath=path,
                mode="w",
            )

    folder = phantom_ct._kept(f"nnunet-{sum(map(len, truth.volumes))}", write)
    blosc2.set_nthreads(1)
    paths = [str(folder / f"{number}.b2nd") for number in range(len(truth.volumes))]
    return [blosc2.open(path, mode="r", dparams={"nthreads": 1}, mmap_mode="r") for path in paths]


def blosc2_store(volumes: Sequence[Array], scratch: Path) -> list[Any]:
    """Blosc2 with what reads fastest: int16, LZ4, shuffle."""
    import blosc2

    parameters = {
        "codec": blosc2.Codec.LZ4,
        "clevel": 5,
        "filters": [blosc2.Filter.SHUFFLE],
        "nthreads": 2,
    }
    opened = []
    for number, volume in enumerate(volumes):
        path = str(scratch / f"{number}-lz4.b2nd")
        blosc2.asarray(
            volume,
            chunks=(64, 64, 64),
            blocks=(16, 32, 32),
            cparams=parameters,
            urlpath=path,
            mode="w",
        )
        opened.append(blosc2.open(path, mode="r", dparams={"nthreads": 1}, mmap_mode="r"))
    return opened


def zarr_store(truth: Truth, scratch: Path) -> list[Any]:
    """Zarr with LZ4, int16."""
    import zarr

    codec = zarr.codecs.BloscCodec(cname="lz4", clevel=5, shuffle="shuffle")
    return [
        zarr.create_array(
            scratch / f"{number}.zarr",
            data=volume,
            chunks=(32, 64, 64),
            compressors=codec,
            overwrite=True,
        )
        for number, volume in enumerate(truth.volumes)
    ]


def as_plain(data: Item) -> Item:
    """Convert the result of a MONAI transform to a plain item."""
    image = data["image"]
    return {
        "image": image.as_tensor(),
        "where": packed(data["series"], TO_LPS @ np.asarray(image.affine)),
    }


def monai_patches(truth: Truth, count: int, kind: str, scratch: Path) -> Any:
    """RandSpatialCrop after LoadImage: "Dataset", "CacheDataset" or "PersistentDataset".

    What is random is not cached.
    """
    from monai import data
    from monai import transforms as t

    load = [t.LoadImaged("image", reader="PydicomReader"), t.EnsureChannelFirstd("image")]
    scale = t.ScaleIntensityRanged("image", LOWER, LOWER + WIDTH, 0.0, 1.0, clip=True)
    crop = t.RandSpatialCropd("image", roi_size=SIZE, random_size=False)
    plain = t.Lambda(as_plain)
    items = [
        {"image": str(truth.folders[n % len(truth.folders)]), "series": n % len(truth.folders)}
        for n in range(count)
    ]
    if kind == "Dataset":  # the window on the patch alone: its fastest order
        return data.Dataset(items, t.Compose([*load, crop, scale, plain]))
    whole = t.Compose([*load, scale, crop, plain])
    if kind == "CacheDataset":
        # equal items are cached once
        return data.CacheDataset(items, whole, progress=False, hash_as_key=True, num_workers=1)
    # by default it loses the affine
    return data.PersistentDataset(
        items, whole, cache_dir=scratch / "monai", track_meta=True, weights_only=False
    )


class TorchioPatches(torch.utils.data.Dataset[Item]):
    """SubjectsDataset, a UniformSampler of one patch per subject, and the window on the patch."""

    def __init__(self, truth: Truth, count: int) -> None:
        import torchio

        folders = truth.folders
        subjects = [
            torchio.Subject(
                ct=torchio.ScalarImage(folders[n % len(folders)]), series=n % len(folders)
            )
            for n in range(count)
        ]
        self._subjects = torchio.SubjectsDataset(subjects)
        self._sampler = torchio.UniformSampler(SIZE[0])

    def __len__(self) -> int:
        return len(self._subjects)

    def __getitem__(self, number: int) -> Item:
        subject = self._subjects[number]
        patch = next(iter(self._sampler(subject, 1)))
        image = torch.from_numpy(window(patch.ct.data.numpy()))
        return {
            "image": image,
            "where": packed(int(subject.series), TO_LPS @ np.asarray(patch.ct.affine)),
        }


class PydicomFrames(torch.utils.data.Dataset[Item]):
    """A common hand-written dataset: dcmread, pixel_array, rescale, window, tensor."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = list(paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> Item:
        import pydicom

        dataset = pydicom.dcmread(self._paths[number])
        values = dataset.pixel_array.astype(np.float32) * float(dataset.RescaleSlope) + float(
            dataset.RescaleIntercept
        )
        return {"image": torch.from_numpy(window(values))[None], "row": str(number)}


class BareFrames(torch.utils.data.Dataset[Item]):
    """One preadv of the pixel bytes into a fresh array, delivered as stored."""

    def __init__(self, paths: Sequence[str]) -> None:
        size = phantom_ct.ROWS * phantom_ct.COLUMNS * 2
        self._places = [(path, os.path.getsize(path) - size) for path in paths]

    def __len__(self) -> int:
        return len(self._places)

    def read(self, number: int) -> Array:
        """The stored values of a frame."""
        path, offset = self._places[number]
        frame = np.empty((phantom_ct.ROWS, phantom_ct.COLUMNS), np.uint16)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        os.preadv(descriptor, [frame.data.cast("B")], offset)
        os.close(descriptor)
        return frame

    def __getitem__(self, number: int) -> Item:
        return {"image": torch.from_numpy(self.read(number))[None], "row": str(number)}
