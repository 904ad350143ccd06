"""Draws a report: speed by thread count, with one panel for each test and one line for each contestant."""

from __future__ import annotations

import io
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from mmojo_forge.engine.bench.measure import BenchReport, Row
from mmojo_forge.engine.errors import EngineError
from mmojo_forge.extras import require_extra
from mmojo_forge.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES: Final = (".svg", ".png")
# Okabe and Ito's palette, which most people with a colour vision deficiency can distinguish. Markers help further.
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS: Final = "osD^vP*"
_TITLES: Final = MappingProxyType({"pp": "prompt", "tg": "generation"})


def check_path(path: Path) -> None:
    """Return if a plot can be written to `path`; raises EngineError (`bad-plot`), ExtraError.

    Asked before anything is measured, so matplotlib is installed now, not after an hour.
    """
    if path.suffix not in SUFFIXES:
        raise EngineError(
            f"plot {path}: unknown format", detail=f"Name a file with {' or '.join(SUFFIXES)}.", reason="bad-plot"
        )
    if not path.parent.is_dir():
        raise EngineError(
            f"plot {path}: there is no folder {path.parent}", detail="Create it, or name another.", reason="bad-plot"
        )
    require_extra("plot")


def draw(report: BenchReport, path: Path) -> None:
    """Write the plot to `path`, as SVG or PNG by its suffix; raises EngineError (`bad-plot`)."""
    # matplotlib takes a second to import, and most runs do not plot.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    tests = report.workload.tests
    # `none` keeps text as text in SVG. With a fixed salt and no date, the same report gives the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "forge bench", "font.size": 10}):
        figure = Figure(figsize=(5.4 * len(tests), 4.6), layout="constrained")
        for axes, test in zip(figure.subplots(1, len(tests), squeeze=False)[0], tests, strict=True):
            _draw_test(axes, report, test)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        columns = 1 if max(map(len, labels)) > 32 else min(3, len(labels))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
        figure.suptitle(_caption(report), fontsize=10)
        picture = io.BytesIO()
        form = path.suffix.removeprefix(".")
        figure.savefig(picture, format=form, dpi=150, metadata={"Date": None} if form == "svg" else None)
        try:
            write_atomically(path, picture.getvalue())
        except OSError as error:
            raise EngineError(
                f"plot {path}: {error.strerror}", detail="Name another file.", reason="bad-plot"
            ) from error


def _draw_test(axes: Axes, report: BenchReport, test: str) -> None:
    rows = [row for row in report.rows() if row.test == test]
    for index, contestant in enumerate(report.contestants):
        _draw_line(axes, [row for row in rows if row.target == contestant.name], index)
    axes.set_title(f"{_TITLES[test[:2]]} of {test[2:]} tokens ({test})")
    axes.set_xlabel("threads")
    axes.set_ylabel("tokens per second")
    axes.set_xticks(report.workload.threads)
    axes.set_ylim(bottom=0)
    axes.margins(x=0.08)
    axes.grid(visible=True, color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_line(axes: Axes, rows: list[Row], index: int) -> None:
    """Medians joined by a line; the bars reach from the lowest to the highest round."""
    rows = sorted(rows, key=lambda row: row.threads)
    below = [row.speed.median - row.speed.lowest for row in rows]
    above = [row.speed.highest - row.speed.median for row in rows]
    axes.errorbar(
        [row.threads for row in rows],
        [row.speed.median for row in rows],
        yerr=[below, above],
        label=rows[0].target,
        color=_COLOURS[index % len(_COLOURS)],
        marker=_MARKERS[index % len(_MARKERS)],
        markersize=5,
        capsize=4,
        linewidth=1.6,
    )


def _caption(report: BenchReport) -> str:
    facts = report.facts[report.contestants[0].name]
    model = facts.model or report.workload.model.name
    cores = "1 core" if report.machine.cores == 1 else f"{report.machine.cores} cores"
    return f"{model} on {report.machine.cpu}, {cores}: median of {report.workload.rounds} rounds, lowest to highest"
