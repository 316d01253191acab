"""How good are the gradients through hard steps? Each rule and estimator against the true gradient of a network.

    python scripts/step_gradients.py

writes docs/step_gradients.md. It takes about five minutes. On the small networks everything comes out the same each
time; on the large one it depends on what a machine does in the time that it is given.
"""

from collections.abc import Callable, Iterable
from itertools import pairwise
from math import inf
from pathlib import Path
from statistics import mean
from textwrap import fill

import torch
from sklearn.datasets import load_digits, load_iris
from torch import Tensor, nn

from rlgrad.auditing import Audit, audit_network, default_network_estimators
from rlgrad.auditing.result import Row
from rlgrad.estimators import Estimator, enumeration, score_function
from rlgrad.files import replacing
from rlgrad.steps import Step
from rlgrad.stochastic import ExpectedLoss, policy_gradient
from rlgrad.text import code, markdown

DOCS = Path(__file__).resolve().parents[1] / "docs"
LOSS = nn.CrossEntropyLoss(reduction="none")
SMALL = {"one layer of steps": (4, 5, 3), "two layers of steps": (4, 5, 4, 3)}
TEMPERATURES = (1.0, 0.3)
STEPS, RATE = 200, 0.02  # of Adam, on all rows, before a network counts as trained
ROWS, ESTIMATES = 16, 200
LOOKED = 4000  # estimates of one column, to see what makes their mean
SHORT = {"temperature ": "T = ", " layer of steps": " layer", " layers of steps": " layers"}
LARGE, BATCH = (64, 128, 128, 10), 64
BIASED = ("straight_through", "gumbel_softmax", "gumbel_softmax-hard", "mean_field", "spsa", "evolution_strategies")
# They list the outcomes of a layer, and a layer of 128 units has too many; or they are slow and known to be noisy.
SKIPPED = ("enumeration", "unordered_set", "sum_and_sample", "inclusion_weighted", "greedy", "moving_average")


def network(sizes: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with drawn steps between them."""
    torch.manual_seed(0)
    *hidden, last = pairwise(sizes)
    layers = [part for each in hidden for part in (nn.Linear(*each), Step(backward=policy_gradient()))]
    return nn.Sequential(*layers, nn.Linear(*last))


def iris() -> tuple[Tensor, Tensor]:
    """All rows, standardized, in an order that mixes the classes."""
    x, y = map(torch.from_numpy, load_iris(return_X_y=True))
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    return ((x - x.mean(0)) / x.std(0)).float()[order], y[order]


def digits() -> tuple[Tensor, Tensor]:
    """Pixels from 0 to 1."""
    x, y = map(torch.from_numpy, load_digits(return_X_y=True))
    return (x / 16).float(), y


def trained(model: nn.Sequential, x: Tensor, y: Tensor, temperature: float, *, steps: int = STEPS) -> nn.Sequential:
    """A network after some steps of training at a temperature, on all rows or on batches of them."""
    generator = torch.Generator().manual_seed(0)
    criterion = ExpectedLoss(LOSS, temperature=temperature, generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    for _ in range(steps):
        batch = torch.randperm(len(y), generator=generator)[: 2 * BATCH]
        optimizer.zero_grad()
        criterion(model, x[batch], y[batch]).backward()
        optimizer.step()
    return model


def small() -> dict[str, Audit]:
    """Audits with an exact truth, by name."""
    x, y = iris()
    found = {}
    for layers, sizes in SMALL.items():
        for temperature in TEMPERATURES:
            for state, steps in (("fresh", 0), ("trained", STEPS)):
                model = trained(network(sizes), x, y, temperature, steps=steps)
                name = f"{layers}, {state}, temperature {temperature:g}"
                found[name] = audit_network(
                    model, x[:ROWS], y[:ROWS], temperature=temperature, estimates=ESTIMATES, seconds=inf, problem=name
                )
    return found


def large() -> dict[str, Audit]:
    """Audits of the network of the digits study, whose truth is a long run."""
    x, y = digits()
    chosen: dict[str, Estimator] = {
        name: each for name, each in default_network_estimators().items() if name not in SKIPPED
    }
    found = {}
    for state, steps in (("fresh", 0), ("trained", STEPS // 4)):
        model = trained(network(LARGE), x, y, TEMPERATURES[0], steps=steps)
        found[state] = audit_network(
            model, x[:BATCH], y[:BATCH], estimators=chosen, estimates=100, seconds=2.0, truth_seconds=40.0,
            problem=f"digits, {state}",
        )  # fmt: skip
    return found


def overview(found: dict[str, Audit], cell: Callable[[Row], str]) -> str:
    """A line for each candidate, a column for each audit."""
    names = [row.name for row in next(iter(found.values())).rows]
    return table(found, "candidate", {code(name): [cell(audit[name]) for audit in found.values()] for name in names})


def table(found: dict[str, Audit], corner: str, lines: dict[str, list[str]]) -> str:
    """Lines by name, a column for each audit."""
    header = [corner, *found]
    for long, brief in SHORT.items():
        header = [name.replace(long, brief) for name in header]
    return markdown([header, *([name, *cells] for name, cells in lines.items())])


def cosine(row: Row) -> str:
    """In the weights before the first step."""
    return "-" if row.error is not None else f"{row.layers['0'].cosine:.3f}"


def bias_and_variance(row: Row) -> str:
    """In all weights; a bias where one was found, or what it is below where noise is larger."""
    if row.weights is None or row.weights.bias is None or row.weights.variance is None:
        return "-"
    bound = "" if row.weights.bias_limit is None else f"!<{row.weights.bias_limit:.1%}"
    found = f"{row.weights.bias:.1%}" if row.weights.bias else bound
    bias = "?" if row.biased is None else found if row.biased else "none"
    return f"{bias}, {row.weights.variance:.2g}"


def unbiased(rows: Iterable[Row]) -> list[Row]:
    """Estimators that are without bias in theory, and were measured."""
    return [row for row in rows if row.kind == "estimator" and row.name not in BIASED and row.error is None]


def tests(found: dict[str, Audit]) -> str:
    """What the test said of those that draw: without a bias in theory, and with one."""
    rows = [row for audit in found.values() for row in audit.rows if row.weights is not None and row.weights.variance]
    fair = unbiased(rows)
    others = [row for row in rows if row not in fair]
    (alarms, tested), (seen, asked) = (
        (sum(row.biased is True for row in part), sum(row.biased is not None for row in part))
        for part in (fair, others)
    )
    return (
        f"Of {tested} tests of estimators without a bias in theory, each at 1% false alarms, {alarms} found one, and "
        f"{len(fair) - tested} runs were too short to tell; of {asked} tests of other estimators that draw {seen} did, "
        f"and {len(others) - asked} were too short. What does not draw is compared, not tested, and not counted."
    )


def by_layer(found: dict[str, Audit]) -> str:
    """Where rules go wrong: the mean cosine of all but ``none``, column by column."""
    lines = {}
    for name, at in (("before the first step", 0), ("after the last step", -1)):
        lines[name] = [
            f"{mean(list(row.layers.values())[at].cosine for row in audit.rows if is_rule(row)):.3f}"
            for audit in found.values()
        ]
    return table(found, "weights", lines)


def is_rule(row: Row) -> bool:
    """A rule other than the true derivative."""
    return row.kind == "surrogate" and row.name != "rule-none"


def best_rule(found: dict[str, Audit]) -> str:
    """Which rule was nearest in the first layer, and how often."""
    best = [max(filter(is_rule, audit.rows), key=lambda row: row.layers["0"].cosine).name for audit in found.values()]
    counted = ", ".join(f"{code(name)} ({best.count(name)})" for name in dict.fromkeys(best))
    return (
        f"Nearest of the rules before the first step, by the number of columns: {counted}. Rules stand at their "
        "default slopes, which one temperature suits and another does not, and all columns start from one set of "
        "initial weights: this is no ranking of rules."
    )


def rare() -> str:
    """Why single estimates point the wrong way where two layers are trained at temperature 1."""
    x, y = iris()
    sizes, temperature = SMALL["two layers of steps"], TEMPERATURES[0]
    model = trained(network(sizes), x, y, temperature)
    x, y = x[:ROWS], y[:ROWS]
    numbers = slice(sum(weight.numel() for weight in model[0].parameters()))

    def gradients(estimator: Estimator, part: slice, count: int) -> Tensor:
        criterion = ExpectedLoss(LOSS, estimator, temperature=temperature, generator=torch.Generator().manual_seed(0))
        losses = (criterion(model, x[part], y[part]) for _ in range(count))
        every = [torch.autograd.grad(loss, list(model.parameters())) for loss in losses]
        return torch.stack([torch.cat([each.flatten() for each in one]) for one in every])

    whole = gradients(enumeration(), slice(None), 1)[0]
    truth = whole[numbers]
    rows = [gradients(enumeration(), slice(at, at + 1), 1)[0, numbers] @ truth / ROWS for at in range(ROWS)]
    share = float(torch.stack(rows).topk(2).values.sum() / truth.square().sum())
    sample = gradients(score_function(2), slice(None), LOOKED)[:, numbers]
    along, longest = sample @ truth, sample.norm(dim=1).topk(LOOKED // 20).indices
    against = float((along < 0).float().mean())
    return (
        f"In the column of two layers, trained, T = {temperature:g}, a negative cosine of an estimator that draws is "
        "no sign of a bias. The truth before the first step is "
        f"{float(truth.norm() / whole.norm()):.1%} as long as that of all weights; two of the {ROWS} rows make "
        f"{share:.0%} of it. Of the mean of {LOOKED} estimates of `score_function-2`, along the truth, "
        f"{float(along[longest].sum() / along.sum()):.0%} is due to the longest twentieth of them, the others adding "
        f"up to next to nothing; {against:.0%} of all point against it. Decisions that are rare make the truth, and "
        "the cosine of a single estimate says little of their mean. `mean_field` and the rules draw nothing: what they "
        "show there is a bias."
    )


def least_noise(state: str, audit: Audit) -> str:
    """The unbiased ones of the large network in the order of their variance."""
    measured = [(row.weights.variance, row.name) for row in unbiased(audit.rows) if row.weights]
    ranked = sorted((variance, name) for variance, name in measured if variance is not None)
    listed = ", ".join(f"{code(name)} {variance:.2g}" for variance, name in ranked)
    return f"Variance of those without a bias in theory, {state}: {listed}."


def wrapped(text: str) -> str:
    """In lines of a page; names with hyphens stay whole."""
    return fill(text, 120, break_on_hyphens=False)


def main() -> None:
    """Measure, then write the page."""
    torch.set_num_threads(1)  # tensors are small here: threads would only wait for one another
    few, many = small(), large()
    page = PAGE.format(
        rows=ROWS,
        estimates=ESTIMATES,
        steps=STEPS,
        large_steps=STEPS // 4,
        batch=BATCH,
        cosines=overview(few, cosine),
        biases=overview(few, bias_and_variance),
        tests=wrapped(tests(few)),
        by_layer=by_layer(few),
        best_rule=wrapped(best_rule(few)),
        rare=wrapped(rare()),
        noise="\n\n".join(wrapped(least_noise(state, audit)) for state, audit in many.items()),
        **{state: str(audit) for state, audit in many.items()},
    )
    with replacing(DOCS / "step_gradients.md") as file:
        file.write(page.encode())


PAGE = """# How good is a gradient through hard steps?

Written by `python scripts/step_gradients.py`, with `rlgrad.auditing.audit_network`.

A network of hard steps has a loss that is flat in all weights before its last step: there is no gradient to be right or
wrong about. What can be compared with is the network of *drawn* units, where a unit with input z is 1 with probability
sigmoid(z / T): its expected loss is smooth, and `ExpectedLoss` descends it. Estimators estimate its gradient. Surrogate
rules (`rule-`, by their names in `rlgrad.steps`; `rule-none` is the true derivative, zero) belong to the hard network.
What is measured of them is how their direction at given weights differs from the gradient of the drawn network; their
length is not held against them, and what either is worth in training is not measured here. `mean_field` is
back-propagation through sigmoid(z / T) in the place of steps. A number behind an estimator is that of its draws.

## Small networks, the true gradient exact

Networks 4-5-3 and 4-5-4-3 on {rows} rows of iris, fresh and after {steps} steps of training; {estimates} estimates of
each that draws. The truth lists every outcome of every layer.

Mean cosine of one estimate to the truth in the weights *before the first step*; one of noisy estimates is small, and
may be negative, without a bias:

{cosines}

{rare}

The same of the rules, mean over all but `rule-none`, before the first step and after the last:

{by_layer}

{best_rule}

Bias, where one was found, and variance, both in all weights, over the length of the truth and its square; rules are
scaled to fit best first. `!<b`: a bias was found in some direction or layer, and drowns in the noise of the whole,
where it is below b with 99% confidence. `?`: too few rare decisions came up to tell.

{biases}

{tests}

After the last step back-propagation is the same for all estimators, and where its gradient is long the whole looks
better than what comes before the first step.

## 64-128-128-10

The network of [the study on digits](hard_steps.md), a batch of {batch}, fresh and after {large_steps} steps of
training, at temperature 1. The truth is a long run of one of the candidates itself, with draws of its own; its error
counts as noise.

{noise}

```
{fresh}
```

```
{trained}
```
"""

if __name__ == "__main__":
    main()
