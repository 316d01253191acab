"""What do the step activations look like, and what passes them on the way back? A picture of each, and a page.

    python scripts/plot_activations.py --out docs/activations.md

Values and slopes are those of the modules themselves, by a forward and a backward pass.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlgrad.files import replacing
from rlgrad.steps import QPWC, RULES, Rule, Sign, Staircase, Step, arctan, boxcar, straight_through
from rlgrad.text import markdown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
PAGE = """# Step activations

`rlgrad.steps` has activations that jump, and the rules that stand for their derivative on the way back. The true
derivative is zero wherever there is one, and nothing before a step learns from that. Written by

    {command}

```python
from rlgrad.steps import QPWC, Sign, Staircase, Step, arctan

hidden = Step(backward=arctan(slope=4.0))  # or backward="arctan", or any function of the distance to the threshold
binary = Sign(backward="boxcar", at_zero=1.0)
levels = Staircase([0.0, 0.2, 1.0], [0.1, 0.6], backward="triangular")
quarters = QPWC(sharp=10.0)  # steep instead of flat: its backward pass is its derivative
dead = Step()  # the true derivative: zero
```

All work at any shape and in any floating-point type, under `torch.compile(fullgraph=True)`, `torch.func.vmap` and
`grad`, and autocast; half precision is computed in float32. A second derivative is that of the rule. Forward-mode
differentiation (`torch.func.jvp`) is refused by torch, which cannot compile it here.

## The rules

With d the distance from the threshold, x - t. A rule whose integral is 1 is the derivative of a soft step from 0 to 1.

{rules}

![The unit step under every rule](activations-step.svg)

Grey: the step. Orange: what the rule lets through, at its default and at another slope (dashed). Blue: the true
derivative, zero.

## Sign and staircase

A sign jumps by 2, so it passes twice the rule. A staircase passes the sum over its thresholds of jump times rule: with
`boxcar` as wide as its even spacing that is the slope of the straight line through it, which is how quantizers are
trained; with the plain `straight_through`, whose ones add up at any distance, it is the whole height everywhere.

![Sign and staircase](activations-staircase.svg)

## QPWC

Four pieces of sigmoids from 0 to 1, with steps at 1/8, 3/8, 5/8 and 1. Its backward pass is its derivative unless it is
given a rule; sharper steps approach a staircase, and its gradient goes out between them.

![The QPWC neuron and its derivative](activations-qpwc.svg)

## A surrogate is biased, a policy gradient noisy

What a rule yields is the gradient of no function: it can be quiet and wrong. The other way out is a random unit, on
with probability sigmoid(x), and a policy gradient, which is right on average and noisy: each of these activations takes
`backward=policy_gradient()` from `rlgrad.stochastic`, for `rlgrad.ExpectedLoss`. [The perceptron](perceptron.md) tries
the two ways on one unit, [an audit](step_gradients.md) measures bias and noise of each in small networks, and [a
study](hard_steps.md) trains larger ones.
"""
RULES_TABLE = [
    ["`backward=`", "derivative", "integral", "peak"],
    ["`None`", "0, the true one", "0", "0"],
    ['`"sigmoid"`, `sigmoid(slope=s)`', "s sigmoid(s d) sigmoid(-s d)", "1", "s / 4"],
    ['`"arctan"`, `arctan(slope=s)`', "(s / 2) / (1 + (π s d / 2)²)", "1", "s / 2"],
    ['`"fast_sigmoid"`, `fast_sigmoid(slope=s)`', "(s / 2) / (1 + s abs(d))²", "1", "s / 2"],
    ['`"superspike"`, `superspike(slope=s)`', "1 / (1 + s abs(d))²", "2 / s", "1"],
    ['`"triangular"`, `triangular(width=w)`', "max(0, 1 - abs(d) / w) / w", "1", "1 / w"],
    ['`"boxcar"`, `boxcar(width=w)`', "1 / w where abs(d) < w / 2", "1", "1 / w"],
    ['`"straight_through"`, `straight_through(clip=c)`', "1 where abs(d) <= c", "2 c", "1"],
]
# Beside the default of each rule, one that is drawn dashed.
OTHERS = {
    "sigmoid": 12.0,
    "arctan": 6.0,
    "fast_sigmoid": 6.0,
    "superspike": 2.0,
    "triangular": 0.4,
    "boxcar": 0.4,
    "straight_through": 1.0,
}
STAIRS = [0.0, 0.2, 1.0, 0.7], [-1.0, 0.5, 1.5]
EVEN = [-1.5, -0.5, 0.5, 1.5], [-1.0, 0.0, 1.0]


def curve(module: nn.Module, low: float, high: float) -> tuple[Tensor, Tensor, Tensor]:
    """Points, values, and the slope of each by a backward pass."""
    x = torch.arange(low * 4096, high * 4096 + 1, dtype=torch.float64) / 4096  # exact, so are borders and thresholds
    y = module(x.requires_grad_())
    (slope,) = torch.autograd.grad(y.sum(), x)
    return x.detach(), y.detach(), slope


def rules_figure() -> "Figure":
    """The unit step under every rule."""
    drawn, panels = _figure(2, 4, (12.0, 5.6), sharey=True)
    cases: dict[str, tuple[Rule | None, Rule | None]] = {"None": (None, None)}
    for name, value in OTHERS.items():
        make: Callable[..., Rule] = RULES[name]
        cases[name] = make(), make(value)
    for panel, (name, (rule, other)) in zip(panels, cases.items(), strict=True):
        _lines(panel, Step(), "step", GREY, BLUE)
        for chosen, style in ((rule, "-"), (other, "--")):
            if chosen is not None:
                x, _, slope = curve(Step(backward=chosen), -2.0, 2.0)
                panel.plot(x, slope, color=ORANGE, linestyle=style, linewidth=1.6, label=_short(chosen))
        _finish(panel, name, skip=2)
        panel.set_ylim(-0.2, 4.4)
        panel.set_yticks(range(4))
    drawn.legend(*_first(panels[0], 2), loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return drawn


def stairs_figure() -> "Figure":
    """Sign and two staircases, their values above and what they pass below."""
    cases: dict[str, tuple[Callable[[Rule], nn.Module], Sequence[Rule]]] = {
        "Sign": (lambda rule: Sign(backward=rule), [arctan(), boxcar()]),
        "Staircase, uneven": (lambda rule: Staircase(*STAIRS, backward=rule), [arctan(slope=6.0), boxcar()]),
        "Staircase, even": (lambda rule: Staircase(*EVEN, backward=rule), [arctan(), boxcar(), straight_through()]),
    }
    drawn, panels = _figure(2, 3, (12.0, 6.4))
    styles = ("-", "--", ":")
    for column, (name, (make, rules)) in enumerate(cases.items()):
        value, backward = panels[column], panels[column + 3]
        x, y, _ = curve(make(rules[0]), -2.5, 2.5)
        _jumps(value, x, y)
        _finish(value, name)
        backward.axhline(0.0, color=BLUE, linewidth=1.2, label="true derivative")
        for rule, style in zip(rules, styles, strict=False):
            x, _, slope = curve(make(rule), -2.5, 2.5)
            backward.plot(x, slope, color=ORANGE, linestyle=style, linewidth=1.6, label=_short(rule))
        _finish(backward, "backward")
    return drawn


def qpwc_figure() -> "Figure":
    """The neuron and its derivative side by side, as its source draws them."""
    drawn, (value, backward) = _figure(1, 2, (10.5, 4.2))
    for sharp, colour in ((5.0, "#56B4E9"), (10.0, BLUE), (30.0, ORANGE), (100.0, "#000000")):
        module = QPWC(sharp=sharp)
        x, s, ds = curve(module, -0.25, 1.25)
        value.plot(x, s, color=colour, linewidth=1.4, label=f"sharp {sharp:g}")
        backward.plot(x, ds / sharp, color=colour, linewidth=1.4, label=f"sharp {sharp:g}")
    for panel, title in ((value, "s"), (backward, "ds, in units of sharp")):
        for border in (0.25, 0.5, 0.75):
            panel.axvline(border, color="#dddddd", linewidth=0.8, zorder=0)
        _finish(panel, title)
        panel.set_xticks([0, 0.125, 0.375, 0.625, 1], ["0", "1/8", "3/8", "5/8", "1"])
        panel.set_xlabel("z")
    return drawn


def _figure(
    rows: int, columns: int, size: tuple[float, float], *, sharey: bool = False
) -> tuple["Figure", list["Axes"]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(drawn)
    return drawn, list(drawn.subplots(rows, columns, sharey=sharey, squeeze=False).flat)


def _lines(panel: "Axes", module: nn.Module, label: str, colour: str, true: str) -> None:
    x, y, slope = curve(module, -2.0, 2.0)
    _jumps(panel, x, y, colour=colour, label=label)
    panel.plot(x, slope, color=true, linewidth=1.2, label="true derivative")


def _jumps(panel: "Axes", x: Tensor, y: Tensor, *, colour: str = GREY, label: str | None = None) -> None:
    # A line that breaks where the value jumps: a step has no riser.
    broken = y.clone()
    broken[1:][y.diff() != 0] = torch.nan
    panel.plot(x, broken, color=colour, linewidth=2.0, label=label)


def _short(rule: Rule) -> str:
    return repr(rule).replace(".0)", ")").replace("clip=inf", "")


def _first(panel: "Axes", count: int) -> tuple[list[Any], list[str]]:
    handles, labels = panel.get_legend_handles_labels()
    return handles[:count], labels[:count]


def _finish(panel: "Axes", title: str, *, skip: int = 0) -> None:
    panel.set_title(title, fontsize=10, loc="left")
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    panel.tick_params(labelsize=8)
    handles, labels = panel.get_legend_handles_labels()
    if labels[skip:]:
        panel.legend(handles[skip:], labels[skip:], fontsize=8, frameon=False, loc="upper right" if skip else "best")


FIGURES: dict[str, Callable[[], "Figure"]] = {
    "step": rules_figure,
    "staircase": stairs_figure,
    "qpwc": qpwc_figure,
}


def write(drawn: "Figure", path: Path) -> None:
    """As its suffix says, .svg or .png; equal figures give equal files."""
    from matplotlib import rc_context

    kind = path.suffix.removeprefix(".")
    with replacing(path) as file, rc_context({"svg.hashsalt": "rlgrad"}):
        drawn.savefig(file, format=kind, dpi=110, metadata={"Date": None} if kind == "svg" else None)


def main() -> None:
    """Draw, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/activations.md"))
    parser.add_argument("--kind", choices=["svg", "png"], default="svg")
    arguments = parser.parse_args()
    out: Path = arguments.out
    for name, make in FIGURES.items():
        write(make(), out.with_name(f"{out.stem}-{name}.{arguments.kind}"))
    page = PAGE.format(command="python scripts/plot_activations.py", rules=markdown(RULES_TABLE, left=2))
    with replacing(out) as file:
        file.write(page.encode())


if __name__ == "__main__":
    main()
