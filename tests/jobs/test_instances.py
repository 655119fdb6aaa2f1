"""The fingerprint of instances and options: equal if and only if they are."""

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phantoms import write_series

import dicomdl
from dicomdl.errors import FileChanged, UsageError
from dicomdl.jobs._instances import _canonical, fingerprint_of

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=3), inner)
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Instances of three Series, of which the last two differ in the values of pixels alone."""
    folder = tmp_path_factory.mktemp("instances")
    write_series(folder, shape=(3, 4, 4), seed=1)
    write_series(folder, shape=(3, 4, 4), seed=2, patient_id="RAMP-2")
    made = [path.read_bytes() for path in sorted(folder.iterdir())]
    last = bytearray(made[-1])
    last[-1] ^= 1
    return [*made, bytes(last)]


def scanned(folder: Path, contents: dict[str, bytes], mtime: int = 0) -> dicomdl.Index:
    for name, data in contents.items():
        path = folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (mtime, mtime))
    return dicomdl.scan(folder / "in", folder / "index", progress=False)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_fingerprints_are_equal_if_and_only_if_instances_and_options_are(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, files: list[bytes]
) -> None:
    # The last two have one UID, so that an index has one or the other.
    chosen = st.sets(st.integers(0, 5), min_size=1).flatmap(
        lambda some: st.just(some) | st.just((some - {5}) | {6})
    )
    options = st.fixed_dictionaries({}, optional={"a": st.integers(0, 1), "b": st.booleans()})
    found = []
    for _ in range(2):
        instances, given_options = data.draw(chosen), data.draw(options)
        order = data.draw(st.permutations(sorted(instances)))
        copies = data.draw(st.sets(st.sampled_from(order)))
        folder = tmp_path_factory.mktemp("set")
        names = {f"{folder.name}-{n}/{each}.dcm": files[each] for n, each in enumerate(order)}
        names |= {f"copies/{each}.dcm": files[each] for each in copies}
        index = scanned(folder, names, data.draw(st.integers(1, 10**9)))
        shuffled = dict(random.sample(sorted(given_options.items()), len(given_options)))
        found.append(((instances, given_options), fingerprint_of(index, {}, shuffled)))
        shutil.rmtree(folder)
    (first, one), (second, other) = found
    assert (first == second) == (one == other)


@pytest.mark.slow
@given(PLAIN, PLAIN)
def test_options_have_equal_texts_if_and_only_if_they_are_equal(one: Any, other: Any) -> None:
    def told(value: Any) -> Any:
        """The value with the kind of each flag and the sign of each zero made visible."""
        if isinstance(value, dict):
            return {key: told(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [told(inner) for inner in value]
        return (isinstance(value, bool), "nan" if value != value else value)

    assert (_canonical(one, "it") == _canonical(other, "it")) == (told(one) == told(other))


def test_parts_labels_and_selections_count(tmp_path: Path, files: list[bytes]) -> None:
    index = scanned(tmp_path, {str(n): data for n, data in enumerate(files[:6])})
    one, two = index.split((0.5, 0.5))
    uids = [stack.series_instance_uid for stack in index.stacks]
    labelled = [
        index.join({"SeriesInstanceUID": uids, "grade": grades}, on="SeriesInstanceUID")
        for grades in ([1, 2], [1, 3])
    ]
    made = [
        fingerprint_of(index, {}, {}),
        fingerprint_of(one, {}, {}),
        fingerprint_of(index, {"train": one, "test": two}, {}),
        fingerprint_of(index, {"train": two, "test": one}, {}),
        *(fingerprint_of(each, {}, {}) for each in labelled),
    ]
    assert len(set(made)) == len(made)
    again = fingerprint_of(index, {"test": two, "train": one}, {})
    assert again == made[2]


def test_a_fingerprint_says_what_it_covers(tmp_path: Path, files: list[bytes]) -> None:
    index = scanned(tmp_path / "one", {"a": files[5]})
    other = scanned(tmp_path / "other", {"a": files[6]})
    by_uid = [fingerprint_of(each, {}, {}, contents=False) for each in (index, other)]
    by_bytes = [fingerprint_of(each, {}, {}) for each in (index, other)]
    assert by_uid[0] == by_uid[1]
    assert by_uid[0].startswith("uids1:")
    assert by_bytes[0] != by_bytes[1]
    assert by_bytes[0].startswith("bytes1:")


def test_a_file_that_changed_since_the_scan_is_an_error(tmp_path: Path, files: list[bytes]) -> None:
    index = scanned(tmp_path, {"a": files[0]})
    (tmp_path / "in" / "a").write_bytes(files[1])
    with pytest.raises(FileChanged):
        fingerprint_of(index, {}, {})


@pytest.mark.parametrize("options", [{"a": {1}}, {"a": Path("b")}, {1: 2}, {"a": b"x"}])
def test_options_that_are_no_plain_values_are_an_error(
    tmp_path: Path, files: list[bytes], options: Any
) -> None:
    index = scanned(tmp_path, {"a": files[0]})
    with pytest.raises(UsageError, match="options"):
        fingerprint_of(index, {}, options)


def test_arrays_are_lists(tmp_path: Path) -> None:
    assert json.loads(_canonical({"a": np.array([1.5, 2])}, "it")) == {"a": [1.5, 2]}
