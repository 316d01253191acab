"""Figures from records, with matplotlib's objects: no window, no global figure, no torch."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlgrad.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import RendererBase
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

# Blue and orange of Okabe and Ito, which the colour-blind tell apart; the markers say it once more.
_STYLE = {
    "estimator": {"color": "#0072B2", "marker": "o", "label": "estimator"},
    "surrogate": {"color": "#D55E00", "marker": "s", "label": "surrogate"},
}
_SPACES = {"logits": "in the logits", "weights": "through the weights"}
_LOWEST = 1e-3  # cosines below stand at the edge
_GREY = "#666666"


class _Point(NamedTuple):
    name: str
    kind: str
    x: float
    y: float
    at_edge: bool


def cosine_against_cost(audit: Mapping[str, Any], path: str | Path) -> None:
    """Draw an audit: the cosine of a single estimate to the true gradient against the seconds that it takes.

    Both axes are logarithmic, and there is a panel for each space that was measured. A cosine that is not positive, or
    is below a thousandth, has no place on such an axis: it stands at the lower edge, as an open marker.

    Args:
        audit: what ``Audit.to_dict`` gives, or its JSON file holds.
        path: file to write, as its suffix says: .svg or .png. Written whole, or not at all.

    Raises:
        ValueError: another suffix, not an audit, or an audit without anything measured.
        OSError: the file cannot be written; an older one is left as it was.
    """
    path = checked_path(path)
    save(figure(audit), path)


def figure(audit: Mapping[str, Any]) -> "Figure":
    """The same as a matplotlib figure, to be changed further."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _panels(audit)
    drawn = Figure(figsize=(1.2 + 5.6 * len(panels), 5.2), layout="constrained")
    canvas = FigureCanvasAgg(drawn)
    axes = drawn.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    lowest = min(point.y for points in panels.values() for point in points)
    for panel, (space, points) in zip(axes, panels.items(), strict=True):
        _draw(panel, points, lowest)
        panel.set_title(f"{audit['metric']}, {_SPACES[space]}", fontsize=10, loc="left", parse_math=False)
    axes[0].set_ylabel("cosine of one estimate to the true gradient")
    drawn.suptitle(str(audit["problem"]), fontsize=11, x=0.01, ha="left", parse_math=False)
    drawn.draw_without_rendering()  # places the panels; labels are placed in what is then their final size
    drawn.set_layout_engine("none")
    renderer: RendererBase = canvas.get_renderer()  # type: ignore[no-untyped-call]
    for panel, points in zip(axes, panels.values(), strict=True):
        _label(panel, points, renderer)
    return drawn


def _panels(audit: Mapping[str, Any]) -> dict[str, list[_Point]]:
    try:
        rows = [row for row in audit["rows"] if row["error"] is None]
        panels = {space: [_point(row, row[space]) for row in rows if row[space] is not None] for space in _SPACES}
    except (KeyError, TypeError) as error:
        raise ValueError(f"needed the dictionary of an audit, got one without {error}; pass Audit.to_dict()") from error
    measured = {space: points for space, points in panels.items() if points}
    if not measured:
        raise ValueError("needed a candidate that was measured, got none; see the errors in the table")
    return measured


def _point(row: Mapping[str, Any], space: Mapping[str, Any]) -> _Point:
    cosine = float(space["cosine"])
    return _Point(row["name"], row["kind"], row["seconds"], max(cosine, _LOWEST), cosine < _LOWEST)


def _draw(panel: "Axes", points: Sequence[_Point], lowest: float) -> None:
    for kind, style in _STYLE.items():
        for at_edge in (False, True):
            chosen = [point for point in points if point.kind == kind and point.at_edge == at_edge]
            panel.scatter(
                [point.x for point in chosen],
                [point.y for point in chosen],
                s=36,
                marker=style["marker"],
                facecolors="white" if at_edge else style["color"],
                edgecolors=style["color"],
                label=None if at_edge or not chosen else style["label"],
                zorder=3,
            )
    panel.set_xscale("log")
    panel.set_yscale("log")
    _limit(panel, points, lowest)
    panel.axhline(1.0, color=_GREY, linewidth=0.8, zorder=1)
    panel.grid(which="major", color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.set_xlabel("seconds an estimate")
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    panel.legend(loc="lower right", fontsize=8, frameon=True, edgecolor="none")
    if any(point.at_edge for point in points):
        panel.text(
            0.01,
            0.01,
            f"open: {_LOWEST:g} or less, or negative",
            transform=panel.transAxes,
            fontsize=7,
            parse_math=False,
        )


def _limit(panel: "Axes", points: Sequence[_Point], lowest: float) -> None:
    # Room for labels: a third of the axis to the right, and a band above the cosines of one.
    left, right = min(point.x for point in points), max(point.x for point in points)
    width = max(math.log10(right / left), 1.0)
    panel.set_xlim(left / 10 ** (0.15 * width), right * 10 ** (0.35 * width))
    height = max(-math.log10(lowest), 0.5)
    panel.set_ylim(lowest / 10 ** (0.12 * height), 10 ** (0.3 * height))
    decades = range(math.floor(math.log10(lowest)), 1)
    ticks = [step * 10.0**decade for decade in decades for step in (1, 2, 5)]
    shown = [tick for tick in ticks if lowest / 2 <= tick <= 1]
    panel.set_yticks(shown, [f"{tick:g}" for tick in shown])
    panel.set_yticks([], minor=True)


def _label(panel: "Axes", points: Sequence[_Point], renderer: "RendererBase") -> None:
    """Every name beside its marker, at the first place where it covers nothing, else with a line to it."""
    from matplotlib.transforms import Bbox

    legend = panel.get_legend()
    assert legend is not None
    corners = [panel.transData.transform((point.x, point.y)) for point in points]
    taken = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in corners]
    line = panel.transData.transform((1.0, 1.0))[1]  # names should not be struck through by the line at one
    inside = panel.get_window_extent()
    taken.append(Bbox.from_extents(inside.x0, line - 1, inside.x1, line + 1))
    taken += [text.get_window_extent() for text in panel.texts] + [legend.get_window_extent()]
    for point in sorted(points, key=lambda point: (-point.y, point.x)):
        taken.append(_place(panel, point, taken, renderer))


def _place(panel: "Axes", point: _Point, taken: Sequence["Bbox"], renderer: "RendererBase") -> "Bbox":
    note = panel.annotate(
        point.name,
        (point.x, point.y),
        xytext=(7, 0),
        textcoords="offset points",
        fontsize=8,
        va="center",
        color=_STYLE[point.kind]["color"],
        arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3},
        zorder=4,
        parse_math=False,  # in the words of users a dollar is a dollar
    )
    assert note.arrow_patch is not None
    best, least = (7.0, 0.0), math.inf
    for x, y in _offsets():
        covered = _covered(_moved(note, x, y, renderer), taken, panel)
        if covered < least:
            best, least = (x, y), covered
        if covered == 0:
            break
    box = _moved(note, *best, renderer)
    note.arrow_patch.set_visible(math.hypot(*best) > 12)
    return box


def _moved(note: "Annotation", x: float, y: float, renderer: "RendererBase") -> "Bbox":
    from matplotlib.text import Text

    note.set_horizontalalignment("left" if x > 0 else "right" if x < 0 else "center")
    note.set_position((x, y))
    note.update_positions(renderer)
    box: Bbox = Text.get_window_extent(note)  # of the words alone, without the line to the marker
    return box


def _offsets() -> Iterator[tuple[float, float]]:
    yield from ((7.0, 0.0), (-7.0, 0.0), (0.0, 10.0), (0.0, -10.0))
    for distance in range(10, 150, 7):
        for angle in (45, -45, 90, -90, 20, -20, 135, -135, 160, -160):
            x, y = distance * math.cos(math.radians(angle)), distance * math.sin(math.radians(angle))
            yield (0.0 if abs(x) < 1 else x), y


def _covered(box: "Bbox", taken: Sequence["Bbox"], panel: "Axes") -> float:
    """Area that the box shares with others, and all of it where it leaves the panel."""
    from matplotlib.transforms import Bbox

    inside = panel.get_window_extent()
    if box.x0 < inside.x0 or box.x1 > inside.x1 or box.y0 < inside.y0 or box.y1 > inside.y1:
        return math.inf
    shared = (Bbox.intersection(box, other) for other in taken)
    return float(sum(each.width * each.height for each in shared if each is not None))


def checked_path(path: str | Path) -> Path:
    """The path of a figure, whose suffix is one that can be drawn; otherwise a ValueError, before any drawing."""
    path = Path(path)
    if path.suffix.lower() not in (".svg", ".png"):
        raise ValueError(f"needed a file .svg or .png, got {path}; name it so")
    return path


def save(drawn: "Figure", path: Path) -> None:
    """Write a figure as its suffix says, whole or not at all."""
    from matplotlib import rc_context

    kind = path.suffix.lower().removeprefix(".")
    # Without a date and with names from a constant, equal records give equal files.
    with replacing(path) as file, rc_context({"svg.hashsalt": "rlgrad"}):
        drawn.savefig(file, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
