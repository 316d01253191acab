"""Tables and sentences: the right numbers, aligned, and words that claim no more than the intervals do."""

from math import isnan, nan
from typing import Any

import numpy as np
import pytest

from rlgrad.report.tables import Row, sentence, summary, to_markdown, to_text
from rlgrad.study.records import Record, scores
from rlgrad.study.statistics import Interval, interval, paired_difference, verdict

METHODS = ["ce", "ce tuned", "soft", "score_function", "ce > counterfactual"]
REFERENCE = "ce tuned"


def run(method: str, seed: int, test: float, **changes: Any) -> Record:
    values = {"train": 0.9, "validation": 0.8, "test_tuned": test + 0.01, "seconds": 1.0 + seed, **changes}
    return Record(task="digits", method=method, seed=seed, metric="F1", arguments={}, test=test, **values)


def failure(method: str, seed: int) -> Record:
    return Record(task="digits", method=method, seed=seed, metric="F1", arguments={}, error="Traceback")


@pytest.fixture
def records() -> list[Record]:
    rng = np.random.default_rng(5)
    return [run(method, seed, float(rng.normal(0.8, 0.01))) for seed in range(6) for method in METHODS]


def scores_of(records: list[Record], method: str) -> dict[int, float]:
    return {record.seed: record.test for record in records if record.method == method}


def test_rows_hold_the_statistics_of_their_method(records: list[Record]) -> None:
    rows = summary(records, reference=REFERENCE, overlap=0.25)
    assert [row.method for row in rows] == METHODS
    ours, theirs = scores_of(records, "soft"), scores_of(records, REFERENCE)
    soft = rows[2]
    assert (soft.seeds, soft.failed) == (6, 0)
    assert soft.test == interval(list(ours.values()), overlap=0.25)
    assert soft.difference == pytest.approx(paired_difference(ours, theirs, overlap=0.25))
    assert soft.test_tuned == pytest.approx(np.mean(list(ours.values())) + 0.01)
    assert soft.seconds == pytest.approx(3.5)
    assert rows[1].difference is None


def test_the_verdict_allows_for_all_comparisons_where_the_table_does_not(records: list[Record]) -> None:
    rows = summary(records, reference=REFERENCE, overlap=0.1)
    answer = verdict(scores(records), reference=REFERENCE, overlap=0.1)
    gaps = {row.method: row.difference for row in rows if row.difference is not None}
    assert gaps.keys() == answer.differences.keys()
    for method, gap in gaps.items():
        together = answer.differences[method]
        assert together.mean == pytest.approx(gap.mean)
        assert together.low < gap.low
        assert gap.high < together.high


def test_methods_choose_the_rows_and_their_order(records: list[Record]) -> None:
    rows = summary(records, reference=REFERENCE, methods=["soft", REFERENCE])
    assert [row.method for row in rows] == ["soft", REFERENCE]
    ours, theirs = scores_of(records, "soft"), scores_of(records, REFERENCE)
    assert rows[0].difference == pytest.approx(paired_difference(ours, theirs))


def test_unknown_methods_are_named(records: list[Record]) -> None:
    with pytest.raises(ValueError, match=r"needed methods among \['ce', .*\], got \['sofd'\]; check the names"):
        summary(records, reference=REFERENCE, methods=[REFERENCE, "sofd"])
    with pytest.raises(ValueError, match=r"got \['ce tunned'\]; check the names"):
        summary(records, reference="ce tunned")


def test_records_of_two_settings_are_not_averaged(records: list[Record]) -> None:
    other = Record(task="digits", method="ce", seed=0, metric="IoU", arguments={}, error="Traceback")
    with pytest.raises(ValueError, match="needed records of one task, metric and arguments"):
        summary([*records, other], reference=REFERENCE)


def test_a_run_made_again_replaces_the_first(records: list[Record]) -> None:
    again = [*records, failure("soft", 0), run("ce", 0, 0.5)]
    rows = summary(again, reference=REFERENCE)
    assert (rows[2].seeds, rows[2].failed) == (5, 1)
    assert (rows[0].seeds, rows[0].test.mean) == (
        6,
        interval([0.5, *list(scores_of(records, "ce").values())[1:]]).mean,
    )


def test_failed_runs_are_left_out_and_counted(records: list[Record]) -> None:
    rows = summary([*records, failure("soft", 6), failure("exact", 0)], reference=REFERENCE)
    assert rows[2].test == interval(list(scores_of(records, "soft").values()))
    assert "re-split" not in to_text(rows, metric="F1", reference=REFERENCE)
    assert (rows[5].seeds, rows[5].failed, rows[5].difference) == (0, 1, None)
    assert all(isnan(value) for value in (*rows[5].test, rows[5].test_tuned, rows[5].seconds))
    text = to_text(rows, metric="F1", reference=REFERENCE)
    assert "left out, because they failed: soft 1 of 7, exact 1 of 1." in text
    assert "nan" not in text
    assert "each of the 4 intervals" in " ".join(text.split())  # the method without a run is none


def test_a_reference_that_failed_leaves_the_means(records: list[Record]) -> None:
    others = [record for record in records if record.method != REFERENCE]
    rows = summary([*others, failure(REFERENCE, 0)], reference=REFERENCE)
    assert all(row.difference is None for row in rows)
    assert to_text(rows, metric="F1", reference=REFERENCE)


def row(method: str, **changes: Any) -> Row:
    values: dict[str, Any] = {
        "seeds": 3,
        "failed": 0,
        "test": Interval(0.8123, 0.79, 0.8346),
        "difference": Interval(-0.0104, -0.0234, 0.0026),
        "test_tuned": 0.8201,
        "seconds": 12.34,
    }
    return Row(method=method, **{**values, **changes})


def test_text_is_this() -> None:
    rows = [
        row("ce tuned", difference=None),
        row("ce > soft"),
        row(
            "focal",
            seeds=1,
            test=Interval(0.8, nan, nan),
            difference=Interval(0.01, nan, nan),
            test_tuned=nan,
        ),
    ]
    assert to_text(rows, metric="F1", reference="ce tuned", overlap=1 / 3).splitlines() == [
        "method     seeds         test F1 [95%]     minus ce tuned [95%]  tuned  seconds",
        "---------  -----  --------------------  -----------------------  -----  -------",
        "ce tuned       3  0.812 [0.790, 0.835]                reference  0.820     12.3",
        "ce > soft      3  0.812 [0.790, 0.835]  -0.010 [-0.023, +0.003]  0.820     12.3",
        "focal          1      0.800 [one seed]        +0.010 [one seed]      -     12.3",
        "",
        "test: mean over seeds [Student-t interval]; larger is better.",
        "minus ce tuned: paired over seeds; each of the 2 intervals stands by itself.",
        "seeds re-split the same rows: variances corrected for n_test/n_train = 0.333.",
        "tuned: test metric of the same weights, with the threshold tuned on the validation rows.",
    ]


@pytest.mark.parametrize(
    ("others", "note"), [(0, None), (1, "paired over seeds."), (2, "each of the 2 intervals stands by itself.")]
)
def test_the_notes_speak_of_as_many_intervals_as_there_are(others: int, note: str | None) -> None:
    rows = [row("relu", difference=None), *(row(f"other {number}") for number in range(others))]
    for make in (to_text, to_markdown):
        notes = make(rows, metric="accuracy", reference="relu").splitlines()[3 + others :]
        found = [line for line in notes if "minus relu: " in line]
        assert len(found) == (note is not None)
        assert all(line.endswith(note or "") for line in found)


def test_what_no_run_has_tuned_is_no_column() -> None:
    rows = [row("relu", difference=None, test_tuned=nan), row("frozen", test_tuned=nan)]
    for make in (to_text, to_markdown):
        text = make(rows, metric="accuracy", reference="relu")
        assert "tuned" not in text
        assert "seconds" in text.splitlines()[0]
        assert text.count("12.3") == 2
        assert "nan" not in text
        mixed = make([rows[0], row("frozen")], metric="accuracy", reference="relu")
        assert mixed.count("tuned: test metric of the same weights") == 1


def test_time_may_be_in_units_of_a_method() -> None:
    rows = [row("relu", difference=None, seconds=3.0), row("arctan", seconds=4.0), row("exact", seconds=26.0)]
    lines = to_markdown([*rows, row("broken", seconds=nan)], metric="accuracy", reference="relu", unit="arctan")
    header, _, *body = lines.splitlines()[:6]
    assert [line.split(" | ")[-1].rstrip(" |") for line in (header, *body)] == ["time", "0.8", "1.0", "6.5", "-"]
    assert "- time: that of training, in units of arctan." in lines.splitlines()
    assert "seconds" not in lines


def test_text_fits_a_hundred_columns(records: list[Record]) -> None:
    text = to_text(summary(records, reference=REFERENCE), metric="F1", reference=REFERENCE, overlap=0.25)
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 100


def test_large_metrics_shed_decimals() -> None:
    profit = row("ce", test=Interval(12345.678, 12000.0, 12691.4), difference=None, test_tuned=12400.5)
    line = to_text([profit], metric="profit", reference="ce").splitlines()[2]
    assert line.split() == ["ce", "3", "12346", "[12000,", "12691]", "reference", "12400", "12.3"]


def test_markdown_is_a_table_whose_names_cannot_break_it() -> None:
    rows = [row("ce | `x`\n<b>", difference=None), row("ce > soft")]
    lines = to_markdown(rows, metric="F1", reference="ce").splitlines()
    assert lines[0] == "| method | seeds | test F1 [95%] | minus ce [95%] | tuned | seconds |"
    assert lines[1] == "| :-- | --: | --: | --: | --: | --: |"
    assert lines[2].startswith(r"| `ce \| 'x' <b>` | 3 | 0.812 [0.790, 0.835] |")
    assert lines[3].startswith("| `ce > soft` | 3 | 0.812 [0.790, 0.835] | -0.010 [-0.023, +0.003] |")
    assert lines[4] == ""
    assert all(line.startswith("- ") for line in lines[5:])


def answer(*, seeds: int = 5, **shifts: float) -> str:
    """The sentence on methods that lie about `shifts` above the reference, each with noise of its own."""
    noise = np.array([-0.010, 0.005, -0.002, 0.004, 0.003])
    results = {REFERENCE: dict.fromkeys(range(seeds), 0.7)}
    for at, (name, shift) in enumerate(shifts.items()):
        results[name] = dict(enumerate((0.7 + shift + np.roll(noise, at))[:seeds].tolist()))
    return sentence(verdict(results, reference=REFERENCE), metric="F1")


def test_sentence_when_one_won() -> None:
    assert answer(soft=0.1) == (
        '"soft" beat "ce tuned" on test F1: "soft" minus "ce tuned" is +0.1000 '
        "(95% interval +0.0923 to +0.1077, 5 paired seeds)."
    )


def test_sentence_when_several_won() -> None:
    said = answer(soft=0.1, exact=0.2, focal=0.05, ce=-0.1)
    assert said.startswith('"exact" beat "ce tuned" on test F1: "exact" minus "ce tuned" is +0.2000 (95% interval ')
    assert said.endswith('5 paired seeds, holding for all 4 comparisons at once); so did "soft", "focal".')


def test_sentence_when_nobody_won() -> None:
    said = answer(soft=0.001, ce=-0.1)
    assert said.startswith(
        'No method beat "ce tuned" on test F1 beyond luck: for the best candidate, '
        '"soft" minus "ce tuned" is +0.0010 (95% interval -0.'
    )
    assert said.endswith("holding for all 2 comparisons at once), which is within luck.")


def test_sentence_when_the_best_candidate_lies_below() -> None:
    said = answer(soft=-0.001)
    assert "No method beat" in said
    assert '"soft" minus "ce tuned" is -0.0010' in said


def test_sentence_when_the_reference_beat_everyone() -> None:
    said = answer(soft=-0.1, ce=-0.2)
    assert said.startswith(
        '"ce tuned" beat each of the 2 other methods, "soft" most narrowly, on test F1: '
        '"soft" minus "ce tuned" is -0.1000 ('
    )
    assert answer(soft=-0.1).startswith('"ce tuned" beat "soft" on test F1: "soft" minus "ce tuned" is -0.1000 (')


def test_sentence_does_not_count_as_beaten_what_has_one_seed() -> None:
    results = {"ref": {0: 0.7, 1: 0.8, 2: 0.9}, "bad": {0: 0.1, 1: 0.21, 2: 0.3}, "lucky": {0: 0.99}}
    said = sentence(verdict(results, reference="ref"), metric="F1")
    assert said.startswith('"ref" beat 1 of the 2 other methods, "bad" most narrowly, on test F1: ')


def test_sentence_on_one_seed_claims_nothing() -> None:
    said = answer(seeds=1, soft=0.12)
    assert said == (
        'One seed cannot tell skill from luck: on test F1, "soft" minus "ce tuned" is +0.1100; run more seeds.'
    )
    assert "beat" not in said
