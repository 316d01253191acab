"""Learning curves: the return of each update's episodes against the steps of the environment that it took."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from rlgrad.report.figures import checked_path, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Curve = Float[np.ndarray, "two updates"]  # steps and returns

# Of Okabe and Ito, which the colour-blind tell apart, the darkest first; beyond seven names they come again, dashed.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_GREY = "#666666"
_POINTS = 200  # of a mean curve
_REACH = 1 / 40  # of the axis, to each side: what a running mean takes in


def learning_curves(
    runs: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
    path: str | Path,
    *,
    title: str = "",
    levels: Mapping[str, float] | None = None,
) -> None:
    """Draw what agents learned: each run as a thin line, and the running mean over the runs of a name as a thick one.

    The running mean takes in a twentieth of the axis, and goes as far as the shortest of the runs.

    Args:
        runs: for each name, such as that of a credit, a run for each seed: the updates of its history, each with
            ``steps``, counted from the start of the run, and ``mean_return``.
        path: file to write, as its suffix says: .svg or .png. Written whole, or not at all.
        title: over all.
        levels: returns to draw a dashed line at, by name, such as that of a random policy.

    Raises:
        ValueError: another suffix, no runs, one without updates, or numbers that are not those of a history.
        OSError: the file cannot be written; an older one is left as it was.
    """
    path = checked_path(path)
    save(figure(runs, title=title, levels=levels), path)


def figure(
    runs: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
    *,
    title: str = "",
    levels: Mapping[str, float] | None = None,
) -> "Figure":
    """The same as a matplotlib figure, to be changed further."""
    from matplotlib.figure import Figure

    curves = {name: [_curve(name, updates) for updates in of_name] for name, of_name in runs.items()}
    if not curves or not all(curves.values()):
        got = f"none for {', '.join(name for name in curves if not curves[name])}" if curves else "no name"
        raise ValueError(f"needed a run for each name, got {got}; pass histories")
    drawn = Figure(figsize=(7.2, 4.4), layout="constrained")
    panel = drawn.subplots()
    reach = _REACH * max(curve[0, -1] for of_name in curves.values() for curve in of_name)
    for number, (name, of_name) in enumerate(curves.items()):
        _draw(panel, name, of_name, reach, number=number)
    for at, (name, level) in enumerate((levels or {}).items()):
        panel.axhline(level, color=_GREY, linewidth=1.0, linestyle=("--", ":", "-.")[at % 3], label=name, zorder=1)
    _finish(panel)
    handles, labels = panel.get_legend_handles_labels()
    legend = drawn.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # in the words of users a dollar is a dollar
    panel.set_title(title, fontsize=10, loc="left", parse_math=False)
    return drawn


def running_mean(curve: "Curve", at: Float[np.ndarray, " points"], reach: float) -> Float[np.ndarray, " points"]:
    """The mean height of a curve within reach of each point, as far as it goes; before its first update it is level.

    Example:
        >>> curve = np.array([[10.0, 20.0, 30.0], [1.0, 1.0, 5.0]])
        >>> running_mean(curve, np.array([0.0, 10.0, 20.0, 30.0]), 10.0)
        array([1., 1., 2., 3.])
    """
    steps = np.concatenate([[0.0], curve[0]])
    base = curve[1, 0]  # less which equal returns have no rounding
    height = np.concatenate([[0.0], curve[1] - base])
    area = np.concatenate([[0.0], np.cumsum(np.diff(steps) * (height[1:] + height[:-1]) / 2)])

    def below(end: np.ndarray) -> np.ndarray:  # the trapezoid of the last update is cut off at the end
        last = np.searchsorted(steps, end, side="right") - 1
        cut: np.ndarray = area[last] + (end - steps[last]) * (height[last] + np.interp(end, steps, height)) / 2
        return cut

    low, high = (np.clip(at + sign * reach, 0.0, steps[-1]) for sign in (-1, 1))
    mean: np.ndarray = base + (below(high) - below(low)) / (high - low)
    return mean


def _curve(name: str, updates: Sequence[Mapping[str, Any]]) -> "Curve":
    try:
        numbers = [[each["steps"], each["mean_return"]] for each in updates]
        curve: np.ndarray = np.array(numbers, dtype=float).reshape(-1, 2).T
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"needed updates with steps and mean_return, got others for {name!r} ({error}); pass those of a History, "
            "each as dataclasses.asdict"
        ) from error
    if not curve.size:
        raise ValueError(f"needed at least one update a run, got none for {name!r}; let it learn first")
    if (np.diff(curve[0], prepend=0.0) <= 0).any() or not np.isfinite(curve).all():
        raise ValueError(
            f"needed finite returns at steps that grow from 0, got others for {name!r}; pass one history a run"
        )
    return curve


def _draw(panel: "Axes", name: str, curves: "Sequence[Curve]", reach: float, *, number: int) -> None:
    colour, line = _COLOURS[number % len(_COLOURS)], "-" if number < len(_COLOURS) else "--"
    for curve in curves:
        marker = "." if curve.shape[1] == 1 else ""  # a line of one point is not seen
        panel.plot(*curve, color=colour, linewidth=0.6, alpha=0.45, marker=marker, zorder=2)
    shared = np.linspace(0.0, min(curve[0, -1] for curve in curves), _POINTS)
    mean = np.mean([running_mean(curve, shared, reach) for curve in curves], axis=0)
    label = name if len(curves) == 1 else f"{name}, mean of {len(curves)} seeds"
    panel.plot(shared, mean, color=colour, linewidth=2.0, linestyle=line, label=label, zorder=3)


def _finish(panel: "Axes") -> None:
    panel.set_xlabel("steps of the environment")
    panel.set_ylabel("mean return of an update's episodes")
    panel.set_xlim(left=0.0)
    panel.xaxis.set_major_formatter(lambda steps, _: f"{steps:,.0f}")
    panel.grid(which="major", color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
