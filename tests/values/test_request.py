"""request: the option ``intensity=``, and its refusal by every entry point when invalid."""

import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import index_of
from phantoms import write_series

import dicomdl
from dicomdl.datasets.device.stack import read_stack_on_device
from dicomdl.errors import DicomdlError, IntensityError, UsageError
from dicomdl.geometry.grid import Geometry
from dicomdl.values.auto import resolve
from dicomdl.values.intensity import Intensity
from dicomdl.values.request import IntensityRequest
from dicomdl.values.stack_intensity import stack_intensity
from dicomdl.values.windows import Identity, Limits
from dicomdl.volumes.pictures import montage

parse = IntensityRequest.parse
PAIRS: list[Any] = [
    (-600, 1500),
    [-600, 1500],
    (-600.0, 1500.0),
    (np.int16(-600), np.float32(1500)),
    [np.float64(-600), np.int64(1500)],
]
OPTIONS: list[Any] = [
    *("auto", "modality", "file", "file:1", "voi_lut", "voi_lut:2", "ct.lung", None, *PAIRS),
    *(dicomdl.Window(40, 400), Limits(0, 1), dicomdl.Percentile(), Identity(), dicomdl.SUV()),
    *(dicomdl.ZScore(), dicomdl.ZScore("foreground"), dicomdl.MinMax(), dicomdl.Clip(0, 9)),
    *((dicomdl.Clip(0, 9), dicomdl.ZScore()), ("ct.lung", dicomdl.MinMax(clip=False))),
    *(dicomdl.SUV(upper=5), dicomdl.RealWorld(), Intensity(Limits(0, 1), invert=True), np.sqrt),
]
BAD: dict[str, Any] = {
    "a misspelt name": "autp",
    "a misspelt preset": "ct.lnug",
    "a window of the file without a number": "file:",
    "a negative window of the file": "voi_lut:-1",
    "no name": "",
    "one number": 40,
    "a flag": True,
    "three numbers": (40, 400, 1),
    "one number in a list": [40],
    "no numbers": (),
    "a flag in a pair": (40, True),
    "a numpy flag in a pair": (40, np.bool_(True)),
    "text in a pair": ("40", "400"),
    "None in a pair": (40, None),
    "not a number": (float("nan"), 400),
    "a width that is not a number": [40, np.float32("nan")],
    "an endless center": (float("inf"), 400),
    "a center beyond all floats": (10**400, 400),
    "a width of 0": (40, 0),
    "a negative width": [40, -400],
    "an array": np.array([40, 400]),
    "a dict": {"center": 40, "width": 400},
    "a class": dicomdl.Percentile,
    "a chain with a number": (dicomdl.Clip(0, 9), 400),
    "a chain with a misspelt name": (dicomdl.Clip(0, 9), "autp"),
    "a chain with a function": (dicomdl.Clip(0, 9), np.sqrt),
    "a chain with auto": ("auto", dicomdl.ZScore()),
    "a chain with SUV in its middle": (dicomdl.Clip(0, 9), dicomdl.SUV()),
    "a chain with a sigmoid": (dicomdl.Window(0, 9, "SIGMOID"), dicomdl.ZScore()),
}


class Entry(NamedTuple):
    """Inputs of an entry point."""

    index: dicomdl.Index
    volume: dicomdl.Volume
    bare: dicomdl.Volume


ENTRIES: dict[str, Callable[[Entry, Any], Any]] = {
    "FrameDataset": lambda on, option: dicomdl.FrameDataset(on.index, option),
    "VolumeDataset": lambda on, option: dicomdl.VolumeDataset(on.index, intensity=option),
    "PatchDataset": lambda on, option: dicomdl.PatchDataset(on.index, (1, 2, 2), intensity=option),
    "Volume.window": lambda on, option: on.volume.window(option),
    "Volume.window of a volume without facts": lambda on, option: on.bare.window(option),
    "Volume.plot": lambda on, option: on.volume.plot(option),
    "montage": lambda on, option: montage(on.volume, intensity=option),
    "stack_intensity": lambda on, option: stack_intensity(on.index.stacks[0], option),
    "resolve": lambda on, option: resolve(option, on.index.stacks[0].middle),
    "read_stack_on_device": lambda on, option: read_stack_on_device(
        on.index.stacks[0],
        None,  # type: ignore[arg-type]  # no decoder is asked before the option is checked
        option,
    ),
}


@pytest.fixture(scope="module")
def entry(tmp_path_factory: pytest.TempPathFactory) -> Entry:
    folder = tmp_path_factory.mktemp("requests") / "dicom"
    write_series(folder, shape=(3, 4, 5), intercept=-1024)
    index = index_of(folder)
    volume = dicomdl.read_volume(index.stacks[0])
    geometry = Geometry(volume.geometry.shape, np.eye(4))
    return Entry(index, volume, dicomdl.Volume(volume.array, geometry))


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("what", BAD)
def test_every_entry_point_refuses_what_is_no_option(entry: Entry, name: str, what: str) -> None:
    with pytest.raises((UsageError, IntensityError)) as caught:
        ENTRIES[name](entry, BAD[what])
    said = " ".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
    assert "expected" in said


@pytest.mark.parametrize("pair", PAIRS, ids=repr)
def test_two_numbers_are_a_center_and_a_width_wherever_they_come_from(
    entry: Entry, pair: Any
) -> None:
    expected = entry.volume.window("ct.lung").array
    assert np.array_equal(entry.volume.window(pair).array, expected)
    assert np.array_equal(dicomdl.FrameDataset(entry.index, pair)[1]["image"][0], expected[1])
    assert np.array_equal(dicomdl.VolumeDataset(entry.index, pair)[0]["image"][0], expected)


@pytest.mark.parametrize("option", OPTIONS, ids=repr)
def test_a_request_pickles_hashes_and_is_its_own_request(option: Any) -> None:
    request = parse(option)
    assert parse(request) is request
    again = pickle.loads(pickle.dumps(request))
    assert again == request and hash(again) == hash(request) and repr(again) == repr(request)


def test_requests_for_the_same_are_equal_however_they_are_written() -> None:
    lung = parse("ct.lung")
    assert all(parse(pair) == lung for pair in PAIRS)
    assert parse(dicomdl.Window(-600, 1500)) == lung
    assert parse(None) == parse("modality") == parse(Identity())
    assert len({parse("auto"), parse("file"), parse("file:0"), parse("voi_lut"), lung}) == 5


@pytest.mark.parametrize("option", ["auto", "file:1", "ct.lung", (40.0, 400.0)])
def test_a_request_prints_as_the_option_that_it_was(option: Any) -> None:
    assert repr(parse(option)) == repr(option)


@pytest.mark.parametrize("option", ["auto", "file", "voi_lut:1"])
def test_what_only_a_file_can_tell_is_refused_without_one(entry: Entry, option: str) -> None:
    assert parse(option).needs_file
    with pytest.raises(UsageError, match="without DICOM facts"):
        entry.bare.window(option)


def test_a_callable_that_does_not_hash_maps_all_the_same(entry: Entry) -> None:
    class Doubled:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, values: Any) -> Any:
            return values * 2.0

    image = dicomdl.FrameDataset(entry.index, Doubled())[0]["image"][0]
    assert np.array_equal(image, entry.volume.array[0] * 2.0)


def test_a_type_error_of_a_callable_is_raised_once_and_is_not_taken_for_a_missing_hash(
    entry: Entry,
) -> None:
    calls = []

    def fails(values: Any) -> Any:
        calls.append(1)
        raise TypeError("the callable's own")

    with pytest.raises(TypeError, match="own"):
        dicomdl.FrameDataset(entry.index, fails)[0]
    assert calls == [1]


@pytest.mark.parametrize("which", [-1, 1.5, True, None])
def test_a_real_world_map_is_asked_for_by_a_number_from_0_or_a_name(which: Any) -> None:
    with pytest.raises(DicomdlError, match="expected"):
        dicomdl.RealWorld(which)
    assert dicomdl.RealWorld(np.int64(1)) == dicomdl.RealWorld(1)
