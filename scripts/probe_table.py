"""Which well-known functions can back-propagation train through? The probe's own answer, as a page.

python scripts/probe_table.py --out docs/probe.md
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

from rlgrad.probing import Report, builtins_table, probe_builtins

PAGE = """# What back-propagation can train through

The verdicts of `rlgrad.probing.probe` on functions of a vector `x` of four numbers (`y` is a fixed target), written by

    python scripts/probe_table.py --out docs/probe.md

{table}

## How to read a verdict

- **cut**: autograd gives no gradient at all; the operation that cut it is named. Its value depends on the input all
  the same.
- **flat**: autograd gives a gradient, and it is zero at the example and at every random point around it. Finite
  differences over large steps tell a function that moves by jumps from one that does not move.
- **non-finite**: the gradient is infinite or NaN, or the value NaN, at the example, at a random point, or where
  functions like to break: zeros, ones, minus ones, ties.
- **pretended**: autograd gives a slope, and finite differences another. That may be meant, as it is in a
  straight-through step.
- **useful**: none of these. A *kink* is a point without a derivative, where torch takes one by convention; that does
  no harm, since training hardly ever meets it. Its slopes are those of the output's sum, or of its first entry, along
  the first entry of the input. A network of `relu` and `max` is full of them: none is told there. A leaf that *rests*
  has a zero gradient at the example and another elsewhere, as a dead unit has. An *overflow* is one at large inputs in
  the type of the example.
- **unused** and **frozen**, which only models show: the leaf takes no part, or does not want a gradient.

Autograd is asked at a finite number of points, and finite differences are taken in float64: a hole between the points
stays unseen.

## A model

```python
import rlgrad.probing

report = rlgrad.probing.probe(model, batch)  # any function or module, and example inputs
print(report)  # a table, and what to do
report.dead_layers  # modules whose weights get no gradient
```

A module's parameters are leaves as its inputs are; so are those of modules that a function closes over, as in
`probe(lambda x, y: criterion(model(x), y), x, y)`, and of those that run in it at the example, wherever it has them
from: `probe(trainer.loss, x)`. Nothing is changed: neither weights nor buffers nor random state. Where the parameters
of a module that runs are no leaves, as those of one that the function makes anew each time, a note says so.
"""


def page(reports: Mapping[str, Report]) -> str:
    """The page as Markdown."""
    return PAGE.format(table=builtins_table(reports))


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/probe.md"))
    parser.parse_args().out.write_text(page(probe_builtins()), encoding="utf-8")


if __name__ == "__main__":
    main()
