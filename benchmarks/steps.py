"""How much slower than ReLU are the step activations? Forward and backward, eager and compiled.

    python benchmarks/steps.py --threads 1

Every activation is timed in turn, round after round, and each time is divided by that of eager ``torch.relu`` in the
same round; the table holds the median of these ratios. So it compares what ran under the same load, but means no more
on another machine: ReLU is bound by memory, and how fast memory is there decides the rest. Compiled ReLU is left out:
it saves a mask of booleans for the way back, takes tens of times as long, and disturbs what is timed after it.

A ratio above its bar has a ``!`` behind it. Times at a million hold only if the processor's last cache holds 32 MB.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch._dynamo
from torch import Tensor

from rlgrad.steps import QPWC, RULES, Sign, Staircase, Step

WARM = 2
# The largest ratio that there should be, eager and compiled, by how a name starts.
BARS = {"QPWC": (8.0, 3.0), "": (3.0, 2.0)}
Activation = Callable[[Tensor], Tensor]

FIVE_LEVELS = [0.0, 0.25, 0.5, 0.75, 1.0], [0.125, 0.375, 0.625, 1.0]
ACTIVATIONS: dict[str, Activation] = {
    "ReLU": torch.relu,
    "Step, none": Step(),
    **{f"Step, {name}": Step(backward=name) for name in RULES},
    "Step, straight_through(1)": Step(backward=RULES["straight_through"](clip=1.0)),  # type: ignore[call-arg]
    "Sign, arctan": Sign(backward="arctan"),
    "Staircase of 5, arctan": Staircase(*FIVE_LEVELS, backward="arctan"),
    "QPWC": QPWC(sharp=10.0),
}


def keep_freed_memory() -> None:
    """Have the C library reuse what a tensor of up to 31 MiB leaves, as it does in any program that has freed one.

    Else it gives some of it back to the system, whenever so much of it lies at the end of the heap. To take it again
    takes several times as long as ReLU, and whichever activation comes next pays for it.
    """
    torch.empty(31 << 18)


def seconds(activation: Activation, x: Tensor, grad: Tensor) -> float:
    """Of one forward and one backward pass, after some that bring cache and heap to where they stay."""
    for _ in range(WARM + 1):
        x.grad = None
        start = time.perf_counter()
        activation(x).backward(grad)
        taken = time.perf_counter() - start
    return taken


def ratios(activations: dict[str, Activation], size: int, rounds: int) -> tuple[dict[str, float], float]:
    """Median over rounds of each time divided by ReLU's in the same round, and ReLU's own median in milliseconds."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, generator=generator).requires_grad_()
    grad = torch.randn(size, generator=generator)
    for activation in activations.values():
        seconds(activation, x, grad)  # compiles
    times = [{name: seconds(one, x, grad) for name, one in activations.items()} for _ in range(rounds)]
    found = {name: statistics.median(row[name] / row["ReLU"] for row in times) for name in activations}
    return found, 1e3 * statistics.median(row["ReLU"] for row in times)


def main() -> None:
    """Time everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**6, 10**7])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--eager", action="store_true", help="do not compile")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    torch._dynamo.config.recompile_limit = 2 * len(ACTIVATIONS) * len(arguments.sizes)  # they share their code
    timed = dict(ACTIVATIONS)
    if not arguments.eager:
        timed |= {
            f"{name}, compiled": compiled(activation) for name, activation in ACTIVATIONS.items() if name != "ReLU"
        }
    print(f"torch {torch.__version__}, {arguments.threads} threads, median of {arguments.rounds} rounds, x eager ReLU")
    columns = []
    for size in arguments.sizes:
        column, relu = ratios(timed, size, arguments.rounds)
        columns.append(column)
        print(f"eager ReLU at {size:,}: {relu:.2f} ms")
    kinds = ("", ", compiled") if not arguments.eager else ("",)
    header = [f"{kind.removeprefix(', ') or 'eager'} {size:.0e}" for kind in kinds for size in arguments.sizes]
    print("".join([f"{'':28}", *(f"{cell:>16}" for cell in header)]))
    for name in ACTIVATIONS:
        bars = next(bars for start, bars in BARS.items() if name.startswith(start))
        cells = [
            _cell(column.get(name + kind), bar) for kind, bar in zip(kinds, bars, strict=False) for column in columns
        ]
        print("".join([f"{name:28}", *(f"{cell:>16}" for cell in cells)]))


def _cell(ratio: float | None, bar: float) -> str:
    return "-  " if ratio is None else f"{ratio:.2f} {'!' if ratio > bar else ' '}"


def compiled(activation: Activation) -> Activation:
    """The same through the compiler, which must take it in one graph."""
    return torch.compile(activation, fullgraph=True, dynamic=False)


if __name__ == "__main__":
    main()
