"""How can a perceptron learn that its step has no gradient? Every way out, on points in the plane.

    python scripts/perceptron.py --out docs/perceptron.md

One linear unit on 100 points, full-batch Adam for all that have a gradient, Rosenblatt's rule point by point; several
seeds, each with points and initial weights of its own. The best accuracy that any line has is found by trying all of
them. The page and its picture are written from what came out, the same on every run.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from rlgrad.estimators import score_function
from rlgrad.files import replacing
from rlgrad.metrics.catalogue import accuracy
from rlgrad.objective import MetricLoss
from rlgrad.steps import Rule, Step, arctan, straight_through
from rlgrad.text import markdown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 100
PAGE = """# A perceptron and its step

The unit computes H(w·x + b), 1 above zero and 0 else. Back-propagation through H gives no gradient, so it needs
another rule: Rosenblatt's own; a smooth unit in place of the step while it learns; a made-up derivative of the step (a
surrogate); or a policy gradient, where the unit decides 1 with probability sigmoid(w·x + b) and the metric of those
decisions is what is maximised. All end as the same thing, a line, decided by H. Written by

    {command}

Accuracy in percent on the {points} points that were learned from, of the last weights, mean ± standard deviation over
{seeds} seeds. *Best line* is the best that any line can do, by trying all of them; *margin*, on the separable points,
the distance of the closest one to the line, negative where it is on the wrong side.

{table}

![Decision lines of seed 0](perceptron.svg)

- **Separable**: points of the square [-1, 1]², none closer than 0.05 to the line that parts the classes.
- **Overlapping**: two round Gaussian clouds, centres two standard deviations apart.
- **Outliers**: clouds of the same kind, further apart, and a tenth of the points of one class far out on the other's
  side, where a likelihood minds them more than the count of errors does.

## What it shows

- Through H alone nothing moves: the weights are bit for bit those it began with.{moved}
- Where a line parts the classes, every other way finds one, or nearly: where the unit is sure of a point, right or
  wrong, little policy gradient is left.
- Where none does, the surrogates do not settle. Under squared error the plain straight-through gradient is (H - y) x,
  which is Rosenblatt's rule averaged over the points. H does not see how long w is, but a rule does, and it draws w
  towards zero: on the outliers the largest abs(w·x + b) ends at {length} (median). There every rule is its peak, so
  clipping changes nothing at all, and the line of the last step is that of a random moment.
- Cross-entropy has its own optimum, which is not the accuracy's: a few points far out are enough.
- The policy gradient comes closest to the best line. On a single output that is no magic: E[accuracy] is 1 less the
  mean of abs(sigmoid - y), a smooth loss that is bounded in every point, and `exact` is its gradient by
  back-propagation; the squared error of a sigmoid is of the same kind. Sampling that gradient costs little here. It
  is a need only where no formula is at hand: another metric, or steps inside of a network.

{steps} steps of Adam at learning rate {rate:g} for all but Rosenblatt, tuned for none; Rosenblatt's rule goes through
the points in random order as often, and stops when it makes no error.
"""


@dataclass(frozen=True)
class Cloud:
    """Points with a column of ones, and their classes."""

    x: Tensor  # points 3
    y: Tensor  # points, 0.0 and 1.0


def separable(generator: torch.Generator) -> Cloud:
    """Points of a square on either side of a line, none close to it."""
    line = torch.nn.functional.normalize(torch.randn(2, generator=generator, dtype=torch.float64), dim=0)
    line = torch.cat([line, 0.3 * torch.rand(1, generator=generator, dtype=torch.float64)])
    x = _with_ones(2 * torch.rand(3 * POINTS, 2, generator=generator, dtype=torch.float64) - 1)
    x = x[(x @ line).abs() > 0.05][:POINTS]
    return Cloud(x, (x @ line > 0).double())


def overlapping(generator: torch.Generator) -> Cloud:
    """Two Gaussian clouds two standard deviations apart."""
    return _clouds(generator, distance=2.0, outliers=0)


def outliers(generator: torch.Generator) -> Cloud:
    """Two Gaussian clouds three standard deviations apart, and ten points of the one far beyond the other."""
    return _clouds(generator, distance=3.0, outliers=POINTS // 10)


CLOUDS: dict[str, Callable[[torch.Generator], Cloud]] = {
    "separable": separable,
    "overlapping": overlapping,
    "outliers": outliers,
}


def _clouds(generator: torch.Generator, *, distance: float, outliers: int) -> Cloud:
    y = (torch.arange(POINTS) % 2).double()
    x = torch.randn(POINTS, 2, generator=generator, dtype=torch.float64)
    x[:, 0] += distance * (y - 0.5)
    x[:outliers] = 0.5 * x[:outliers] + torch.tensor([distance * 3, 0.0], dtype=torch.float64)
    y[:outliers] = 0.0
    return Cloud(_with_ones(x), y)


def _with_ones(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)


Loss = Callable[[torch.Generator], Callable[[Tensor, Tensor], Tensor]]
Fit = Callable[[Cloud, Tensor, torch.Generator], Tensor]  # points, initial weights, randomness: final weights


@dataclass(frozen=True)
class Rosenblatt:
    """w += (y - H(w·x)) x, point by point, until there is no error."""

    passes: int

    def __call__(self, cloud: Cloud, weights: Tensor, generator: torch.Generator) -> Tensor:
        """The final weights."""
        rows, targets = cloud.x.tolist(), cloud.y.tolist()
        w = weights.tolist()
        for _ in range(self.passes):
            errors = 0
            for i in torch.randperm(len(rows), generator=generator).tolist():
                off = targets[i] - float(sum(a * b for a, b in zip(w, rows[i], strict=True)) > 0)
                errors += off != 0
                w = [a + off * b for a, b in zip(w, rows[i], strict=True)]
            if not errors:
                break
        return torch.tensor(w, dtype=torch.float64)


@dataclass(frozen=True)
class Descent:
    """Adam on a loss of the logits w·x and the classes."""

    loss: Loss
    steps: int
    rate: float

    def __call__(self, cloud: Cloud, weights: Tensor, generator: torch.Generator) -> Tensor:
        """The final weights."""
        w = weights.clone().requires_grad_()
        optimizer = torch.optim.Adam([w], lr=self.rate)
        loss = self.loss(generator)
        for _ in range(self.steps):
            optimizer.zero_grad()
            loss(cloud.x @ w, cloud.y).backward()
            optimizer.step()
        return w.detach()


def through_step(rule: Rule | None) -> Loss:
    """Squared error of the step's output."""
    step = Step(backward=rule)
    return lambda _: lambda logits, y: F.mse_loss(step(logits), y)


def methods(steps: int, rate: float) -> dict[str, Fit]:
    """Every way to learn."""
    losses: dict[str, Loss] = {
        "descent through H": through_step(None),
        "sigmoid, cross-entropy": lambda _: F.binary_cross_entropy_with_logits,
        "sigmoid, squared error": lambda _: lambda logits, y: F.mse_loss(torch.sigmoid(logits), y),
        "H, straight-through": through_step(straight_through()),
        "H, straight-through clipped at 1": through_step(straight_through(clip=1.0)),
        "H, arctan": through_step(arctan()),
        "H, policy gradient, leave-one-out of 16": lambda g: MetricLoss(accuracy, score_function(16), generator=g),
        "H, policy gradient, exact": lambda _: MetricLoss(accuracy, "exact"),
    }
    return {"Rosenblatt": Rosenblatt(steps), **{name: Descent(loss, steps, rate) for name, loss in losses.items()}}


def best_line(cloud: Cloud) -> float:
    """The accuracy of the best of all lines.

    Any parting of points in general position by a line is also made by one that nearly goes through two of them, with
    those two on whichever side is wanted: so lines through all pairs are tried, and their two points count as right.
    """
    points, right = cloud.x[:, :2], 2 * cloud.y - 1
    first, second = torch.triu_indices(len(points), len(points), offset=1)
    along = points[second] - points[first]
    normal = torch.stack([-along[:, 1], along[:, 0]], dim=1)
    side = normal @ points.T - (normal * points[first]).sum(1, keepdim=True)
    pairs = torch.arange(len(first))
    side[pairs, first] = side[pairs, second] = 0.0  # exactly
    score = (side.sign() * right).sum(1).abs()  # right minus wrong among the others, of the better orientation
    return float(((score.max() + len(points) - 2) / 2 + 2) / len(points))


def hits(cloud: Cloud, weights: Tensor) -> float:
    """The accuracy of H(w·x)."""
    return float(((cloud.x @ weights > 0).double() == cloud.y).double().mean())


def margin(cloud: Cloud, weights: Tensor) -> float:
    """Signed distance of the closest point on its right side."""
    signed = (2 * cloud.y - 1) * (cloud.x @ weights)
    return float(signed.min() / weights[:2].norm().clamp_min(1e-300))


Runs = dict[str, list[tuple[Cloud, Tensor, dict[str, Tensor]]]]  # of each cloud: for each seed the weights by method


def run(seeds: int, fits: dict[str, Fit]) -> Runs:
    """Everything, on every cloud, from every seed."""
    done: Runs = {}
    for name, make in CLOUDS.items():
        done[name] = []
        for seed in range(seeds):
            generator = torch.Generator().manual_seed(seed)
            cloud, start = make(generator), 0.1 * torch.randn(3, generator=generator, dtype=torch.float64)
            seeded = {method: torch.Generator().manual_seed(seed) for method in fits}
            found = {method: fit(cloud, start, seeded[method]) for method, fit in fits.items()}
            done[name].append((cloud, start, found))
    return done


def table(runs: Runs, names: Sequence[str]) -> str:
    """Accuracy of every method on every cloud, and the margin on the separable one."""
    rows = [["", *CLOUDS, "margin"]]
    for name in names:
        scores = [[100 * hits(cloud, found[name]) for cloud, _, found in runs[which]] for which in CLOUDS]
        margins = [margin(cloud, found[name]) for cloud, _, found in runs["separable"]]
        rows.append([name, *(_spread(of, 1) for of in scores), _spread(margins, 3)])
    best = [[100 * best_line(cloud) for cloud, _, _ in runs[which]] for which in CLOUDS]
    rows.append(["**best line**", *(_spread(of, 1) for of in best), ""])
    return markdown(rows)


def _spread(values: Sequence[float], digits: int) -> str:
    of = torch.tensor(values, dtype=torch.float64)
    return f"{float(of.mean()):.{digits}f} ± {float(of.std()):.{digits}f}"


DRAWN = {
    "Rosenblatt": ("#000000", "-"),
    "sigmoid, cross-entropy": ("#D55E00", "-"),
    "H, straight-through": ("#009E73", "--"),
    "H, arctan": ("#CC79A7", "-"),
    "H, policy gradient, leave-one-out of 16": ("#56B4E9", "--"),
    "H, policy gradient, exact": ("#0072B2", "-"),
    "descent through H": ("#999999", ":"),
}


def picture(runs: Runs, path: Path) -> None:
    """The decision lines of the first seed."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(12.5, 5.0), layout="constrained")
    FigureCanvasAgg(drawn)
    panels = drawn.subplots(1, len(runs))
    for panel, (name, seeds) in zip(panels, runs.items(), strict=True):
        cloud, _, found = seeds[0]
        _draw(panel, cloud, found)
        panel.set_title(name, fontsize=11, loc="left")
    handles, labels = panels[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    kind = path.suffix.removeprefix(".")
    with replacing(path) as file, rc_context({"svg.hashsalt": "rlgrad"}):
        drawn.savefig(file, format=kind, dpi=110, metadata={"Date": None} if kind == "svg" else None)


def _draw(panel: "Axes", cloud: Cloud, found: dict[str, Tensor]) -> None:
    for value, marker, colour in ((0.0, "o", "#E69F00"), (1.0, "^", "#0072B2")):
        chosen = cloud.x[cloud.y == value]
        panel.scatter(
            chosen[:, 0], chosen[:, 1], s=18, marker=marker, color=colour, alpha=0.6, label=f"class {value:g}"
        )
    low, high = cloud.x[:, :2].amin(0) - 0.3, cloud.x[:, :2].amax(0) + 0.3
    panel.set_xlim(float(low[0]), float(high[0]))
    panel.set_ylim(float(low[1]), float(high[1]))
    for name, (colour, style) in DRAWN.items():
        a, b, c = found[name].tolist()
        on = [-c * a / (a * a + b * b), -c * b / (a * a + b * b)]
        panel.axline((on[0], on[1]), (on[0] - b, on[1] + a), color=colour, linestyle=style, linewidth=1.6, label=name)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


def main() -> None:
    """Learn, and write the page and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--out", type=Path, default=Path("docs/perceptron.md"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds, steps, rate = arguments.seeds, arguments.steps, arguments.rate
    fits = methods(steps, rate)
    runs = run(seeds, fits)
    stuck = all(torch.equal(found["descent through H"], start) for of in runs.values() for _, start, found in of)
    command = f"python scripts/perceptron.py --seeds {seeds} --steps {steps} --rate {rate:g}"
    length = statistics.median(float((of.x @ w["H, straight-through"]).abs().max()) for of, _, w in runs["outliers"])
    shown = {
        "length": f"{length:.2f}",
        "command": command,
        "points": POINTS,
        "seeds": seeds,
        "steps": steps,
        "rate": rate,
    }
    page = PAGE.format(table=table(runs, list(fits)), moved="" if stuck else " NOT SO: LOOK INTO IT.", **shown)
    picture(runs, arguments.out.with_suffix(".svg"))
    with replacing(arguments.out) as file:
        file.write(page.encode())


if __name__ == "__main__":
    main()
