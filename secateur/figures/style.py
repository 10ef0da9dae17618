"""How all pictures look, whatever the user's own settings are, and their bytes."""

import io
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Record = Mapping[str, Any]
"""One JSON object of the API."""
Parameters = ParamSpec("Parameters")
Made = TypeVar("Made")

STYLE: Final[dict[str, Any]] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
}
DPI: Final = 150
GAIN, FORGET, SHARE = "RdBu_r", "YlOrRd", "viridis"
"""Colour maps: either side of a middle; good to bad; from nothing to much."""
NOTHING: Final = "#dddddd"
"""Where nothing was measured."""


def styled(draw: Callable[Parameters, Made]) -> Callable[Parameters, Made]:
    """Draw with this module's settings alone."""

    @wraps(draw)
    def within(*arguments: Parameters.args, **named: Parameters.kwargs) -> Made:
        with style.context(["default", STYLE]):
            return draw(*arguments, **named)

    return within


@styled
def png(figure: Figure) -> bytes:
    """A figure's bytes; the same figure gives the same ones."""
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=DPI, metadata={"Software": None})
    return written.getvalue()


def canvas(width: float, height: float) -> Figure:
    """An empty figure in inches, which needs no display."""
    figure = Figure(figsize=(min(max(width, 3.5), 18), min(max(height, 2.2), 18)))
    FigureCanvasAgg(figure)
    return figure


def empty(words: str) -> Figure:
    """A picture that says why there is none."""
    figure = canvas(5, 2.2)
    axes = figure.add_subplot()
    axes.axis("off")
    axes.text(0.5, 0.5, words, ha="center", va="center", wrap=True, color="#555555")
    return figure


def whole_ticks(axes: Axes, numbers: Iterable[int], *, most: int = 20) -> None:
    """Ticks of the horizontal axis at blocks, no more than can be read."""
    found = list(numbers)
    step = max(1, -(-len(found) // most))
    axes.set_xticks(range(0, len(found), step), [str(each) for each in found[::step]])


def known(values: Iterable[Any]) -> list[float]:
    """Those that are not null."""
    return [float(value) for value in values if value is not None]


def mean(values: Iterable[Any]) -> float:
    """Of those that are not null; NaN where there is none."""
    found = known(values)
    return sum(found) / len(found) if found else float("nan")
