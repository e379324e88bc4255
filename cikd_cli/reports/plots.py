"""The pictures of a run, from plain values, each as PNG and SVG."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cikd_cli.reports.figures import FAINT, INK, colour, colour_bar, grid_of_axes, new_figure, safe_text, save, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ANNOTATED = 20  # classes up to which a confusion matrix has room for numbers
LABELLED = 250  # classes up to which each gets its name
LINES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")

Series = Sequence[tuple[float, float]]  # (epoch, value)


@dataclass(frozen=True)
class Distances:
    """Attention distances of one network: label, and px per head per block."""

    label: str
    blocks: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Similarity:
    """CKA of one student with the teacher: label, (student points, teacher points), and its matched-layer curve."""

    label: str
    matrix: Sequence[Sequence[float]]
    diagonal: Sequence[float]


@dataclass(frozen=True)
class History:
    """One training run: label, each loss term by epoch, and each accuracy (in percent) by epoch."""

    label: str
    losses: Mapping[str, Series]
    accuracies: Mapping[str, Series] = field(default_factory=dict)


def plot_mad(stem: Path, runs: Sequence[Distances], *, uniform: float | None = None) -> list[Path]:
    """One dot per head per block, a line through the block means, one colour per run; px from 0.

    stem: path without extension. uniform: the distance of a head that looks everywhere alike, drawn as a dashed line.
    Returns the files written.
    """
    with style():
        depth = max(len(run.blocks) for run in runs)
        figure = new_figure(max(6.4, 0.62 * depth + 1.6), 4.2)
        axes = figure.add_subplot()
        step = min(0.22, 0.7 / len(runs))
        for index, run in enumerate(runs):
            ink = colour(index)
            shift = (index - (len(runs) - 1) / 2) * step
            places = [block + shift for block, heads in enumerate(run.blocks, start=1) for _ in heads]
            values = [value for heads in run.blocks for value in heads]
            means = [float(np.mean(heads)) for heads in run.blocks]
            axes.plot(np.arange(1, len(means) + 1) + shift, means, color=ink, linewidth=1.2, alpha=0.55, zorder=2)
            axes.scatter(
                places, values, s=26, color=ink, alpha=0.8, linewidths=0, label=safe_text(run.label, 40), zorder=3
            )
        if uniform is not None:
            axes.axhline(uniform, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), label="uniform attention", zorder=1)
        axes.set(xlabel="block", ylabel="mean attention distance (px)", xlim=(0.4, depth + 0.6))
        axes.set_xticks(range(1, depth + 1))
        most = max(value for run in runs for heads in run.blocks for value in heads)
        axes.set_ylim(0, 1.06 * max(most, uniform or 0.0) or 1.0)  # so that the highest dot is not cut
        axes.set_title("How far each head looks (line: mean of the block's heads)")
        axes.grid(axis="y", color=FAINT)
        figure.legend(loc="outside lower center", ncols=min(3, len(axes.get_legend_handles_labels()[0])))
        return save(figure, stem)


def plot_cka(stem: Path, students: Sequence[Similarity], *, teacher: str) -> list[Path]:
    """A heatmap per student (its layers up, the teacher's across), and all matched-layer curves beside them.

    Layers count from 1; the last one is the final norm. Returns the files written.
    """
    with style():
        figure, axes = grid_of_axes(len(students) + 1, width=4.6, height=4.2)
        heat: dict[str, Any] = {"origin": "lower", "aspect": "auto", "cmap": "magma", "vmin": 0, "vmax": 1}
        for panel, run in zip(axes, students, strict=False):
            image = panel.imshow(np.array(run.matrix, dtype=float), **heat)
            panel.set_box_aspect(1)  # a square, though the depths may differ
            panel.set_title(f"CKA, {safe_text(run.label, 38)}")
            panel.set(xlabel=f"layer of {safe_text(teacher, 34)}", ylabel="layer of the student")
            panel.set_xticks(range(len(run.matrix[0])), _layer_names(len(run.matrix[0])))
            panel.set_yticks(range(len(run.matrix)), _layer_names(len(run.matrix)))
            panel.tick_params(length=0, labelsize=8)
            colour_bar(panel, image, gap=0.03, thickness=0.035)
        curve = axes[-1]
        for index, run in enumerate(students):
            places = np.linspace(0, 1, len(run.diagonal))
            label = safe_text(run.label, 38)
            curve.plot(places, run.diagonal, "o-", color=colour(index), markersize=4, linewidth=1.5, label=label)
        lowest = min(0.0, *(value for run in students for value in run.diagonal))  # an estimate may be negative
        longest = max(len(run.diagonal) for run in students)
        curve.set_xticks(np.linspace(0, 1, longest), _layer_names(longest))
        curve.set(xlabel="layer of the student", ylabel="CKA with the matched teacher layer", ylim=(lowest, 1.02))
        curve.set_title("Matched layers")
        curve.set_box_aspect(1)
        curve.tick_params(labelsize=8)
        curve.grid(color=FAINT)
        if len(students) > 1:
            curve.legend(loc="lower left", fontsize=8)
        return save(figure, stem)


def plot_confusion(stem: Path, confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> list[Path]:
    """Rows: true class; columns: what it was taken for, in percent of the row. Returns the files written.

    Up to 20 classes the cells carry numbers; the picture grows with the classes, so names stay readable when zoomed. A
    row without images stays blank.
    """
    with style():
        from matplotlib.colors import PowerNorm
        from matplotlib.ticker import PercentFormatter

        counts = np.array(confusion, dtype=float)
        sums = counts.sum(axis=1, keepdims=True)
        shares = np.divide(100 * counts, sums, out=np.full_like(counts, np.nan), where=sums > 0)
        n = len(classes)
        names = [safe_text(name, 32) for name in classes]
        side = n * _cell_side(n)
        font = 9 if n <= ANNOTATED else min(8.0, 58 * side / n)
        margin = 0.6 + 0.0083 * font * max(map(len, names))  # inches: axis label and the longest name
        figure = new_figure(side + margin + 0.9, side + margin + 0.3)
        axes = figure.add_subplot()
        image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 100), interpolation="nearest")
        _name_classes(axes, names, font=font)
        large = max(1.0, side / 7)  # the words beside a large matrix are larger
        axes.set_xlabel("taken for", fontsize=9 * large)
        axes.set_ylabel("true class", fontsize=9 * large)
        axes.set_title("Confusion, % of each true class", fontsize=10 * large)
        if n <= ANNOTATED:
            _write_cells(axes, shares)
        bar = colour_bar(axes, image, gap=0.12 / side, thickness=0.14 * large / side, form=PercentFormatter(decimals=0))
        bar.set_yticks([0, 5, 25, 50, 75, 100])
        bar.tick_params(labelsize=8 * large)
        return save(figure, stem)


def plot_curves(stem: Path, runs: Sequence[History]) -> list[Path]:
    """Learning curves: one panel per loss term and one for the accuracies, one colour per run.

    Returns the files written. Several accuracies of a run (test, validation) differ by line style.
    """
    with style():
        from matplotlib.lines import Line2D
        from matplotlib.ticker import MaxNLocator

        terms = list(dict.fromkeys(term for run in runs for term in run.losses))
        kinds = list(dict.fromkeys(kind for run in runs for kind in run.accuracies))
        figure, axes = grid_of_axes(max(1, len(terms) + bool(kinds)), width=4.1, height=3.2)
        for panel, term in zip(axes, terms, strict=False):
            panel.set_title(f"loss: {safe_text(term, 30)}")
            for index, run in enumerate(runs):
                _curve(panel, run.losses.get(term, ()), colour(index))
        if kinds:
            images = " and ".join(dict.fromkeys(kind.partition("_")[0] for kind in kinds))
            axes[-1].set_title(safe_text(f"accuracy on {images} images (%)", 60))
            for index, run in enumerate(runs):
                for kind, series in run.accuracies.items():
                    _curve(axes[-1], series, colour(index), LINES[kinds.index(kind) % len(LINES)])
        if len(kinds) > 1:
            styles = [Line2D([], [], color=INK, linestyle=LINES[index % len(LINES)]) for index in range(len(kinds))]
            axes[-1].legend(styles, [safe_text(kind, 30) for kind in kinds], loc="lower right")
        for panel in axes:
            panel.set_xlabel("epoch")
            panel.grid(color=FAINT)
            panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        lines = [Line2D([], [], color=colour(index)) for index in range(len(runs))]
        labels = [safe_text(run.label, 40) for run in runs]
        figure.legend(lines, labels, loc="outside lower center", ncols=min(len(axes), len(runs)))
        return save(figure, stem)


def _curve(axes: "Axes", series: Series, ink: str, line: str = "-") -> None:
    epochs, values = [epoch for epoch, _ in series], [value for _, value in series]
    marker = "o" if len(series) <= 25 else None
    axes.plot(epochs, values, color=ink, linestyle=line, marker=marker, markersize=3, linewidth=1.5)


def _cell_side(classes: int) -> float:
    """Inches of one cell: room for a number up to 20 classes, for a line of small print up to 250."""
    if classes <= 6:
        return max(0.62, 2.6 / classes)
    if classes <= ANNOTATED:
        return 0.42
    return max(0.105, 14 / classes) if classes <= LABELLED else 26 / classes


def _name_classes(axes: "Axes", names: Sequence[str], *, font: float) -> None:
    n = len(names)
    few = n <= ANNOTATED
    every = 1 if n <= LABELLED else math.ceil(n / 100)
    slanted = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if n <= 6 else {"rotation": 90}
    axes.set_xticks(range(0, n, every), names[::every], fontsize=font, **slanted)
    axes.set_yticks(range(0, n, every), names[::every], fontsize=font)
    axes.tick_params(length=2 if few else 0, pad=2)
    axes.set_xticks(np.arange(1, n) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, n) - 0.5, minor=True)
    axes.grid(which="minor", color=FAINT, linewidth=0.8 if few else 0.25)
    axes.tick_params(which="minor", length=0)


def _write_cells(axes: "Axes", shares: NDArray[np.float64]) -> None:
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.5:  # rounds to at least 1 %
            ink = "white" if share > 35 else INK
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=ink, fontsize=8.5)


def _layer_names(count: int) -> list[str]:
    """1, 2, ..., norm; every other one where there is no room."""
    names = [*map(str, range(1, count)), "norm"]
    every = math.ceil(count / 16)
    shown = [name if index % every == 0 else "" for index, name in enumerate(names)]
    return [*shown[:-1], "norm"]
