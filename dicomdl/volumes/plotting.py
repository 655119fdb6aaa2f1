"""One function that plots whatever has pictures: a volume, a stack, a group, an index."""

from typing import Any

from dicomdl.errors import UsageError
from dicomdl.index.index import Index
from dicomdl.index.views import Group, Stack, Stacks
from dicomdl.values.request import IntensityOption
from dicomdl.volumes import _figures
from dicomdl.volumes._contact_sheet import contact_sheet
from dicomdl.volumes.read import read_volume
from dicomdl.volumes.volume import Volume


def plot(what: Any, intensity: IntensityOption = "auto", **options: Any) -> Any:
    """Plot a volume, a stack, a group or an index; needs the extra `notebook`.

    Parameters
    ----------
    what
        A `Volume`, `Stack` or `Group`: its planes, as `Volume.plot`. A stack is read as it lies
        (``irregular="accept"``), and its verdict is in the title. An `Index` or its `stacks`: a
        contact sheet of middle slices with captions, one per group.
    intensity
        As for `Volume.window`.
    **options
        Those of `Volume.plot`. For a contact sheet: ``count=24``, the largest number of pictures,
        which are spread evenly over the stacks; and ``labels=``, the source of the labels of each
        stack. Each picture is then the slice with the most labels, one name has one colour, and
        stacks without labels say so.

    Returns
    -------
    matplotlib.figure.Figure
        The current figure of pyplot: ``plt.savefig`` and ``plt.show`` take it.

    Raises
    ------
    MissingExtra
        matplotlib is not installed.
    AnnotationError
        The stack has no such labels.
    UsageError
        There is nothing to plot, or another option is wrong.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> import numpy as np
    >>> import dicomdl
    >>> affine = [[0, 0, 2, 0], [0, 2, 0, 0], [5, 0, 0, 0], [0, 0, 0, 1]]
    >>> grid = dicomdl.Geometry((2, 3, 4), np.array(affine))
    >>> volume = dicomdl.Volume(np.arange(24).reshape(2, 3, 4), grid, "HU")
    >>> figure = dicomdl.plot(volume, (12, 24))
    >>> [axes.get_title() for axes in figure.axes]
    ['axial slice 1', 'coronal row 1', 'sagittal column 2']
    """
    if isinstance(what, Volume):
        return what.plot(intensity, **options)
    if isinstance(what, Stack | Group):
        return read_volume(what, irregular="accept").plot(intensity, **options)
    if isinstance(what, Index | Stacks):
        return contact_sheet(what.stacks if isinstance(what, Index) else what, intensity, **options)
    raise UsageError(
        f"plot takes a Volume, Stack, Group, Index or stacks, not {type(what).__name__}"
    )


def view(
    what: Volume | Stack | Group, intensity: IntensityOption = "auto", *, labels: Any = None
) -> Any:
    """Show one plane at a time in a notebook, with sliders; needs the extra `notebook`.

    ``dicomdl view INDEX`` shows stacks in the browser without a notebook.

    Parameters
    ----------
    what
        A `Volume`; or a `Stack` or `Group`, which is read as it lies (``irregular="accept"``).
    intensity
        As for `Volume.window`.
    labels
        As for `Volume.plot`, such as "SEG".

    Returns
    -------
    ipywidgets.Widget
        The plane and the controls: the slice, the plane, and the time point of a group.

    Raises
    ------
    MissingExtra
        ipywidgets or matplotlib is not installed.
    AnnotationError
        The stack has no such labels.
    UsageError
        It is none of these.
    """
    if isinstance(what, Stack | Group):
        what = read_volume(what, irregular="accept")
    if not isinstance(what, Volume):
        raise UsageError(f"view takes a Volume, Stack or Group, not {type(what).__name__}")
    return what.view(intensity, labels=labels)


def new_figure(feature: str) -> Any:
    """Return an empty figure that pyplot registers, and that a notebook shows once.

    Raises
    ------
    MissingExtra
        matplotlib is not installed; `feature` is what needs it.
    """
    return _figures.new_figure(_figures.pyplot(feature))
