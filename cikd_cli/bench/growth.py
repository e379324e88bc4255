"""How speed and memory grow: a column of panels for each axis, one colour an entrant."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cikd_cli.reports.figures import FAINT, colour, new_figure, save, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Curve:
    """One entrant along one axis: its places, images a second, and bytes; None where there was no memory for it."""

    label: str
    places: Sequence[int]
    images_per_second: Sequence[float | None]
    memory: Sequence[float | None]


def plot_growth(stem: Path, axes: Sequence[tuple[str, Sequence[Curve]]], *, memory: str) -> list[Path]:
    """Images a second above, memory below, over each axis (its name and its curves); memory: how it was had.

    Batch sizes are drawn on a logarithmic axis. Returns the files written.
    """
    with style():
        from matplotlib.lines import Line2D

        figure = new_figure(3.6 * len(axes), 5.6)
        labels = list(dict.fromkeys(curve.label for _, curves in axes for curve in curves))
        for column, (name, curves) in enumerate(axes, start=1):
            rows = [figure.add_subplot(2, len(axes), place) for place in (column, column + len(axes))]
            for panel, title in zip(rows, ("images a second", f"memory, GiB ({memory})"), strict=True):
                panel.set_title(title)
                panel.set_xlabel(name)
                panel.grid(color=FAINT)
            for curve in curves:
                ink = colour(labels.index(curve.label))
                _draw(rows[0], curve.places, curve.images_per_second, ink)
                _draw(rows[1], curve.places, [x and x / 2**30 for x in curve.memory], ink)
            for panel in rows:
                _mark(panel, curves, logarithmic=name == "batch size")
        lines = [Line2D([], [], color=colour(index), marker="o", markersize=4) for index in range(len(labels))]
        figure.legend(lines, labels, loc="outside lower center", ncols=len(labels))
        return save(figure, stem)


def _draw(panel: "Axes", places: Sequence[int], values: Sequence[float | None], ink: str) -> None:
    known = [(place, value) for place, value in zip(places, values, strict=True) if value is not None]
    panel.plot([p for p, _ in known], [v for _, v in known], "o-", color=ink, markersize=4, linewidth=1.5)


def _mark(panel: "Axes", curves: Sequence[Curve], *, logarithmic: bool) -> None:
    from matplotlib.ticker import NullLocator

    places = sorted({place for curve in curves for place in curve.places})
    if logarithmic:
        panel.set_xscale("log", base=2)
        panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticks(places, [str(place) for place in places])
    panel.set_ylim(bottom=0)
