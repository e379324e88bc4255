"""Pictures: both formats, the same bytes each time, and names as they are."""

import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from cikd_cli.reports.plots import Distances, History, Similarity, plot_cka, plot_confusion, plot_curves, plot_mad

NAMES = ["$x_1^2$", "lily_of_the_valley", "<b>&amp;</b>", "三色堇", "new\nline \x07\udcff"]


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def texts(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def draw_all(folder: Path) -> list[Path]:
    heads = [[30.0, 50.0], [40.0], [60.0, 70.0]]
    matrix = [[1.0, 0.2, -0.01], [0.3, float("nan"), 0.1]]
    history = History(
        "runs/lm-001", {"ce": [(1, 2.0), (2, 1.0)], "$n_k$": [(1, 1.0)]}, {"test": [(2, 50.0)], "val": []}
    )
    return [
        *plot_mad(folder / "mad", [Distances("runs/$a_b$", heads), Distances("deit", heads[:2])], uniform=80.0),
        *plot_cka(folder / "cka", [Similarity("runs/a", matrix, [1.0, 0.1])], teacher="runs/t_$x$"),
        *plot_confusion(folder / "confusion", np.eye(5, dtype=int).tolist(), NAMES),
        *plot_curves(folder / "curves", [history, History("runs/ali-001", {"ce": [(1, 3.0)]})]),
    ]


def test_each_picture_is_written_as_png_and_svg(tmp_path):
    paths = draw_all(tmp_path / "analysis")
    assert [path.name for path in paths] == [
        f"{name}.{kind}" for name in ("mad", "cka", "confusion", "curves") for kind in ("png", "svg")
    ]
    for path in paths:
        if path.suffix == ".png":
            assert min(size(path)) > 300
        else:
            assert "</svg>" in texts(path)
    assert sorted(tmp_path.glob("analysis/*")) == sorted(paths)


def test_the_same_values_give_the_same_bytes(tmp_path):
    for one, other in zip(draw_all(tmp_path / "a"), draw_all(tmp_path / "b"), strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_no_date_is_written(tmp_path):
    for path in draw_all(tmp_path):
        if path.suffix == ".svg":
            assert "dc:date" not in texts(path)


def test_class_names_are_drawn_as_they_are(tmp_path):
    svg = texts(plot_confusion(tmp_path / "confusion", np.eye(5, dtype=int).tolist(), NAMES)[1])
    assert ">$x_1^2$<" in svg
    assert ">lily_of_the_valley<" in svg
    assert ">&lt;b&gt;&amp;amp;&lt;/b&gt;<" in svg
    assert ">三色堇<" in svg
    assert ">new line ��<" in svg


def test_long_names_are_shortened_in_the_middle(tmp_path):
    name = "a" * 60 + "2012"
    svg = texts(plot_confusion(tmp_path / "confusion", [[1, 0], [0, 1]], [name, "b"])[1])
    assert name not in svg
    assert re.search(r">a+…a+2012<", svg)


@pytest.mark.parametrize("classes", [2, 4, 17, 100, 196])
def test_a_confusion_matrix_has_room_for_every_class_name(tmp_path, classes):
    names = [f"class number {index}" for index in range(classes)]
    png, svg = plot_confusion(tmp_path / "confusion", np.eye(classes, dtype=int).tolist(), names)
    drawn = texts(svg)
    assert all(drawn.count(f">{name}<") == 2 for name in names)  # on both axes
    font = min(float(found) for found in re.findall(r"font-size: ([\d.]+)px", drawn))
    assert size(png)[1] / classes > font * 160 / 72  # a row is higher than its print, at 160 dots an inch


def test_a_class_without_images_leaves_its_row_blank(tmp_path):
    svg = texts(plot_confusion(tmp_path / "confusion", [[3, 1], [0, 0]], ["a", "b"])[1])
    assert ">75<" in svg
    assert ">25<" in svg
    assert ">0<" not in svg
    assert "nan" not in svg


def test_runs_of_different_depth_stand_in_one_picture(tmp_path):
    svg = texts(
        plot_cka(
            tmp_path / "cka",
            [Similarity("one", np.eye(13).tolist(), [1.0] * 13), Similarity("two", np.eye(5, 13).tolist(), [1.0] * 5)],
            teacher="teacher",
        )[1]
    )
    assert ">one<" in svg
    assert ">two<" in svg
    assert ">norm<" in svg


def test_drawing_changes_no_global_setting(tmp_path):
    before = dict(mpl.rcParams)
    draw_all(tmp_path)
    assert dict(mpl.rcParams) == before


def test_drawing_never_needs_pyplot(tmp_path):
    code = (
        "import sys; from pathlib import Path; from cikd_cli.reports.plots import *;"
        f"plot_mad(Path({str(tmp_path / 'mad')!r}), [Distances('a', [[1.0]])]);"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


STRANGE = "backend: nonsense\nfont.size: 30\nsavefig.dpi: 20\naxes.grid: True\nlines.linewidth: 9\nno such key: 1\n"


@pytest.mark.parametrize(
    "environment",
    [
        {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
        {"MPLBACKEND": "nonsense"},
        {"MPLBACKEND": "TkAgg"},
        {"MPLCONFIGDIR": "/proc/nowhere", "HOME": "/proc/nowhere", "XDG_CACHE_HOME": "/proc/nowhere"},
        {"MATPLOTLIBRC": "matplotlibrc"},
    ],
    ids=lambda environment: next(iter(environment.items()))[-1][:12],
)
def test_nothing_of_the_environment_changes_a_picture(tmp_path, environment):
    (tmp_path / "matplotlibrc").write_text(STRANGE)
    code = (
        "import os; from pathlib import Path; from cikd_cli.reports.plots import *;"
        "plot_mad(Path('mad'), [Distances('a', [[1.0]])]);"
        "print(os.environ.get('MPLBACKEND'))"
    )
    folder = tmp_path if "MATPLOTLIBRC" in environment else tmp_path / "elsewhere"
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=os.environ | environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{environment.get('MPLBACKEND')}\n"
    plot_mad(tmp_path / "plain", [Distances("a", [[1.0]])])
    for kind in ("png", "svg"):
        assert (folder / f"mad.{kind}").read_bytes() == (tmp_path / f"plain.{kind}").read_bytes()


def test_a_matplotlib_that_does_not_load_is_a_sentence(tmp_path):
    (tmp_path / "matplotlibrc").write_bytes(b"font.family: \xff\n")
    code = (
        "from pathlib import Path; from cikd_cli.reports.plots import *; from cikd_cli.cli.exits import sentences\n"
        "with sentences(): plot_mad(Path('mad'), [Distances('a', [[1.0]])])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "error: No picture can be drawn, as matplotlib does not load: " in done.stderr
    assert "hint: look for a damaged matplotlibrc" in done.stderr


def test_a_run_without_any_numbers_is_an_empty_picture(tmp_path):
    assert all(path.stat().st_size for path in plot_curves(tmp_path / "curves", [History("a", {})]))
