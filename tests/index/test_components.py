"""_components: what is connected, by a search of graphs as the second opinion."""

import numpy as np
import pytest

from dicomdl.arrays import Ints
from dicomdl.index._components import components, digest_of


def searched(count: int, pairs: list[tuple[Ints, Ints]]) -> list[int]:
    """The smallest member of the component of each item, by breadth-first search."""
    neighbours: dict[int, set[int]] = {item: set() for item in range(count)}
    for items, values in pairs:
        for value in np.unique(values):
            members = items[values == value].tolist()
            for item in members:
                neighbours[item] |= set(members)
    result = [-1] * count
    for start in range(count):
        waiting = [start] if result[start] < 0 else []
        while waiting:
            item = waiting.pop()
            if result[item] < 0:
                result[item] = start
                waiting += neighbours[item]
    return result


@pytest.mark.parametrize("case", range(30))
def test_components_are_those_of_a_search(case: int) -> None:
    chance = np.random.default_rng(case)
    count = int(chance.integers(1, 60))
    pairs = []
    for _ in range(int(chance.integers(1, 4))):
        size = int(chance.integers(0, 50))
        pairs.append((chance.integers(0, count, size), chance.integers(0, 40, size)))
    assert components(count, pairs).tolist() == searched(count, pairs)


@pytest.mark.parametrize("is_shuffled", [False, True])
def test_a_chain_of_ten_thousand_links_is_one_component(is_shuffled: bool) -> None:
    count = 10_000
    names = np.arange(count)
    if is_shuffled:
        names = np.random.default_rng(0).permutation(count)
    links = np.arange(count - 1)
    pairs = [(names[np.concatenate([links, links + 1])], np.concatenate([links, links]))]
    assert not components(count, pairs).any()


def test_a_digest_depends_on_the_key_and_on_nothing_else() -> None:
    assert digest_of("patient_id", "P1") == digest_of("patient_id", "P1")
    assert digest_of("patient_id", "P1") != digest_of("study_instance_uid", "P1")
    assert 0 <= digest_of("patient_id", "\udcff") < 2**64
