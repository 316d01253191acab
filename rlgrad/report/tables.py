"""Records of one setting as a table for the terminal, a table for Markdown, and one sentence that answers.

Every number is a mean over seeds and every interval a 95% interval. In the table each interval stands by itself; a
table with eleven differences holds eleven chances to be fooled, so the sentence judges them all together.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor, isnan, log10, nan
from textwrap import fill

from rlgrad.study.records import Record, one_setting, scores
from rlgrad.study.statistics import Interval, Verdict, interval, paired_difference
from rlgrad.text import aligned, code, markdown

_UNKNOWN = Interval(nan, nan, nan)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method of a table.

    Args:
        method: its name.
        seeds: how many of its runs finished; the means are over these.
        failed: how many did not.
        test: test metric under the method's own decision rule; all NaN where no run finished.
        difference: paired difference of that to the reference; None for the reference and for a method that shares
            no seed with it.
        test_tuned: mean test metric of the same weights with the threshold tuned on validation; NaN where none is.
        seconds: mean time of training.
    """

    method: str
    seeds: int
    failed: int
    test: Interval
    difference: Interval | None
    test_tuned: float
    seconds: float


def summary(
    records: Iterable[Record],
    *,
    reference: str,
    methods: Sequence[str] | None = None,
    overlap: float = 0.0,
) -> list[Row]:
    """One row for each method of one setting.

    Args:
        records: of one task, metric and arguments; of runs made twice the last counts.
        reference: the method that the others are compared with.
        methods: the order of the rows, and which; by default all, as they first appear.
        overlap: n_test / n_train where the seeds re-split the same rows, see `statistics.interval`.

    Raises:
        ValueError: records of several settings, or a method or reference that they do not hold.
    """
    runs = one_setting(records)
    results = scores(runs)
    chosen = list(results if methods is None else methods)
    unknown = [name for name in [reference, *chosen] if name not in results]
    if unknown:
        raise ValueError(f"needed methods among {list(results)}, got {unknown}; check the names")
    base = results[reference]
    rivals = [name for name in chosen if name != reference and results[name].keys() & base.keys()]
    gaps = {name: paired_difference(results[name], base, overlap=overlap) for name in rivals}
    return [_row([run for run in runs if run.method == name], gaps.get(name), overlap) for name in chosen]


def _row(runs: list[Record], difference: Interval | None, overlap: float) -> Row:
    finished = [run for run in runs if run.error is None]
    return Row(
        method=runs[0].method,
        seeds=len(finished),
        failed=len(runs) - len(finished),
        test=interval([run.test for run in finished], overlap=overlap) if finished else _UNKNOWN,
        difference=difference,
        test_tuned=_mean([run.test_tuned for run in finished]),
        seconds=_mean([run.seconds for run in finished]),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else nan


def to_text(rows: Sequence[Row], *, metric: str, reference: str, overlap: float = 0.0) -> str:
    """An aligned table for the terminal, with notes on how to read it; 100 columns for names of usual length.

    Args:
        rows: from `summary`.
        metric: name of the metric.
        reference: as given to `summary`.
        overlap: as given to `summary`.
    """
    table = aligned(_table(rows, metric, reference, None))
    notes = [fill(note, width=100) for note in _notes(rows, reference, overlap, None)]
    return "\n".join([table, "", *notes])


def to_markdown(
    rows: Sequence[Row], *, metric: str, reference: str, overlap: float = 0.0, unit: str | None = None
) -> str:
    """The same table and notes in Markdown, names as code.

    Args:
        rows: from `summary`.
        metric: name of the metric.
        reference: as given to `summary`.
        overlap: as given to `summary`.
        unit: the method whose time is the unit of the last column, in place of seconds, which are of one machine.
    """
    header, *body = _table(rows, metric, reference, unit)
    table = markdown([header, *([code(name), *rest] for name, *rest in body)])
    return "\n".join([table, "", *(f"- {note}" for note in _notes(rows, reference, overlap, unit))])


def _table(rows: Sequence[Row], metric: str, reference: str, unit: str | None) -> list[list[str]]:
    """Header and cells."""
    digits = _digits([value for row in rows for value in (*row.test, *(row.difference or ()))], most=3)
    columns = {
        "method": [row.method for row in rows],
        "seeds": [str(row.seeds) for row in rows],
        f"test {metric} [95%]": [_bounds(row.test, f".{digits}f") for row in rows],
        f"minus {reference} [95%]": [
            "reference" if row.method == reference else _bounds(row.difference or _UNKNOWN, f"+.{digits}f")
            for row in rows
        ],
    }
    if _any_tuned(rows):
        columns["tuned"] = [_number(row.test_tuned, f".{digits}f") for row in rows]
    of_unit = {row.method: row.seconds for row in rows}[unit] if unit else 1.0
    columns["time" if unit else "seconds"] = [_number(row.seconds / of_unit, ".1f") for row in rows]
    return [list(columns), *map(list, zip(*columns.values(), strict=True))]


def _any_tuned(rows: Sequence[Row]) -> bool:
    return not all(isnan(row.test_tuned) for row in rows)


def _digits(values: Iterable[float], *, most: int) -> int:
    """Decimals to show: `most` where all values are below ten, one fewer for each further power of ten."""
    largest = max((abs(value) for value in values if not isnan(value)), default=0.0)
    return max(0, most - floor(log10(max(largest, 1.0))))


def _bounds(bounds: Interval, form: str) -> str:
    if isnan(bounds.mean):
        return "-"
    if isnan(bounds.low):
        return f"{bounds.mean:{form}} [one seed]"
    return f"{bounds.mean:{form}} [{bounds.low:{form}}, {bounds.high:{form}}]"


def _number(value: float, form: str) -> str:
    return "-" if isnan(value) else f"{value:{form}}"


def _notes(rows: Sequence[Row], reference: str, overlap: float, unit: str | None) -> list[str]:
    compared = sum(row.difference is not None for row in rows)
    alone = f"; each of the {compared} intervals stands by itself" if compared > 1 else ""
    failures = [f"{row.method} {row.failed} of {row.failed + row.seeds}" for row in rows if row.failed]
    notes = {
        "test: mean over seeds [Student-t interval]; larger is better.": True,
        f"minus {reference}: paired over seeds{alone}.": compared > 0,
        f"seeds re-split the same rows: variances corrected for n_test/n_train = {overlap:.3g}.": overlap > 0,
        "tuned: test metric of the same weights, with the threshold tuned on the validation rows.": _any_tuned(rows),
        f"time: that of training, in units of {unit}.": unit is not None,
        f"left out, because they failed: {', '.join(failures)}.": bool(failures),
    }
    return [note for note, applies in notes.items() if applies]


def sentence(verdict: Verdict, *, metric: str) -> str:
    """The answer: who beat the reference and by how much, or that nobody did, and how sure that is.

    Args:
        verdict: from `statistics.verdict`.
        metric: name of the metric.

    Example:
        >>> from rlgrad.study.statistics import verdict
        >>> results = {"ce": {0: 0.70, 1: 0.72, 2: 0.74}, "soft": {0: 0.80, 1: 0.83, 2: 0.84}}
        >>> print(sentence(verdict(results, reference="ce"), metric="F1"))
        "soft" beat "ce" on test F1: "soft" minus "ce" is +0.1033 (95% interval +0.0890 to +0.1177, 3 paired
        seeds).
    """
    best, reference, gap = f'"{verdict.best}"', f'"{verdict.reference}"', verdict.difference
    form = f"+.{_digits(gap, most=4)}f"
    answer = f"{best} minus {reference} is {gap.mean:{form}}"
    if isnan(gap.low):
        return f"One seed cannot tell skill from luck: on test {metric}, {answer}; run more seeds."
    answer += f" ({_evidence(verdict, form)})"
    if verdict.won:
        return f"{best} beat {reference} on test {metric}: {answer}{_also(verdict)}."
    if verdict.best in verdict.worse:
        return f"{reference} beat {_beaten(verdict)} on test {metric}: {answer}."
    opening = f"No method beat {reference} on test {metric} beyond luck"
    return f"{opening}: for the best candidate, {answer}, which is within luck."


def _evidence(verdict: Verdict, form: str) -> str:
    gap, compared = verdict.difference, len(verdict.differences)
    bounds = f"{100 * verdict.level:g}% interval {gap.low:{form}} to {gap.high:{form}}"
    jointly = f", holding for all {compared} comparisons at once" if compared > 1 else ""
    return f"{bounds}, {verdict.seeds} paired seeds{jointly}"


def _also(verdict: Verdict) -> str:
    others = [f'"{name}"' for name in verdict.better if name != verdict.best]
    return f"; so did {', '.join(others)}" if others else ""


def _beaten(verdict: Verdict) -> str:
    compared, beaten = len(verdict.differences), len(verdict.worse)
    if compared == 1:
        return f'"{verdict.best}"'
    how_many = "each" if beaten == compared else str(beaten)
    return f'{how_many} of the {compared} other methods, "{verdict.best}" most narrowly,'
