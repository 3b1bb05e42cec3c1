"""Bars for people, as SVG that is the same file whenever the figures are the same."""

from __future__ import annotations

import os
from collections.abc import Mapping

from .options import Options
from .report import Spread

HEIGHT, WIDTH = 0.34, 8.0  # inches: of a bar, and of everything
OURS, THEIRS = "#2a6fdb", "#b8bcc4"


def bars(options: Options, name: str, title: str, unit: str, figures: Mapping[str, Spread], digits: int = 0) -> None:
    """Draw a bar for each server, the longest first, into a file of this name; print where it is. Or do nothing, where
    no plots are asked for."""
    if options.plots is None:
        return
    import matplotlib  # it takes its time, and is for this alone

    matplotlib.use("svg")
    from matplotlib import pyplot

    rising = sorted(figures, key=lambda server: figures[server].median)
    middle = [figures[server].median for server in rising]
    reach = [[m - figures[s].low for s, m in zip(rising, middle, strict=True)],
             [figures[s].high - m for s, m in zip(rising, middle, strict=True)]]  # fmt: skip
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure, axes = pyplot.subplots(figsize=(WIDTH, 1 + HEIGHT * len(rising)), layout="constrained")
        colours = [OURS if server.startswith("qaws") else THEIRS for server in rising]
        drawn = axes.barh(rising, middle, xerr=reach, color=colours, ecolor="#444444", capsize=2)
        axes.bar_label(drawn, [f"{value:,.{digits}f}" for value in middle], padding=6)
        axes.set_title(title, loc="left")
        axes.set_xlabel(unit)
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)
        options.plots.mkdir(parents=True, exist_ok=True)
        figure.savefig(options.plots / f"{name}.svg", metadata={"Date": None, "Creator": None})
        pyplot.close(figure)
    print(f"![{title}]({_link(options, name)})", end="\n\n", flush=True)


def _link(options: Options, name: str) -> str:
    """Where the file is, seen from the page that shows it."""
    assert options.plots is not None
    folder = options.page.parent if options.page is not None else "."
    return os.path.relpath(options.plots / f"{name}.svg", folder).replace(os.sep, "/")
