"""_assigning: sizes, labels in balance, no empty part, and what is kept."""

import numpy as np
import pytest

from dicomdl.arrays import Ints
from dicomdl.index._assigning import Labels, Wanted, assign, labels_of

Generator = np.random.Generator


def wanted(shares: list[float], order: Ints, kept: Ints | None = None) -> Wanted:
    rest = max(0.0, 1 - sum(shares))
    rest = rest if rest > 1e-9 else 0.0
    required = np.array([*(share > 0 for share in shares), False])
    free = np.full(len(order), -1) if kept is None else kept
    return Wanted(np.array([*shares, rest]), required, order, free)


def labels(of_group: Ints, total: int) -> Labels:
    """One label per group, of groups of one unit."""
    count = len(of_group)
    return labels_of(np.arange(count), of_group, np.ones(count, np.int64), count, total)


NO_LABELS = np.zeros(0, np.int64)


def none(groups: int) -> Labels:
    return labels_of(NO_LABELS, NO_LABELS, NO_LABELS, groups, 0)


def matrix(part: Ints, of_group: Ints, parts: int, total: int) -> Ints:
    found = np.zeros((parts, total), np.int64)
    np.add.at(found, (part, of_group), 1)
    return found


@pytest.mark.parametrize("case", range(200))
def test_folds_of_random_small_sets_are_in_balance_and_never_empty(case: int) -> None:
    chance = np.random.default_rng(case)
    k = int(chance.integers(2, 8))
    count, classes = int(chance.integers(k, 60)), int(chance.integers(1, 5))
    of_group = chance.choice(classes, count, p=chance.dirichlet(np.ones(classes)))
    order = chance.permutation(count)
    part = assign(np.ones(count, np.int64), labels(of_group, classes), wanted([1 / k] * k, order))
    sizes = np.bincount(part, minlength=k)
    # The best possible sizes: k folds of count units differ by one at most.
    assert sizes.min() == count // k and sizes.max() == -(-count // k)
    # A class is in each fold as often as possible, give or take one.
    found = matrix(part, of_group, k, classes)
    assert (np.abs(found - np.bincount(of_group, minlength=classes) / k) < 2).all()


@pytest.mark.parametrize("case", range(100))
def test_sizes_of_groups_of_several_units_differ_by_one_group(case: int) -> None:
    chance = np.random.default_rng(case)
    k = int(chance.integers(2, 6))
    sizes = chance.choice([1, 1, 1, 2, 3, 7], int(chance.integers(k, 50)))
    part = assign(sizes, none(len(sizes)), wanted([1 / k] * k, chance.permutation(len(sizes))))
    held = np.bincount(part, sizes, k)
    assert np.ptp(held) <= sizes.max()
    assert (np.bincount(part, minlength=k) > 0).all()


@pytest.mark.parametrize("count", range(3, 40))
def test_fractions_leave_no_part_empty_and_deviate_by_less_than_a_unit(count: int) -> None:
    shares = np.array([0.8, 0.1, 0.1])
    part = assign(np.ones(count, np.int64), none(count), wanted(shares.tolist(), np.arange(count)))
    sizes = np.bincount(part, minlength=3)
    assert (sizes > 0).all() and sizes.sum() == count
    if count >= 10:
        assert (np.abs(sizes - shares * count) < 1).all()


def test_groups_larger_than_a_part_leave_the_others_for_it() -> None:
    part = assign(np.full(3, 10), none(3), wanted([0.8, 0.1, 0.1], np.arange(3)))
    assert sorted(part.tolist()) == [0, 1, 2]
    part = assign(np.array([50, *[1] * 10]), none(11), wanted([0.5, 0.5], np.arange(11)))
    assert sorted(np.bincount(part, [50, *[1] * 10]).tolist()) == [10, 50]


def test_fewer_groups_than_parts_fill_the_first_ones() -> None:
    part = assign(np.ones(2, np.int64), none(2), wanted([0.4, 0.3, 0.3], np.arange(2)))
    assert len(set(part.tolist())) == 2


def test_what_the_fractions_leave_is_in_no_part() -> None:
    part = assign(np.ones(10, np.int64), none(10), wanted([0.5, 0.2, 0.0], np.arange(10)))
    assert np.bincount(part, minlength=4).tolist() == [5, 2, 0, 3]


@pytest.mark.parametrize("case", range(50))
def test_kept_groups_stay_and_new_ones_fill_what_lacks_most(case: int) -> None:
    chance = np.random.default_rng(case)
    count, shares = int(chance.integers(20, 100)), [0.7, 0.2, 0.1]
    of_group = chance.integers(0, 3, count)
    old = int(count / 1.3)
    first = assign(
        np.ones(old, np.int64), labels(of_group[:old], 3), wanted(shares, chance.permutation(old))
    )
    kept = np.append(first, np.full(count - old, -1))
    part = assign(
        np.ones(count, np.int64),
        labels(of_group, 3),
        wanted(shares, chance.permutation(count), kept),
    )
    assert np.array_equal(part[:old], first)
    assert (np.abs(np.bincount(part, minlength=3) - np.array(shares) * count) < 1.5).all()


def test_an_overfull_part_gets_nothing_new() -> None:
    kept = np.array([0] * 8 + [-1] * 4)
    part = assign(np.ones(12, np.int64), none(12), wanted([0.5, 0.5], np.arange(12), kept))
    assert part.tolist() == [0] * 8 + [1] * 4


@pytest.mark.parametrize("case", range(20))
def test_several_labels_are_nearer_to_balance_than_by_chance(case: int) -> None:
    chance = np.random.default_rng(case)
    has = chance.random((150, 6)) < chance.uniform(0.03, 0.5, 6)
    units, classes = np.nonzero(has)
    part = assign(
        np.ones(150, np.int64),
        labels_of(units, classes, np.ones(len(units), np.int64), 150, 6),
        wanted([0.2] * 5, chance.permutation(150)),
    )

    def off(parts: Ints) -> float:
        found = np.zeros((5, 6))
        np.add.at(found, (parts[units], classes), 1)
        return float(np.abs(found - has.sum(axis=0) / 5).sum())

    assert off(part) < np.median([off(chance.permutation(150) % 5) for _ in range(20)])


def frame_labels(case: int) -> tuple[Ints, Ints]:
    """(frames,) patient and label of frames whose labels differ within a patient."""
    chance = np.random.default_rng(case)
    frames = chance.integers(1, 20, 80)
    mixtures = chance.dirichlet(np.full(3, 0.4), 80)
    label = [chance.choice(3, n, p=p) for n, p in zip(frames, mixtures, strict=True)]
    return np.repeat(np.arange(80), frames), np.concatenate(label)


def folds_of_frames(patient: Ints, label: Ints, k: int) -> Ints:
    pairs, counts = np.unique(np.stack([patient, label], 1), axis=0, return_counts=True)
    members = labels_of(pairs[:, 0], pairs[:, 1], counts, 80, 3)
    return assign(np.ones(80, np.int64), members, wanted([1 / k] * k, np.arange(80)))


def off_share(part: Ints, patient: Ints, label: Ints) -> float:
    """The largest difference of the share of a label in a part from its share in all frames."""
    found = matrix(part[patient], label, part.max() + 1, 3).astype(float)
    everywhere = found.sum(axis=0) / found.sum()
    return float(np.abs(found / found.sum(axis=1, keepdims=True) - everywhere).max())


@pytest.mark.parametrize("case", range(10))
def test_labels_of_single_frames_are_in_balance_too(case: int) -> None:
    patient, label = frame_labels(case)
    part = folds_of_frames(patient, label, 5)
    by_chance = [
        off_share(np.random.default_rng(n).permutation(80) % 5, patient, label) for n in range(9)
    ]
    assert off_share(part, patient, label) < min(by_chance)
    assert set(np.bincount(part).tolist()) == {16}


def test_labels_of_frames_are_as_near_to_balance_as_by_scikit_learn() -> None:
    selection = pytest.importorskip("sklearn.model_selection")
    ours, theirs = [], []
    for case in range(10):
        patient, label = frame_labels(case)
        ours.append(off_share(folds_of_frames(patient, label, 5), patient, label))
        other = np.empty(80, np.int64)
        folds = selection.StratifiedGroupKFold(5, shuffle=True, random_state=case)
        for number, (_, held) in enumerate(folds.split(label, label, patient)):
            other[patient[held]] = number
        theirs.append(off_share(other, patient, label))
    assert np.mean(ours) <= 1.2 * np.mean(theirs)


def test_one_label_is_as_near_to_balance_as_by_scikit_learn() -> None:
    selection = pytest.importorskip("sklearn.model_selection")
    for case in range(30):
        chance = np.random.default_rng(case)
        count, k = int(chance.integers(20, 120)), 5
        of_group = chance.choice(3, count, p=[0.6, 0.3, 0.1])
        if np.bincount(of_group, minlength=3).max() < k:
            continue
        part = assign(
            np.ones(count, np.int64), labels(of_group, 3), wanted([0.2] * k, np.arange(count))
        )
        theirs = np.empty(count, np.int64)
        folds = selection.StratifiedGroupKFold(k, shuffle=True, random_state=case)
        for number, (_, held) in enumerate(folds.split(of_group, of_group, np.arange(count))):
            theirs[held] = number
        ideal = np.bincount(of_group, minlength=3) / k
        ours_off, theirs_off = (
            np.abs(matrix(each, of_group, k, 3) - ideal).max() for each in (part, theirs)
        )
        assert ours_off <= theirs_off + 1e-9
