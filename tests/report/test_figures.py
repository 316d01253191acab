"""The figure of an audit: every name is there and legible, and files are whole."""

import json
import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from rlgrad.report.figures import cosine_against_cost, figure


def row(name: str, cosine: float, seconds: float, *, kind: str = "estimator") -> dict[str, Any]:
    space = {"cosine": cosine}
    return {"name": name, "kind": kind, "error": None, "seconds": seconds, "logits": space, "weights": space}


def audit(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"problem": "digits, linear", "metric": "f1", "rows": rows}


# Many at a cosine of one and at one cost, as it happens.
CROWDED = audit(
    [row(f"counterfactual({at})", 1 - 0.001 * at, 1e-3 * 1.05**at) for at in range(8)]
    + [row(f"score_function({at})", 0.05 + 0.001 * at, 1e-3 * 1.02**at) for at in range(6)]
    + [row("soft f1", 1.0, 2e-4, kind="surrogate"), row("cross-entropy", -0.3, 3e-4, kind="surrogate")]
)


FEW = audit([row("soft f1", 0.9, 1e-3, kind="surrogate"), row("exact", 1.0, 1e-3)])


@pytest.fixture(scope="module")
def crowded() -> Figure:
    drawn = figure(CROWDED)
    FigureCanvasAgg(drawn).draw()
    return drawn


def labels(drawn: Any) -> list[list[Annotation]]:
    return [[text for text in panel.texts if isinstance(text, Annotation)] for panel in drawn.axes]


def test_every_name_stands_apart_in_both_panels(crowded: Figure) -> None:
    for panel, notes in zip(crowded.axes, labels(crowded), strict=True):
        assert sorted(note.get_text() for note in notes) == sorted(each["name"] for each in CROWDED["rows"])
        boxes = [Text.get_window_extent(note) for note in notes]
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
        inside = panel.get_window_extent()
        assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 and box.y1 <= inside.y1 for box in boxes)
        corners = [panel.transData.transform((each["seconds"], max(each["logits"]["cosine"], 1e-3)))
                   for each in CROWDED["rows"]]  # fmt: skip
        assert not any(box.contains(x, y) for box in boxes for x, y in corners)


def test_axes_are_logarithmic_and_markers_tell_kinds_apart(crowded: Figure) -> None:
    panel = crowded.axes[0]
    assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
    shown = {text.get_text() for text in panel.get_legend().get_texts()}
    assert shown == {"estimator", "surrogate"}
    shapes = {group.get_paths()[0].vertices.shape for group in panel.collections if len(group.get_offsets())}
    assert len(shapes) == 2


def test_what_a_logarithm_cannot_show_stands_open_at_the_edge(crowded: Figure) -> None:
    panel = crowded.axes[0]
    white = [1.0, 1.0, 1.0, 1.0]
    drawn = [group for group in panel.collections if len(group.get_offsets())]
    open_ones = [group for group in drawn if np.asarray(group.get_facecolor())[0].tolist() == white]
    assert [np.asarray(group.get_offsets()).tolist() for group in open_ones] == [[[3e-4, 1e-3]]]
    assert any("or negative" in text.get_text() for text in panel.texts)
    alone = figure(audit([row("soft", 0.9, 1e-3)])).axes[0]
    assert not any("or negative" in text.get_text() for text in alone.texts)


def test_logits_alone_take_one_panel() -> None:
    rows = [{**row("soft", 0.9, 1e-3), "weights": None}]
    assert len(figure(audit(rows)).axes) == 1


def test_what_was_not_measured_is_left_out() -> None:
    failed = {**row("broken", 0.5, 1e-3), "error": "needed", "logits": None, "weights": None, "seconds": None}
    (notes, _) = labels(figure(audit([failed, row("soft", 0.9, 1e-3)])))
    assert [note.get_text() for note in notes] == ["soft"]


@pytest.mark.parametrize(("name", "start"), [("a.svg", b"<?xml"), ("new/a.png", b"\x89PNG"), ("a.SVG", b"<?xml")])
def test_files_are_written_whole_and_the_same_again(tmp_path, name: str, start: bytes) -> None:
    path = tmp_path / name
    cosine_against_cost(json.loads(json.dumps(FEW)), path)
    first = path.read_bytes()
    cosine_against_cost(FEW, path)
    assert first.startswith(start)
    assert path.read_bytes() == first
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.svg"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        cosine_against_cost(FEW, path)
    assert [each.name for each in tmp_path.iterdir()] == ["a.svg"]
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("found", "name", "message"),
    [
        (FEW, "a.pdf", "needed a file .svg or .png"),
        ({}, "a.svg", "needed the dictionary of an audit, got one without 'rows'"),
        (audit([]), "a.svg", "needed a candidate that was measured"),
    ],
)
def test_what_cannot_be_drawn(tmp_path, found: dict[str, Any], name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cosine_against_cost(found, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_dollar_is_a_dollar(tmp_path) -> None:
    names = {"problem": "profit in $, 5$ a row", "metric": "$\\frac"}
    found = {**audit([row("costs $5 and $x_{", 0.9, 1e-3), row("low $^", -0.5, 1e-3)]), **names}
    cosine_against_cost(found, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_one_candidate_is_enough() -> None:
    low, high = figure(audit([row("soft", 1.0, 1e-3)])).axes[0].get_ylim()
    assert 0 < low < 1 < high < math.inf
