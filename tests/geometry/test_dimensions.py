"""The search for the dimension of frames at one position, on numbers without files."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dicomdl.geometry._dimensions import (
    Candidate,
    Dimension,
    Kind,
    Tie,
    Tier,
    _phases,
    _rank_within,
    begins_there,
    dense_codes,
    find_dimension,
    is_unique,
    members,
    mixed_codes,
    pattern_of,
)

Ints = NDArray[np.int64]


def candidate(
    name: str, values: Any, tier: Tier = Tier.MEANING, kind: Kind = "value", slow: bool = False
) -> Candidate:
    numbers = np.asarray(values, dtype=np.float64)
    return Candidate(
        name,
        tier,
        kind,
        np.unique(numbers, return_inverse=True)[1].reshape(-1).astype(np.int64),
        slow,
        numbers,
    )


def search(places: Any, *candidates: Candidate) -> Dimension | Tie | None:
    return find_dimension(np.asarray(places, dtype=np.int64), candidates)


def dimension(places: Any, *candidates: Candidate) -> tuple[list[str], list[int]]:
    found = search(places, *candidates)
    assert isinstance(found, Dimension)
    return [c.name for c in found.candidates], found.labels.tolist()


# Four positions, three frames each, position by position.
PLACES = np.repeat(np.arange(4), 3)
TIMES = np.tile(np.arange(3), 4)


def test_positions_that_do_not_repeat_need_no_dimension() -> None:
    assert search(range(5), candidate("echo_time", [0, 1, 0, 1, 0])) is None


def test_an_attribute_that_is_unique_at_each_position_and_the_same_at_all_is_the_dimension() -> (
    None
):
    assert dimension(PLACES, candidate("echo_time", 10 * TIMES)) == (["echo_time"], TIMES.tolist())


def test_an_attribute_that_varies_with_the_position_only_says_nothing() -> None:
    assert search(PLACES, candidate("slice_location", PLACES)) is None


def test_the_first_of_attributes_that_tell_the_same_is_named() -> None:
    assert dimension(PLACES, candidate("time", TIMES), candidate("acquisition", 7 - TIMES))[0] == [
        "time"
    ]


def test_meaning_comes_before_bookkeeping_whatever_the_order_given() -> None:
    count = candidate("acquisition_number", TIMES, Tier.BOOKKEEPING)
    assert dimension(PLACES, count, candidate("echo_time", TIMES))[0] == ["echo_time"]


def test_attributes_of_one_tier_that_tell_it_differently_are_a_tie() -> None:
    swapped = TIMES.copy()
    swapped[:3] = [1, 0, 2]
    found = search(PLACES, candidate("echo_time", TIMES), candidate("kernel", swapped))
    assert found == Tie(("echo_time", "kernel"))


def test_two_attributes_together_flatten_in_lexicographic_order_the_slow_one_first() -> None:
    echoes, times = np.array(
        [(e, t) for _ in range(4) for e, t in itertools.product((0, 1), (0, 1, 2))]
    ).T
    places = np.repeat(np.arange(4), 6)
    names, labels = dimension(
        places, candidate("echo_time", echoes), candidate("time", times, slow=True)
    )
    assert names == ["time", "echo_time"]
    assert labels == (2 * times + echoes).tolist()


def test_the_smallest_combination_is_taken() -> None:
    places, six = np.repeat(np.arange(4), 6), np.tile(np.arange(6), 4)
    assert dimension(
        places, candidate("a", six % 2), candidate("b", six // 2), candidate("c", six)
    )[0] == ["c"]


# --- incomplete sets ------------------------------------------------------------------------------


def test_as_many_values_as_a_full_position_has_frames_tell_an_interrupted_volume() -> None:
    keep = ~((TIMES == 2) & (PLACES >= 2))
    assert dimension(PLACES[keep], candidate("time", TIMES[keep])) == (
        ["time"],
        TIMES[keep].tolist(),
    )


def test_an_attribute_with_more_values_than_that_tells_nothing() -> None:
    keep = np.arange(12) != 11
    assert search(PLACES[keep], candidate("content_time", np.arange(11), Tier.CONTENT_TIME)) is None


def test_times_of_an_incomplete_set_need_a_volume_that_is_whole() -> None:
    # A repeated slice, and a clock that advances in the middle: each half looks like a volume.
    places, halves = [0, 1, 2, 2, 3, 4], [0, 0, 0, 1, 1, 1]
    assert (
        search(places, candidate("acquisition_time", halves, Tier.ACQUISITION_TIME, "time")) is None
    )
    assert search(places, candidate("kernel", halves)) is None


def test_where_every_position_lacks_another_frame_an_attribute_must_be_at_most_positions() -> None:
    cells = [
        (place, time)
        for place in range(8)
        for time in range(3)
        if (place, time) not in ((0, 1), (3, 0), (5, 2))
    ]
    places, times = np.array(cells).T
    assert dimension(places, candidate("time", times)) == (["time"], times.tolist())
    assert search(places, candidate("content_time", times, Tier.CONTENT_TIME)) is None


def test_a_slice_that_is_there_twice_is_no_second_pass() -> None:
    assert (
        search([0, 1, 2, 3, 1], candidate("instance_number", [1, 2, 3, 4, 5], Tier.NUMBER, "count"))
        is None
    )


def test_after_two_whole_passes_an_interrupted_third_one_is_believed() -> None:
    places = [0, 1, 2, 0, 1, 2, 0, 1]
    number = candidate("instance_number", range(8), Tier.NUMBER, "count")
    assert dimension(places, number) == (["instance_number"], [0, 0, 0, 1, 1, 1, 2, 2])
    assert search([0, 1, 2, 0, 2, 0, 1, 2], number) is None, (
        "a hole in the middle could be in any pass"
    )
    lost = candidate("instance_number", range(2, 10), Tier.NUMBER, "count")
    assert search([1, 2, 0, 1, 2, 0, 1, 2], lost) is None, (
        "where the first frame is lost, each pass seems to begin with the second"
    )


@pytest.mark.parametrize("kind", ["time", "count"])
def test_passes_in_different_orders_prove_nothing_because_a_lost_frame_would_move_them(
    kind: Kind,
) -> None:
    # Three of four times at each of three positions: one frame is lost at the first time, one at
    # the second, one at the third.
    cells = [
        (time, place)
        for time in range(4)
        for place in range(3)
        if (time, place) not in ((0, 0), (1, 1), (2, 2))
    ]
    places = [place for _, place in cells]
    assert search(places, candidate("when", range(9), Tier.NUMBER, kind)) is None


# --- times and counts that run on -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["time", "count"])
def test_passes_over_the_positions_one_after_the_other_are_volumes(kind: Kind) -> None:
    tier = Tier.ACQUISITION_TIME if kind == "time" else Tier.NUMBER
    interleaved = np.array([2, 0, 3, 1])[PLACES]
    assert (
        dimension(PLACES, candidate("when", TIMES * 10 + interleaved, tier, kind))[1]
        == TIMES.tolist()
    )
    assert (
        dimension(PLACES, candidate("when", TIMES * 4 + PLACES, tier, kind))[1] == TIMES.tolist()
    ), "straight, without a pause"
    steady = search(PLACES, candidate("when", TIMES * 4 + interleaved, tier, kind))
    assert isinstance(steady, Dimension) == (kind == "count"), (
        "numbers count from 0 or 1, a clock may begin anywhere"
    )


@pytest.mark.parametrize("kind", ["time", "count"])
def test_half_a_volume_at_each_end_is_not_joined_to_the_halves_of_the_next_ones(kind: Kind) -> None:
    tier = Tier.ACQUISITION_TIME if kind == "time" else Tier.NUMBER
    places, when = np.tile(np.arange(6), 4)[3:21], np.arange(24)[3:21]
    assert search(places, candidate("when", when, tier, kind)) is None
    paused = when + 20 * (when // 6)
    assert search(places, candidate("when", paused, tier, kind)) is None, "the pauses lie within"


def test_numbers_that_flip_where_an_echo_time_is_not_told_are_a_tie_with_it() -> None:
    places = np.repeat(np.arange(6), 2)
    echoes = np.array([0, 1] * 5 + [9, 9])
    number = candidate(
        "instance_number", [1, 2, 3, 4, 6, 5, 7, 8, 9, 10, 11, 12], Tier.NUMBER, "count"
    )
    assert search(places, candidate("echo_time", echoes), number) == Tie(
        ("echo_time", "instance_number")
    )


def test_a_million_frames_with_many_attributes_that_do_not_help_are_searched_in_seconds() -> None:
    places = np.repeat(np.arange(20_000), 8)
    halves = [
        np.tile(np.random.default_rng(seed).permutation([0, 0, 0, 0, 1, 1, 1, 1]), 20_000)
        for seed in range(12)
    ]
    broken = [np.where(places == 3, 0, half) for half in halves]
    assert search(places, *(candidate(f"a{i}", half) for i, half in enumerate(broken))) is None


def test_frames_sorted_by_position_are_volumes_by_count_but_not_content_time() -> None:
    when = np.arange(12)
    assert (
        dimension(PLACES, candidate("instance_number", when, Tier.NUMBER, "count"))[1]
        == TIMES.tolist()
    )
    assert (
        dimension(PLACES, candidate("acquisition_time", when, Tier.ACQUISITION_TIME, "time"))[1]
        == TIMES.tolist()
    )
    assert search(PLACES, candidate("content_time", when, Tier.CONTENT_TIME, "time")) is None


def test_numbers_in_no_order_prove_nothing() -> None:
    when = [0, 5, 9, 1, 2, 3, 11, 4, 6, 7, 10, 8]
    assert search(PLACES, candidate("instance_number", when, Tier.NUMBER, "count")) is None


def test_the_order_of_four_frames_proves_nothing() -> None:
    assert (
        search([0, 1, 0, 1], candidate("instance_number", range(4), Tier.NUMBER, "count")) is None
    )


def test_at_a_single_position_a_count_proves_nothing_but_an_acquisition_does() -> None:
    assert search([0, 0, 0], candidate("instance_number", [1, 2, 3], Tier.NUMBER, "count")) is None
    assert dimension([0, 0, 0], candidate("acquisition_number", [3, 1, 2], Tier.BOOKKEEPING))[
        1
    ] == [2, 0, 1]


def test_heart_phases_are_compared_by_their_rank_at_each_position() -> None:
    # Each slice has its own heart beat.
    delay = (100 + 4 * PLACES) * TIMES + PLACES
    assert dimension(PLACES, candidate("trigger_time", delay, kind="phase"))[1] == TIMES.tolist()


def test_delays_of_a_triggered_scan_that_jitter_are_no_phases() -> None:
    jitter = np.array([0, 4, 7, 5, 0, 9, 3, 8, 0, 2, 9, 6])
    assert search(PLACES, candidate("trigger_time", 100 * PLACES + jitter, kind="phase")) is None, (
        "each slice has its own delay"
    )
    assert search(PLACES, candidate("trigger_time", 100 + jitter, kind="phase")) is None


def test_the_same_times_at_all_positions_come_before_the_rank_of_a_phase() -> None:
    trigger = candidate("trigger_time", (100 + PLACES) * ((TIMES + 1) % 3), kind="phase")
    assert dimension(
        PLACES, trigger, candidate("acquisition_time", TIMES, Tier.ACQUISITION_TIME, "time")
    )[0] == ["acquisition_time"]


def test_an_exact_echo_time_comes_before_the_rank_of_a_trigger_that_jitters() -> None:
    trigger = candidate("trigger_time", (100 + PLACES) * ((TIMES + 1) % 3), kind="phase")
    assert dimension(PLACES, trigger, candidate("echo_time", TIMES))[0] == ["echo_time"]


# --- properties -----------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.integers(1, 5),
    st.lists(st.integers(2, 3), min_size=1, max_size=3),
    st.randoms(use_true_random=False),
)
def test_any_product_of_attributes_is_found_in_any_order_of_frames(
    positions: int, sizes: list[int], random: Any
) -> None:
    cells = list(itertools.product(range(positions), *map(range, sizes)))
    random.shuffle(cells)
    places, *values = np.array(cells).T
    noise = candidate("noise", np.arange(len(cells)))
    found = (
        search(places, *(candidate(f"a{i}", v) for i, v in enumerate(values)), noise)
        if positions > 1
        else None
    )
    if found is None:
        return
    assert isinstance(found, Dimension) and found.count == np.prod(sizes)
    expected = np.ravel_multi_index(tuple(values), sizes)
    assert found.labels.tolist() == expected.tolist()


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 5)), min_size=2, max_size=24
    )
)
def test_what_is_found_is_unique_within_each_position(frames: list[tuple[int, int, int]]) -> None:
    places = np.unique([p for p, _, _ in frames], return_inverse=True)[1].reshape(-1)
    candidates = [
        candidate("a", [a for _, a, _ in frames]),
        candidate("n", [b for *_, b in frames], Tier.NUMBER, "count"),
    ]
    found = search(places, *candidates)
    if isinstance(found, Dimension):
        assert len(set(zip(places.tolist(), found.labels.tolist(), strict=True))) == len(frames)
        assert found.count == np.bincount(places).max()


# --- limits of the search -------------------------------------------------------------------------


def test_three_attributes_together_are_searched_and_four_are_not() -> None:
    for count, found in ((3, True), (4, False)):
        size = 2**count
        places = np.repeat(np.arange(3), size)
        bits = np.tile(np.arange(size), 3)
        candidates = [candidate(f"bit{n}", bits >> n & 1) for n in range(count)]
        assert (search(places, *candidates) is not None) is found


def test_a_value_must_occur_at_more_than_three_quarters_of_the_positions() -> None:
    # Each of two values lacks at so many of eight positions, elsewhere for each.
    for lacking, found in ((1, True), (2, False)):
        cells = [
            (place, value)
            for place in range(8)
            for value in range(2)
            if not (value == 0 and place < lacking) and not (value == 1 and place >= 8 - lacking)
        ]
        places, values = np.array(cells).T
        assert (search(places, candidate("echo_time", values)) is not None) is found
        count = candidate("acquisition_number", values, Tier.BOOKKEEPING)
        assert (search(places, count) is not None) is found
        time = candidate("acquisition_time", values, Tier.ACQUISITION_TIME)
        assert search(places, time) is None


def test_every_position_may_lack_another_value_so_that_none_has_all() -> None:
    # Five values, of which each position has four and the first one three.
    cells = [(p, v) for p in range(25) for v in range(5) if v != p % 5 and (p, v) != (0, 1)]
    places, values = np.array(cells).T
    assert dimension(places, candidate("echo_time", values))[1] == values.tolist()
    # Of 20 positions, 15 have the second value: three quarters.
    near = places < 20
    assert search(places[near], candidate("echo_time", values[near])) is None


def test_a_combination_with_too_few_values_is_no_dimension() -> None:
    places, six = np.repeat(np.arange(3), 6), np.tile(np.arange(6), 3)
    assert search(places, candidate("a", six % 2), candidate("b", six // 2 % 2)) is None
    names, labels = dimension(places, candidate("a", six % 2), candidate("b", six // 2))
    assert (names, labels) == (["a", "b"], (six % 2 * 3 + six // 2).tolist())


def test_a_combination_may_join_tiers() -> None:
    places, six = np.repeat(np.arange(3), 6), np.tile(np.arange(6), 3)
    echo = candidate("echo_time", six % 2)
    number = candidate("acquisition_number", six // 2, Tier.BOOKKEEPING)
    assert dimension(places, number, echo)[0] == ["echo_time", "acquisition_number"]
    other = candidate("stack_id", (six // 2 + places) % 3, Tier.BOOKKEEPING)
    assert search(places, echo, number, other) == Tie(
        ("echo_time+acquisition_number", "echo_time+stack_id")
    )


def test_the_number_of_frames_at_a_position_decides_not_that_of_values() -> None:
    # Values that are unique at each position, but of which each position has others.
    assert search(PLACES, candidate("echo_time", np.arange(12))) is None
    assert search(PLACES, candidate("echo_time", TIMES + PLACES % 2)) is None


# --- helpers, against plain Python ----------------------------------------------------------------


frames_of_codes = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=20
)


@settings(max_examples=80)
@given(frames_of_codes)
def test_codes_rank_group_and_repeat_as_in_plain_python(
    frames: list[tuple[int, int, int]],
) -> None:
    places, first, second = np.array(frames, dtype=np.int64).T
    cells = [(a, b) for _, a, b in frames]
    ranks = sorted(set(cells))
    mixed = mixed_codes([first, second])
    assert dense_codes(mixed).tolist() == [ranks.index(cell) for cell in cells]
    assert dense_codes(mixed).dtype == np.int64
    assert is_unique(places, first) == (len({(p, a) for p, a, _ in frames}) == len(frames))
    expected = [
        sorted({a for p, a, _ in frames if p == place}).index(code) for place, code, _ in frames
    ]
    assert _rank_within(places, first).tolist() == expected
    labels = dense_codes(first)
    assert [part.tolist() for part in members(labels)] == [
        [n for n, label in enumerate(labels) if label == each]
        for each in range(int(labels.max()) + 1)
    ]
    assert pattern_of(first) == pattern_of(9 - 2 * first)
    one_to_one = len(set(zip(first, second, strict=True))) == len(set(first)) == len(set(second))
    assert (pattern_of(first) == pattern_of(second)) is one_to_one


def test_codes_of_many_large_values_are_mixed_without_an_overflow() -> None:
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, 2**40, 50) for _ in range(4)]
    codes[0][10:40] = codes[0][0]
    codes[1][20:30] = codes[1][20]
    order = np.argsort(mixed_codes(codes), kind="stable").tolist()
    tuples = [tuple(int(code[n]) for code in codes) for n in range(50)]
    assert order == sorted(range(50), key=tuples.__getitem__)
    limit = np.array([0, 2**31 - 1, 2**31, 2**31])
    assert mixed_codes([limit, limit]).argsort(kind="stable").tolist() == [0, 1, 2, 3]
    assert (mixed_codes([limit, limit]) >= 0).all()


def test_two_positions_are_several_and_one_is_not() -> None:
    number = candidate("instance_number", range(1, 7), Tier.NUMBER, "count")
    assert dimension([0, 1] * 3, number)[1] == [0, 0, 1, 1, 2, 2]
    for tier in (Tier.CONTENT_TIME, Tier.NUMBER):
        assert search([0] * 6, candidate("when", range(6), tier, "time")) is None
    time = candidate("when", range(6), Tier.ACQUISITION_TIME, "time")
    assert dimension([0] * 6, time)[1] == list(range(6))


# --- the beginnings of passes ---------------------------------------------------------------------


def begins(numbers: Any, one_pass: Any, kind: Kind = "time") -> bool:
    count = candidate("when", numbers, Tier.NUMBER, kind)
    order = np.arange(len(numbers))
    return begins_there(np.asarray(one_pass), count, order, len(one_pass))


def test_a_pause_before_each_pass_that_is_longer_than_any_within_shows_its_beginning() -> None:
    interleaved = [2, 0, 1]
    assert begins([0, 1, 2, 5, 6, 7, 10, 11, 12], interleaved)
    # More than one percent longer.
    assert begins([0, 100, 200, 301.1, 401, 501], interleaved)
    assert not begins([0, 100, 200, 300.9, 400, 500], interleaved)
    # By one percent exactly: neither before the passes, nor within them.
    assert not begins([0, 100, 200, 301, 401, 501], interleaved)
    assert begins([0, 101, 202, 302, 403, 504], [0, 1, 2])
    assert begins([0, 101.1, 202.2, 302.2, 403.3, 504.4], [0, 1, 2]) is False
    assert not begins([0, 1, 2, 5, 6, 7, 8, 9, 10], interleaved), "one pause is as short"
    assert not begins([0, 1, 4, 5, 6, 9, 10, 11, 14], [0, 1, 2]), "the pauses are within"


def test_without_a_pause_straight_passes_of_three_positions_show_their_beginning() -> None:
    steady = [0, 1, 2, 3, 4, 5]
    assert begins(steady, [0, 1, 2]) and begins(steady, [2, 1, 0])
    assert not begins(steady, [1, 0, 2]) and not begins(steady, [0, 2, 1])
    assert not begins([0, 1, 2, 3], [0, 1]), "any order of two is straight"
    echoes = [0, 0, 1, 1, 2, 2]
    assert begins(np.repeat(steady, 2), echoes) and begins(np.repeat(steady, 2), echoes[::-1])
    # A pass may be shorter than the step within by less than one percent.
    assert begins([0, 100, 200, 299.5, 399.5, 499.5], [0, 1, 2])
    assert not begins([0, 100, 200, 298.5, 398.5, 498.5], [0, 1, 2])


def test_numbers_that_count_on_show_a_beginning_at_0_1_or_a_multiple_of_the_pass() -> None:
    for start in range(10):
        numbers = np.arange(start, start + 6)
        assert begins(numbers, [1, 0, 2], "count") is (start in (0, 1, 4, 7))
        assert begins(numbers, [0, 1, 2], "count") is (start in (0, 1, 4, 7))
    # Numbers with steps of two are compared as times are.
    assert begins(np.arange(6) * 2 + 3, [0, 1, 2], "count")
    assert not begins(np.arange(6) * 2 + 3, [1, 0, 2], "count")


def test_times_of_an_interrupted_set_count_in_whole_passes_of_distinct_values() -> None:
    places = [2, 0, 1, 2, 0, 1, 2]
    assert dimension(places, candidate("n", range(7), Tier.NUMBER, "count"))[1] == [
        0, 0, 0, 1, 1, 1, 2
    ]  # fmt: skip
    equal = candidate("n", [0, 1, 2, 3, 4, 4, 5], Tier.NUMBER, "count")
    assert search(places, equal) is None
    # A frame of the second pass is lost, so that two passes are no longer whole.
    assert search([2, 0, 1, 2, 0], candidate("n", range(5), Tier.NUMBER, "count")) is None


def test_echoes_of_one_time_are_of_one_pass() -> None:
    places = np.tile(np.repeat(np.arange(3), 2), 2)
    times = np.repeat([0.0, 1, 2, 10, 11, 12], 2)
    echoes = np.tile([1, 2], 6)
    names, labels = dimension(
        places,
        candidate("acquisition_time", times, Tier.ACQUISITION_TIME, "time", slow=True),
        candidate("echo_time", echoes),
    )
    assert names == ["acquisition_time", "echo_time"]
    assert labels == ((times > 5) * 2 + echoes - 1).tolist()


# --- phases ---------------------------------------------------------------------------------------


def test_first_phases_within_half_a_step_of_the_usual_one_are_phases() -> None:
    # Three phases 50 ms apart.
    for shift, found in ((24.0, True), (26.0, False)):
        delays = np.tile([1000.0, 1050.0, 1100.0], 4)
        delays[3:6] += shift
        ranks = _phases(PLACES, candidate("trigger_time", delays, kind="phase"))
        assert (ranks is not None) is found
        assert ranks is None or ranks.tolist() == TIMES.tolist()


def test_other_phases_within_half_a_step_as_fractions_of_the_cycle_are_phases() -> None:
    for shift, found in ((24.0, True), (26.0, False)):
        delays = np.tile([0.0, 50.0, 100.0], 4) * np.repeat([1, 2, 1, 3], 3) + 7
        delays[4] += 2 * shift
        assert (_phases(PLACES, candidate("t", delays, kind="phase")) is not None) is found


def test_magnitude_and_velocity_share_a_phase_and_an_absent_delay_is_none() -> None:
    places, delays = np.repeat(np.arange(3), 4), np.tile([0.0, 0, 30, 30], 3)
    ranks = _phases(places, candidate("t", delays, kind="phase"))
    assert ranks is not None and ranks.tolist() == np.tile([0, 0, 1, 1], 3).tolist()
    assert _phases(places, candidate("t", 0 * delays, kind="phase")) is None
    # A position with another number of phases, and a delay that is unknown.
    fewer = delays.copy()
    fewer[-1] = 40
    assert _phases(places, candidate("t", fewer, kind="phase")) is None
    unknown = candidate("t", delays, kind="phase")
    assert unknown.numbers is not None
    unknown.numbers[0] = np.nan
    assert _phases(places, unknown) is None


# --- contradictions -------------------------------------------------------------------------------


def numbered(echoes: Any, **more: Any) -> Dimension | Tie | None:
    """Search by Instance Number, position by position, where echo times are partly known."""
    places = np.repeat(np.arange(6), 2)
    number = candidate("instance_number", np.arange(12), Tier.NUMBER, "count")
    return search(places, candidate("echo_time", echoes, **more), number)


def test_an_attribute_contradicts_an_order_if_most_positions_know_it_in_two_orders() -> None:
    unknown, forth, back = [9, 9], [0, 1], [1, 0]
    tie = Tie(("echo_time", "instance_number"))
    assert numbered(forth * 3 + back + unknown * 2) == tie
    # Known at half of the positions only, or in one order.
    assert isinstance(numbered(forth * 2 + back + unknown * 3), Dimension)
    assert isinstance(numbered(forth * 4 + unknown * 2), Dimension)
    assert isinstance(numbered(back * 4 + unknown * 2), Dimension)


def test_an_attribute_of_another_kind_or_tier_contradicts_nothing() -> None:
    echoes = [0, 1] * 3 + [1, 0] + [9, 9] * 2
    for more in ({"slow": True}, {"tier": Tier.BOOKKEEPING}, {"kind": "phase"}):
        assert isinstance(numbered(echoes, **more), Dimension)
    # With more than twice as many values as volumes it says little.
    assert isinstance(numbered([0, 1, 2, 3, 4, 0, 1, 0, 9, 9, 9, 9]), Dimension)
    assert isinstance(numbered([0, 1, 2, 3, 0, 1, 1, 0, 3, 3, 3, 3]), Tie)
