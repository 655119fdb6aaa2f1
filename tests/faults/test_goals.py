"""The table of goals: every row has tests that exist, and the page has every row."""

import re

import pytest
from faults.goals import GOALS, PAGE, Goal, exists


def test_there_are_goals_1_to_26() -> None:
    assert [goal.name for goal in GOALS] == [f"R{number}" for number in range(1, 27)]


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: goal.name)
def test_the_tests_of_a_goal_exist(goal: Goal) -> None:
    assert [test for test in goal.tests if not exists(test)] == []


def test_the_page_has_every_goal_as_it_is_told_here() -> None:
    rows = re.findall(r"^\| (R\d+) \| (.*?) \| (.*?) \|", PAGE.read_text(), re.MULTILINE)
    told = [(goal.name, goal.subject, goal.goal) for goal in GOALS]
    assert rows == told, "python tests/faults/goals.py --page"
