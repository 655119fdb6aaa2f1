"""Pairing: several images of one patient or study, chosen by rules on the columns of stacks.

The choice is made on columns alone: it reads no pixels, and makes no object per stack. An ambiguous
choice is listed with its stacks, and never made silently.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

from dicomdl.errors import UsageError
from dicomdl.index._conditions import nearest
from dicomdl.index._pairing_cases import paired
from dicomdl.index._pairing_columns import PREFERENCES
from dicomdl.index.given import Indexed, as_index
from dicomdl.index.pairs import Pairs
from dicomdl.index.views import Stack
from dicomdl.printing import printable

By = Literal["patient", "study", "series", "group"]
LEVELS: Final[tuple[By, ...]] = get_args(By)
# A condition of a shell, conditions of `Index.select`, a function of a stack, or several of these.
Rule: TypeAlias = str | Mapping[str, Any] | Callable[[Stack], Any] | Sequence["Rule"]
# A name of `PREFERENCES`, a score of a stack, or several of these.
Preference: TypeAlias = str | Callable[[Stack], float] | Sequence["Preference"]


@dataclass(frozen=True, slots=True)
class Pairing:
    """Images that belong together, such as T1 and FLAIR of a study, or CT and PET of a patient.

    A case has one stack per role. The first role is the target: datasets bring the other images
    onto its grid (see `VolumeDataset`).

    Parameters
    ----------
    roles
        A rule per role. A rule is a condition as of ``dicomdl show --where``, such as
        ``"series_description ~ '*t1*'"`` or ``"echo_time<20"``; a dict with the conditions of
        `Index.select`, such as ``{"modality": "MR", "dimension": {"echo_time": 4.9}}``; a function
        of a `Stack`, which is called for each stack that meets the other conditions; or a list of
        these, which must all be met. A stack meets a condition if all its slices do.
    by
        The level at which images are paired: "patient", "study", "series" or "group" (stacks on one
        grid, see `Group`). A blank PatientID is replaced by the Study Instance UID, a blank Study
        Instance UID by that of the Series, as in `Index.split`.
    optional
        The roles that a case may lack; not the first.
    same
        The column, or several, that has one value within a case. A patient or study with several
        values gives several cases. A blank value pairs with nothing. By default the images of a
        case have one Frame of Reference UID: their coordinates are those of one scanner and
        position. Pass None for images that were registered to each other, although their UIDs
        differ.
    prefer
        The choice among several stacks of a role. "most_slices", "fewest_slices",
        "thinnest_slices" (slice spacing), "smallest_voxels", "first_series", "last_series" (Series
        Number), "first" or "last" (order of the index); a function from a `Stack` to a score, of
        which the highest is taken; a tuple of these, of which each decides among the best of the
        one before; or a dict with one per role. Without it, and where stacks are equal by it, the
        case is left out and listed.

    Raises
    ------
    UsageError
        There is no role, an option does not exist, or two roles have the same rule.

    Examples
    --------
    >>> from dicomdl import Pairing
    >>> Pairing({"T1": "series_description ~ '*t1*'", "FLAIR": "series_description ~ '*flair*'"})
    Pairing(T1, FLAIR by study, same frame_of_reference_uid)
    >>> Pairing({"CT": {"modality": "CT"}, "PET": {"modality": "PT"}}, prefer="most_slices")
    Pairing(CT, PET by study, same frame_of_reference_uid, prefer='most_slices')
    """

    roles: Mapping[str, Rule]
    by: By = "study"
    optional: tuple[str, ...] = ()
    same: tuple[str, ...] | str | None = "frame_of_reference_uid"
    prefer: Preference | Mapping[str, Preference] | None = None

    def __post_init__(self) -> None:
        for name, value in (
            ("roles", _checked_roles(self.roles)),
            ("optional", _as_names(self.optional)),
            ("same", _as_names(self.same)),
        ):
            object.__setattr__(self, name, value)
        if self.by not in LEVELS:
            raise UsageError(f"by={self.by!r}: expected one of {', '.join(LEVELS)}", by=self.by)
        self.require_roles(self.optional, "optional")
        if self.names[0] in self.optional:
            raise UsageError(
                f"the first role, {self.names[0]!r}, gives the grid of a case: it cannot be "
                "optional"
            )
        if isinstance(self.prefer, Mapping):
            self.require_roles(self.prefer, "prefer")
        for role in self.names:
            for preference in self.preferences_of(role):
                _require_preference(preference)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the roles; the first is the target."""
        return tuple(self.roles)

    def preferences_of(self, role: str) -> tuple[Any, ...]:
        """Return the names and functions that choose among several stacks of `role`, in order."""
        given = self.prefer.get(role) if isinstance(self.prefer, Mapping) else self.prefer
        if given is None:
            return ()
        return (given,) if isinstance(given, str) or callable(given) else tuple(given)

    def require_roles(self, given: Iterable[str], option: str) -> None:
        """Raise UsageError unless `given`, the roles in an `option`, are roles of the pairing."""
        for role in given:
            if role not in self.names:
                near = nearest(str(role), self.names)
                hint = f"; did you mean {near!r}?" if near else ""
                raise UsageError(
                    f"{option}: there is no role {role!r} of {', '.join(self.names)}{hint}"
                )

    def pairs(self, index: Indexed) -> Pairs:
        """Return the cases of an index, and what does not pair, with the reasons.

        Parameters
        ----------
        index
            An index, its path, or stacks of one. Stacks count of which every slice is selected.

        Returns
        -------
        Pairs
            The numbers of the stacks per case and role. It prints as a table.

        Raises
        ------
        UsageError
            A rule names a column that does not exist, or meets no stack at all.
        """
        return paired(as_index(index, "pairs"), self)

    def __hash__(self) -> int:
        # Rules may be unhashable; equal pairings have equal names.
        return hash((self.names, self.by, self.optional, self.same))

    def __repr__(self) -> str:
        options = [f"{', '.join(self.names)} by {self.by}"]
        if self.optional:
            options.append(f"optional {', '.join(self.optional)}")
        options.append(f"same {', '.join(self.same)}" if self.same else "same=None")
        if self.prefer is not None:
            options.append(f"prefer={self.prefer!r}")
        return printable(f"Pairing({', '.join(options)})")


def _checked_roles(roles: Any) -> dict[str, Rule]:
    """Return the roles as a dict of its own, checked."""
    if not isinstance(roles, Mapping) or not roles:
        raise UsageError(
            "roles: expected a dict with a rule per role, such as "
            "{'T1': \"series_description ~ '*t1*'\", 'FLAIR': {'series_description': '*flair*'}}"
        )
    given = dict(roles)
    for role, rule in given.items():
        if not (isinstance(role, str) and role):
            raise UsageError(f"the name of a role is a text, not {role!r}")
        _require_rule(role, rule)
    names = list(given)
    for number, role in enumerate(names):
        for other in names[:number]:
            if given[role] == given[other]:
                raise UsageError(
                    f"the roles {other!r} and {role!r} have the same rule: no stack can be both"
                )
    return given


def _require_rule(role: str, rule: Any) -> None:
    several = isinstance(rule, Sequence) and not isinstance(rule, str | bytes)
    if several and len(rule):
        for each in rule:
            _require_rule(role, each)
    elif not (isinstance(rule, str | Mapping) or callable(rule)) or (
        isinstance(rule, Mapping) and not rule
    ):
        raise UsageError(
            f'the rule of {role!r}: expected a condition such as "modality=CT", a dict of them, '
            f"a function of a stack, or a list of these, not {rule!r}"
        )


def _as_names(given: Any) -> tuple[str, ...]:
    if given is None:
        return ()
    return (given,) if isinstance(given, str) else tuple(given)


def _require_preference(preference: Any) -> None:
    if callable(preference) or preference in PREFERENCES:
        return
    near = nearest(str(preference), PREFERENCES)
    hint = f"; did you mean {near!r}?" if near else ""
    raise UsageError(
        f"prefer={preference!r}: expected a function of a stack, or one of "
        f"{', '.join(PREFERENCES)}{hint}"
    )
