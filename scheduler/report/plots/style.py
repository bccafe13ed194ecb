"""How every picture looks: colours that survive colour blindness and grey print, one font, units, files.

Nothing here reads the user's matplotlibrc or the clock: the same figure gives the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from scheduler.files import replacing
from scheduler.report.views import View

Parameters = ParamSpec("Parameters")
PNG_DPI = 130

# Okabe and Ito's palette; the lightness of neighbours differs, so grey prints keep them apart.
EAGER = "#444444"
EAGERS: tuple[tuple[str, Any], ...] = (
    (EAGER, "--"),
    ("#8A8A8A", (0, (5, 1.5, 1, 1.5))),
    ("#000000", (0, (2, 1))),
)
POOLS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
MARKERS = ("", "o", "s", "^", "D")
GRAPH, NO_GRAPH, OTHER, PADDING = "#0072B2", "#E69F00", "#BBBBBB", "#A9D3EE"
LIMIT = "#222222"
WAITING = "#D55E00"

# How a line or a patch is drawn, in matplotlib's words.
Style = dict[str, Any]

RC: Style = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "axes.labelsize": 9.5,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titley": 1.0,  # where it stands anyway: else every title asks its panel for its ticks' extent
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.7,
    "hatch.linewidth": 0.6,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "lines.linewidth": 1.7,
    "path.simplify": True,
    "path.simplify_threshold": 0.2,
    "svg.fonttype": "none",
    "svg.hashsalt": "graphpool",
    "text.parse_math": False,
    "xtick.color": "#444444",
    "xtick.labelsize": 9,
    "ytick.color": "#444444",
    "ytick.labelsize": 9,
}

_TEXT_SIZES = (
    "axes.labelsize",
    "axes.titlesize",
    "font.size",
    "legend.fontsize",
    "xtick.labelsize",
    "ytick.labelsize",
)


_TEXT_SIZES = (
    "axes.labelsize",
    "axes.titlesize",
    "font.size",
    "legend.fontsize",
    "xtick.labelsize",
    "ytick.labelsize",
)


class Look(NamedTuple):
    """How a variant's lines are drawn, the same in every picture."""

    color: str
    linestyle: Any
    marker: str
    width: float = 1.7


def styled(draw: Callable[Parameters, Figure]) -> Callable[Parameters, Figure]:
    """Run a drawing function with our settings alone."""

    @wraps(draw)
    def drawn(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Figure:
        with matplotlib.rc_context():
            apply_style()
            figure = draw(*args, **kwargs)
            _fix_layout(figure)
            return figure

    return drawn


def _fix_layout(figure: Figure) -> None:
    """Lay out once and round: the solver's last digits vary from call to call, and so would the bytes."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
    figure.set_layout_engine("none")
    for ax in figure.get_axes():
        left, bottom, width, height = ax.get_position().bounds
        ax.set_position((round(left, 5), round(bottom, 5), round(width, 5), round(height, 5)))


def apply_style(text: float | None = None) -> None:
    """Make our settings the only ones; `text` is the size of all text, instead of each its own."""
    matplotlib.rcdefaults()
    settings: Any = matplotlib.rcParams  # its keys are literals in the type hints of some releases
    settings.update(RC)
    if text is not None:
        settings.update(dict.fromkeys(_TEXT_SIZES, text))


class Margins(NamedTuple):
    """Room around and between panels, in inches: for labels, titles, and a legend of one line on top."""

    left: float = 0.85
    right: float = 0.15
    top: float = 0.72
    bottom: float = 0.55
    across: float = 0.3
    down: float = 0.45


MARGINS = Margins()


def panels_of(
    width_in: float,
    height_in: float,
    rows: int = 1,
    columns: int = 1,
    margins: Margins = MARGINS,
    **options: Any,
) -> tuple[Figure, Any]:
    """Return a figure and its panels (rows × columns), with fixed room for words: nothing is solved for.

    `options` are those of `Figure.subplots`.
    """
    figure = Figure(figsize=(width_in, height_in))
    FigureCanvasAgg(figure)
    free_w = width_in - margins.left - margins.right - margins.across * (columns - 1)
    free_h = height_in - margins.top - margins.bottom - margins.down * (rows - 1)
    spacing = {
        "left": margins.left / width_in,
        "right": 1 - margins.right / width_in,
        "top": 1 - margins.top / height_in,
        "bottom": margins.bottom / height_in,
        "wspace": margins.across * columns / free_w,
        "hspace": margins.down * rows / free_h,
    }
    return figure, figure.subplots(rows, columns, squeeze=False, gridspec_kw=spacing, **options)


def legend_on_top(figure: Figure, handles: Sequence[Any], labels: Sequence[str], columns: int = 0) -> None:
    """Place a legend above all panels, as many entries in a line as fit."""
    figure.legend(
        handles=handles,
        labels=labels,
        loc="upper center",
        bbox_to_anchor=(0.5, 1.0),
        borderaxespad=0.2,
        ncols=columns or legend_columns(labels, figure.get_figwidth()),
    )


def new_figure(width_in: float, height_in: float) -> Figure:
    """Return an empty figure whose panels are spaced by what they contain, which takes a while to solve."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    layout: Any = figure.get_layout_engine()
    layout.set(w_pad=0.08, h_pad=0.06, wspace=0.03, hspace=0.04)
    return figure


def looks(views: Sequence[View]) -> dict[str, Look]:
    """Return each variant's look by name: eager dark and dashed, pools solid, told apart by markers too."""
    found: dict[str, Look] = {}
    pools = eagers = 0
    for view in views:
        if view.low_name is not None:
            continue
        if view.is_eager:
            color, dashes = EAGERS[eagers % len(EAGERS)]  # several where saved runs are overlaid
            found[view.name] = Look(color, dashes, "")
            eagers += 1
        else:
            # Each pool is thinner than the one below it, so that equal lines all show.
            width = max(1.1, 2.6 - 0.6 * pools)
            found[view.name] = Look(POOLS[pools % len(POOLS)], "-", MARKERS[pools % len(MARKERS)], width)
            pools += 1
    for view in views:
        if view.low_name is not None:
            low = found.get(view.low_name, Look(OTHER, "-", ""))
            found[view.name] = Look(low.color, ":", low.marker)
    return found


def legend_columns(labels: Sequence[str], width_in: float) -> int:
    """Return how many legend entries fit beside each other in a figure of this width."""
    longest = max((len(label) for label in labels), default=0)
    return max(1, min(len(labels), int(11.5 * width_in / (longest + 9))))


def number(value: float) -> str:
    """Return a tick label: 0.5, 20, 3,000."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def log_axis(ax: Axes, which: str, low: float, high: float) -> None:
    """Make an axis logarithmic with plain numbers at 1 (2 5) steps, as many as are readable."""
    axis = ax.xaxis if which == "x" else ax.yaxis
    low, high = low * 0.94, high * 1.06
    if which == "x":
        ax.set_xscale("log")
        ax.set_xlim(low, high)
    else:
        ax.set_yscale("log")
        ax.set_ylim(low, high)
    axis.set_major_locator(FixedLocator(log_ticks(low, high)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axis.set_minor_formatter(NullFormatter())


def log_ticks(low: float, high: float) -> list[float]:
    """Return up to six round numbers in [low, high], four where they are long, for a logarithmic axis."""
    most = 6 if high < 10_000 else 4
    every = [float(f"{digit}e{power}") for power in range(-9, 13) for digit in range(1, 10)]
    for digits in ("123456789", "12468", "125", "13", "1"):
        ticks = [tick for tick in every if low <= tick <= high and f"{tick:e}"[0] in digits]
        if len(ticks) <= most:
            return ticks if len(ticks) > 1 else [low / 0.94, *ticks, high / 1.06]
    return ticks[:: -(-len(ticks) // most)]


def percent_axis(ax: Axes) -> None:
    """Label the y axis of shares 0 … 1 in percent."""
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically and without a date."""
    with replacing(path) as temporary, matplotlib.rc_context():
        apply_style()
        # The canvas itself: `savefig` would draw everything once more, for a layout that is fixed by now.
        figure.set_dpi(PNG_DPI)
        canvas: Any = FigureCanvasAgg(figure)
        canvas.print_png(temporary, metadata={"Software": None})


_PROLOG = re.compile(r"^.*?(?=<svg )", re.DOTALL)
_METADATA = re.compile(r"\s*<metadata>.*?</metadata>", re.DOTALL)
# Names such as figure_1 repeat from picture to picture and nothing refers to them.
_NAMES = re.compile(r' id="[a-zA-Z0-9]+_[0-9]+"')
# A hundredth of a point is finer than any screen.
_PATH = re.compile(r'(?<= d=")[^"]*')
_LONG = re.compile(r"-?[0-9]+\.[0-9]{3,}")
# A page says what a colour is in light and in dark; where it does not, the colour is the one drawn.
_INK = re.compile(r"#[0-9a-f]{6}(?=[;\"])")
_INKS = {
    "#0072b2": "blue",
    "#d55e00": "vermilion",
    "#009e73": "green",
    "#cc79a7": "pink",
    "#e69f00": "orange",
    "#a9d3ee": "pale",
    "#bbbbbb": "silver",
    "#8a8a8a": "grey",
    "#444444": "dark",
    "#222222": "strong",
    "#666666": "edge",
    "#e3e3e3": "grid",
}
_SIZE = re.compile(r'(<svg [^>]*?) (?:width|height)="[^"]*"')


def to_svg(figure: Figure, title: str = "") -> str:
    """Return a figure as an SVG element to place inside HTML: no prolog, metadata or fixed size.

    Its colours are CSS variables (`--blue`, …) that fall back to themselves.

    `title` is what a screen reader says.
    """
    text = io.StringIO()
    with matplotlib.rc_context():
        apply_style()
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(text, metadata={"Date": None, "Creator": None})
    svg = _METADATA.sub("", _PROLOG.sub("", text.getvalue()))
    svg = _SIZE.sub(r"\1", _SIZE.sub(r"\1", _NAMES.sub("", svg), count=1), count=1)
    svg = _PATH.sub(lambda path: _LONG.sub(lambda value: f"{float(value[0]):.2f}", path[0]), svg)
    svg = _INK.sub(lambda ink: f"var(--{_INKS[ink[0]]}, {ink[0]})" if ink[0] in _INKS else ink[0], svg)
    safe = title.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{safe}" ', 1)
