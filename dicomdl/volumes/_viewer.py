"""A viewer for notebooks: one plane at a time, by sliders."""

from collections.abc import Callable
from typing import Any

from dicomdl.extras import import_extra
from dicomdl.values.request import IntensityOption
from dicomdl.volumes._facts import VolumeFacts
from dicomdl.volumes._figures import png_of, pyplot, subject_of
from dicomdl.volumes._planes import middle_of, native_view


def viewer_of(volume: VolumeFacts, intensity: IntensityOption, labels: Any) -> Any:
    """Return a widget with sliders for the slice and the time point, and a choice of the plane.

    Raises
    ------
    MissingExtra
        ipywidgets or matplotlib is not installed.
    """
    widgets = import_extra("ipywidgets", "Volume.view()", "notebook")
    pyplot("Volume.view()")
    subject = subject_of(volume, intensity, labels)
    names = list(subject.views)
    shape, times = volume.geometry.shape, len(volume.dimension)
    t = times // 2 if times else None
    middle = middle_of(shape, None if subject.overlay is None else subject.overlay.at(t))
    plane = widgets.Dropdown(
        options=names, value=native_view(subject.views).name, description="plane"
    )
    number = widgets.IntSlider(description="slice", min=0)
    time = widgets.IntSlider(value=t or 0, min=0, max=max(times - 1, 0), description="t")
    image = widgets.Image(format="png")

    def redraw(_: Any = None) -> None:
        view = subject.views[plane.value]
        panel = subject.panel(view, number.value, time.value if times else None)
        image.value = png_of(subject, [panel])

    def turn(_: Any = None) -> None:
        axis = subject.views[plane.value].axis
        # The new value must be in the range at each step.
        number.max = max(number.max, shape[axis] - 1)
        number.value = middle[axis]
        number.max = shape[axis] - 1

    turn()
    redraw()
    _observe(plane, turn, redraw)
    _observe(number, redraw)
    _observe(time, redraw)
    controls = [plane] * (len(names) > 1) + [number] * (max(shape) > 1) + [time] * (times > 1)
    return widgets.VBox([widgets.HBox(controls), image])


def _observe(control: Any, *actions: Callable[[Any], None]) -> None:
    for action in actions:
        control.observe(action, names="value")
