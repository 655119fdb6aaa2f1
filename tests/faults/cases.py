"""The table of cases: hand-made files, each with exactly one outcome (see `case`).

Series of several files, each in order by itself, are cases of `phantoms_defects`.
"""

from faults import cases_container, cases_pixels, cases_values
from faults.case import Case

GROUPS: dict[str, tuple[Case, ...]] = {
    **cases_container.CASES,
    **cases_pixels.CASES,
    **cases_values.CASES,
}
CASES = {case.name: case for group in GROUPS.values() for case in group}
