"""How far is a single gradient estimate from the true gradient, and how does that change with the number of decisions?

    python scripts/cosines.py

writes docs/audit.md, docs/audit-digits.svg and docs/audit-digits.json. Everything but seconds, memory and the figure's
horizontal axis, which is seconds, comes out the same each time. It takes a few minutes.
"""

from math import inf
from pathlib import Path
from statistics import mean, stdev

import torch
from torch import Tensor

from rlgrad.auditing import Audit, audit, builtin
from rlgrad.estimators import Estimator, counterfactual, score_function
from rlgrad.metrics import f1
from rlgrad.report.figures import cosine_against_cost
from rlgrad.surrogates import Criterion, bce, soft
from rlgrad.text import markdown

DOCS = Path(__file__).resolve().parents[1] / "docs"
SEEDS = range(5)
SIZES = (256, 4096, 65536)
# Share of positives, and the mean and spread of logits: N(mean, spread) at positives, N(-mean, spread) at negatives.
CLASSIFIERS = {"unsure": (0.2, 1.0, 1.0), "confident": (0.3, 3.0, 2.0)}
ESTIMATORS: dict[str, Estimator] = {
    "leave-one-out, 2 draws": score_function(draws=2),
    "leave-one-out, 16 draws": score_function(draws=16),
    "counterfactual, 1 draw": counterfactual(draws=1),
}
SURROGATES: dict[str, Criterion] = {"soft F1": soft(f1), "cross-entropy": bce}


def classifier(kind: str, items: int, seed: int) -> tuple[Tensor, Tensor]:
    """Logits and target; AUC 0.92 for the unsure, 0.98 for the confident one."""
    positives, centre, spread = CLASSIFIERS[kind]
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(items, generator=generator) < positives
    return torch.where(target, centre, -centre) + spread * torch.randn(items, generator=generator), target


def cosines(kind: str, items: int) -> dict[str, list[float]]:
    """Mean cosine of one estimate, by candidate, for each seed."""
    found: dict[str, list[float]] = {name: [] for name in (*ESTIMATORS, *SURROGATES)}
    for seed in SEEDS:
        logits, target = classifier(kind, items, seed)
        result = audit(
            logits, target, f1, ESTIMATORS, SURROGATES, estimates=250, seconds=inf, truth_seconds=2.0, seed=seed
        )
        for row in result.rows:
            assert row.logits is not None, row.error
            found[row.name].append(row.logits.cosine)
    return found


def cosine_table() -> str:
    """One line for each size and classifier."""
    rows = [["outputs", *ESTIMATORS, *SURROGATES]]
    for items in SIZES:
        for kind in CLASSIFIERS:
            numbers = (f"{mean(each):.4f} ± {stdev(each):.4f}" for each in cosines(kind, items).values())
            rows.append([f"{items}, {kind}", *numbers])
    return markdown(rows)


def digits() -> Audit:
    """The built-in problem, with as many estimates as always, however fast the machine."""
    subject = builtin()
    return audit(
        subject.logits,
        subject.target,
        f1,
        weights=subject.weights,
        estimates=1000,
        seconds=inf,
        problem=subject.name,
    )


def main() -> None:
    """Measure, then write the page and its figure."""
    torch.set_num_threads(1)  # tensors are small here: threads would only wait for one another
    table, result = cosine_table(), digits()
    result.save(DOCS / "audit-digits.json")
    cosine_against_cost(result.to_dict(), DOCS / "audit-digits.svg")
    page = PAGE.format(table=table, seeds=len(SEEDS), audit=result)
    (DOCS / "audit.md").write_text(page, encoding="utf-8")


PAGE = """# How good is a gradient estimate?

Written by `python scripts/cosines.py`; all numbers but seconds and memory come out the same each time.

## The number of decisions

Cosine of a single estimate to the exact gradient of E[F1] in the logits: mean over {seeds} seeds ± standard deviation
between them, of 250 estimates each. Of the unsure classifier's decisions 20% are positives, with logits from N(1, 1),
and N(-1, 1) at negatives; of the confident one's 30%, with N(3, 2) and N(-3, 2), standard deviations given.

{table}

A reward that all decisions share tells each of them little: the cosine of leave-one-out falls as one over the root of
their number, near root((draws - 1) / outputs), and the more decisions are sure, the fewer there are to share it. Credit
to single decisions does not drown. For a formula of counts over many decisions the soft surrogate has the true
direction: nothing is to be won over it there.

## The built-in problem

Scikit-learn's digits, a linear model after five epochs of cross-entropy, 256 rows of its training part; 1000 estimates
of each candidate that draws:

```
{audit}
```

![Cosine of one estimate against the seconds it takes](audit-digits.svg)

The same numbers, and more, are in [audit-digits.json](audit-digits.json).

The same measures for gradients through hard steps, of surrogate derivatives and of estimators, in the weights of a
network: [gradients through hard steps](step_gradients.md).
"""

if __name__ == "__main__":
    main()
