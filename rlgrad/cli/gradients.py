"""``rlgrad audit`` and ``rlgrad probe``: what gradients there are, and how good they are."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from rlgrad.cli.arguments import BadInput, MetricName, Network, check_name, metric_named, problem_of
from rlgrad.files import check_writable, replacing

if TYPE_CHECKING:
    from rlgrad.auditing import Subject
    from rlgrad.probing import Report

_DRAWN = "audit.json", "audit.svg"
_DTYPES = "float32", "float64", "int64"


@dataclass
class Audit:
    """Measure how right, how noisy and how dear each gradient is: of estimators and of surrogates, on one batch.

    A network is trained for a few epochs on cross-entropy; then every candidate's gradient of the metric is compared
    with the true one, in the logits and through the weights. Without a table it looks at scikit-learn's handwritten
    digits, the 8 against the others.
    """

    table: tyro.conf.Positional[Path | None] = None
    """CSV, TSV, ARFF or Parquet file of numbers and text; values may be missing."""
    target: str | None = None
    """Column to predict, which holds two labels."""
    metric: MetricName = "f1"
    model: Network = "linear"
    """A linear model, or a network with two hidden layers of 64 units."""
    candidates: Annotated[
        tuple[str, ...],
        tyro.conf.arg(metavar="NAME ...", help="Which rows of the table, such as disarm or bce; all if left."),
    ] = ()
    items: int = 256
    """Rows of the batch."""
    epochs: int = 5
    """Passes of cross-entropy before the look; 0 for fresh weights."""
    estimates: int = 1000
    """Estimates of each candidate, at most."""
    seconds: float = 0.8
    """Time for the estimates of each candidate: a slower machine makes fewer."""
    out: Path | None = None
    """Folder for audit.json and the figure audit.svg."""
    overwrite: bool = False
    """Replace those that are in the folder."""
    positive: str | None = None
    """Label of the positive class; by default the last of the two in sort order."""
    no_header: bool = False
    """The file has no line of names: its columns are 0, 1, 2, ..."""
    seed: int = 0
    """Of the split, the weights, the batch and the draws."""

    def run(self) -> int:
        """Prepare a batch, measure, print the table, save it and the figure."""
        metric = metric_named(self.metric)
        self._check()
        import torch

        from rlgrad.auditing import audit, default_estimators, default_surrogates

        estimators, surrogates = default_estimators(), default_surrogates(metric)
        for name in self.candidates:
            check_name(name, [*estimators, *surrogates], "a candidate")
        chosen = self.candidates or (*estimators, *surrogates)
        torch.set_num_threads(1)  # an estimate takes less time than threads take to meet
        subject = self._subject()
        result = audit(
            subject.logits,
            subject.target,
            metric,
            {name: estimators[name] for name in estimators if name in chosen},
            {name: surrogates[name] for name in surrogates if name in chosen},
            weights=subject.weights,
            estimates=self.estimates,
            seconds=self.seconds,
            seed=self.seed,
            problem=subject.name,
            progress=True,
        )
        print(result)
        if self.out is not None:
            from rlgrad.report.figures import cosine_against_cost

            table, figure = (self.out / name for name in _DRAWN)
            result.save(table)
            cosine_against_cost(result.to_dict(), figure)
            print(f"\nwritten: {table}, {figure}")
        return 0

    def _check(self) -> None:
        if self.out is None:
            return
        for name in _DRAWN:
            check_writable(self.out / name)
        there = [self.out / name for name in _DRAWN if (self.out / name).exists()]
        if there and not self.overwrite:
            raise FileExistsError(f"needed a new file to write, got {there[0]}, which exists; pass --overwrite")

    def _subject(self) -> "Subject":
        from rlgrad.auditing import prepare

        problem = problem_of(self.table, self.target, self.positive, self.no_header)
        if len(problem.target.labels) > 1:
            raise BadInput(f"needed one target column to audit, got --target {self.target}; name one")
        return prepare(problem, network=self.model, items=self.items, epochs=self.epochs, seed=self.seed)


@dataclass
class Probe:
    """Find out whether back-propagation can train through a function or a network, and if not, what is in the way.

    Without arguments it shows the table of the functions it knows.
    """

    what: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(
            metavar="NAME ...",
            help="Functions: package.module:name, or known ones such as relu or argmax. They come before the options.",
        ),
    ] = ()
    shape: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="N,N,... ...",
            help="Shapes of the example inputs, each such as 8,3, the same for all functions named; one of (8,) if "
            "left.",
        ),
    ] = ()
    dtype: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="DTYPE ...",
            help=f"Of the example inputs, one for all or one for each shape, of {', '.join(_DTYPES)}; float32 if left. "
            "Integers are zeros and ones, which any embedding takes.",
        ),
    ] = ()
    out: Path | None = None
    """JSON file for the findings."""
    overwrite: bool = False
    """Replace the file if it exists."""
    seed: int = 0
    """Of the example inputs and of the points looked at."""

    def run(self) -> int:
        """Probe, print, and write the findings down."""
        shapes = [_shape(text) for text in self.shape] or [(8,)]
        self._check_dtypes()
        if (self.shape or self.dtype) and not any(":" in name or "." in name for name in self.what):
            given = " and ".join(["--shape"] * bool(self.shape) + ["--dtype"] * bool(self.dtype))
            raise BadInput(
                f"needed a package.module:name to give inputs to, got {given} alone; known functions have theirs"
            )
        if self.out is not None:
            check_writable(self.out)
            if self.out.exists() and not self.overwrite:
                raise FileExistsError(f"needed a new file to write, got {self.out}, which exists; pass --overwrite")
        from rlgrad.probing import BUILTINS, builtins_text, probe_builtins

        if not self.what:
            reports = probe_builtins(seed=self.seed)
            print(builtins_text(reports))
        else:
            reports = {name: self._report(name, shapes, list(BUILTINS)) for name in self.what}
            print("\n\n".join(str(report) for report in reports.values()))
        if self.out is not None:
            with replacing(self.out) as file:
                file.write(json.dumps({name: one.to_dict() for name, one in reports.items()}, indent=2).encode())
            print(f"\nwritten: {self.out}")
        return 0

    def _report(self, name: str, shapes: list[tuple[int, ...]], known: list[str]) -> "Report":
        import torch

        from rlgrad.probing import BUILTINS, example, load, probe

        if ":" not in name and "." not in name:
            check_name(name, known, "a known function, or package.module:name,")
            return replace(BUILTINS[name].probe(seed=self.seed), name=name)
        try:
            function = load(name)
            dtypes = [getattr(torch, dtype) for dtype in self.dtype] or [torch.float32]
            return probe(function, *example(shapes, dtypes=dtypes, seed=self.seed), seed=self.seed)
        except (TypeError, ImportError, RuntimeError) as error:  # of the user's function, or of what it was given
            raise BadInput(str(error)) from error

    def _check_dtypes(self) -> None:
        for dtype in self.dtype:
            if dtype not in _DTYPES:
                raise BadInput(
                    f"needed a dtype of {', '.join(_DTYPES)}, got --dtype {dtype!r}; names of functions come first, as "
                    "in rlgrad probe NAME --dtype int64"
                )


def _shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in text.split(",") if size.strip())
    except ValueError:
        raise BadInput(
            f"needed a shape such as 8,3, got --shape {text!r}; write sizes with commas between, and names of "
            "functions first, as in rlgrad probe NAME --shape 8,3"
        ) from None
