"""The look all pictures share: colours, fonts, safe text, and saving as PNG and SVG.

Figures are built without pyplot and without a backend, so nothing outlives a call, and nothing that a notebook, the
environment or a matplotlibrc has chosen counts. matplotlib is loaded by the first picture. Names come from users: `$`
and `_` are drawn as they are, and what cannot be printed becomes a replacement character. The same values give the same
SVG bytes.
"""

import io
import logging
import os
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from cikd_cli.errors import EXIT_FAILED, CikdError
from cikd_cli.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.ticker import Formatter

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f")  # Okabe-Ito: colour-blind safe
INK, FAINT = "#262626", "#e3e3e3"
FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Microsoft YaHei", "Noto Sans Symbols2")


def colour(index: int) -> str:
    """The colour of the run with this number, from 0."""
    return COLOURS[index % len(COLOURS)]


def grid_of_axes(count: int, *, width: float, height: float) -> "tuple[Figure, list[Axes]]":
    """A figure with `count` panels of width x height inches: one row up to three, else as square as it gets."""
    columns = count if count <= 3 else 2 if count == 4 else 3
    rows = -(-count // columns)
    figure = new_figure(width * columns, height * rows)
    return figure, [figure.add_subplot(rows, columns, index + 1) for index in range(count)]


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure, in inches."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))


def colour_bar(
    axes: "Axes", image: "AxesImage", *, gap: float, thickness: float, form: "Formatter | None" = None
) -> "Axes":
    """A colour bar as high as the picture beside it; gap and thickness as shares of the picture's width."""
    place = axes.inset_axes((1 + gap, 0, thickness, 1))
    axes.figure.colorbar(image, cax=place, format=form)
    place.tick_params(length=2)
    return place


def safe_text(text: str, limit: int) -> str:
    """The text on one line, without what cannot be drawn, shortened in the middle to at most `limit` characters."""
    clean = "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(text.split())
    )
    clean = unicodedata.normalize("NFC", clean)
    if len(clean) <= limit:
        return clean
    return f"{clean[: limit - limit // 3 - 1]}…{clean[-(limit // 3) :]}"


@contextmanager
def style() -> Iterator[None]:
    """Everything drawn inside looks alike, whatever style the user has set, and no text is parsed as mathematics."""
    mpl = _matplotlib()
    installed = set(mpl.font_manager.get_font_names())
    settings: dict[Any, Any] = {
        "text.parse_math": False,
        "svg.hashsalt": "cikd",
        "svg.fonttype": "none",  # text stays text: letters our font lacks still show in a browser
        "font.family": [name for name in FONTS if name in installed] + ["sans-serif"],
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.edgecolor": "#9a9a9a",
        "axes.labelcolor": INK,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "legend.frameon": False,
        "savefig.dpi": 160,
        "savefig.bbox": "tight",
        "savefig.facecolor": "white",
    }
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        mpl.rcdefaults()
        mpl.rcParams.update(settings)
        yield


def save(figure: "Figure", stem: Path) -> list[Path]:
    """Write stem.png and stem.svg, each whole or not at all, and return both paths."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        content = io.BytesIO()
        figure.savefig(content, format=kind, metadata=metadata)
        paths.append(stem.with_name(f"{stem.name}.{kind}"))
        write_atomically(paths[-1], content.getvalue())
    return paths


def _matplotlib() -> ModuleType:
    """The library, with the fonts of this machine, loaded without the backend that the environment names."""
    logger, backend = logging.getLogger("matplotlib"), os.environ.pop("MPLBACKEND", None)
    logger.setLevel(logging.ERROR)  # it would warn of a cache folder that it cannot write, which changes no picture
    try:
        import matplotlib.font_manager

        return matplotlib
    except Exception as error:
        raise CikdError(
            f"No picture can be drawn, as matplotlib does not load: {error}",
            hint="look for a damaged matplotlibrc here and in ~/.config/matplotlib",
            exit_code=EXIT_FAILED,
        ) from error
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
