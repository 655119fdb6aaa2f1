"""The figure that pyplot registers, which a notebook shows once. Imports matplotlib."""

import matplotlib
from matplotlib import pyplot
from matplotlib.figure import Figure


class PlotFigure(Figure):
    """A figure of pyplot, so that `savefig` and `show` find it.

    A notebook would show it twice: as the value of its cell, and with all open figures at the end
    of the cell. The first closes it for the second.
    """

    def _ipython_display_(self) -> None:
        if "inline" in matplotlib.get_backend():
            pyplot.close(self)
        # IPython then shows it as any other figure.
        raise NotImplementedError
