"""Methods of an index and its views that are public functions of the packages above this one.

Pictures are made by `volumes`, files by `jobs`. Such a method is the function of its name, had from
`dicomdl` at its first use, with the object as first argument.
"""

import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import dicomdl


class PublicFunction:
    """A method that is the public function of its name: ``help(Index.convert)`` documents it.

    Type checkers are told the function itself, so that they know its signature.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        import dicomdl

        function = getattr(dicomdl, self._name)
        return function if instance is None else types.MethodType(function, instance)


class Plotted:
    """An object that `dicomdl.plot` takes."""

    __slots__ = ()

    if TYPE_CHECKING:
        plot = dicomdl.plot
        """Plot with matplotlib: `dicomdl.plot` with this object as its first argument.

        A stack or a group shows its planes, as `Volume.plot`; an index or several stacks show a
        contact sheet.
        """
    else:
        plot = PublicFunction()


class Viewed:
    """An object that `dicomdl.view` takes."""

    __slots__ = ()

    if TYPE_CHECKING:
        view = dicomdl.view
        """Show one plane at a time in a notebook: `dicomdl.view` of this object."""
    else:
        view = PublicFunction()


class Worked:
    """An index that whole jobs take."""

    if TYPE_CHECKING:
        convert = dicomdl.convert
        """Write every stack or group as a file: `dicomdl.convert` of this index."""
        export = dicomdl.export
        """Write the samples for another program: `dicomdl.export` of this index."""
        report = dicomdl.report
        """Write one page with pictures of every stack: `dicomdl.report` of this index."""
    else:
        convert = PublicFunction()
        report = PublicFunction()
        export = PublicFunction()
