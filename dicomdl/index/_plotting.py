"""The method `plot` of an index and its views.

Pictures are made by `volumes`, above this package, so that the method goes through the public
function, at its call.
"""

from typing import Any


class Plotted:
    """An object that `dicomdl.plot` takes."""

    __slots__ = ()

    def plot(self, intensity: Any = "auto", **options: Any) -> Any:
        """Plot with matplotlib, as `dicomdl.plot` does.

        A stack or a group shows its planes, as `Volume.plot`; an index or several stacks show a
        contact sheet.

        Parameters
        ----------
        intensity, **options
            Those of `dicomdl.plot`.

        Returns
        -------
        matplotlib.figure.Figure
            The current figure of pyplot.
        """
        import dicomdl

        return dicomdl.plot(self, intensity, **options)
