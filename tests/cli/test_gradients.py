"""The command line on gradients: the audit of a batch, the probe of a function, and what a clumsy user is told."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from rlgrad import probing
from rlgrad.cli import main

FAST = ["--estimates=20", "--seconds=0.05", "--epochs=1"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Relative paths keep the commands short; a command sets the threads of a process, which a test gives back."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def said(arguments: list[str], capsys: pytest.CaptureFixture[str], status: int = 0) -> tuple[str, str]:
    assert main(arguments) == status
    out, error = capsys.readouterr()
    return out, error


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    out, error = said(arguments, capsys, 2)
    assert out == ""
    assert error.startswith("rlgrad: error: ")
    assert error.count("\n") == 1
    return error.removeprefix("rlgrad: error: ").rstrip()


# The audit


def test_an_audit_of_digits_prints_a_row_for_each_candidate(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = said(["audit", *FAST, "--items=32"], capsys)
    for name in ("exact", "counterfactual", "disarm", "rebar", "bce", "soft", "lovasz"):
        assert re.search(rf"^{re.escape(name)} ", out, re.MULTILINE), name
    assert "32 decisions" in out
    assert list(Path().iterdir()) == []


def test_an_audit_of_a_table_is_kept_as_json_and_a_figure(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    size = rng.normal(size=80)
    label = np.where(size + rng.normal(size=80) > 0, "yes", "no")
    pd.DataFrame({"size": size, "label": label}).to_csv("t.csv", index=False)
    arguments = ["audit", "t.csv", "--target=label", "--metric=mcc", "--out=kept", "--model=mlp", "--items=20", *FAST]
    chosen = ["--candidates", "exact", "counterfactual", "bce"]
    out, _ = said([*arguments, *chosen], capsys)
    found = json.loads(Path("kept/audit.json").read_text())
    assert [row["name"] for row in found["rows"]] == ["exact", "counterfactual", "bce"]
    assert found["metric"] == "mcc"
    assert "<svg" in Path("kept/audit.svg").read_text()
    assert "kept/audit.json" in out
    assert "pass --overwrite" in refused([*arguments, *chosen], capsys)
    said([*arguments, *chosen, "--overwrite"], capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--candidates", "counterfactuals"], "needed a candidate that exists, got 'counterfactuals'; did you mean "),
        (["--metric", "f3"], "needed a metric that exists, got 'f3'"),
        (["--items", "1"], "needed at least 2 items"),
        (["--epochs", "-1"], "needed at least 2 items and 0 epochs"),
        (["--estimates", "1"], "needed .*estimates.*, got 1"),
        (["--target", "x"], "needed a table to take the target from, got none"),
        (["nothing.csv", "--target", "x"], ".*nothing.csv"),
    ],
)
def test_what_an_audit_refuses(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert re.match(message, refused(["audit", *arguments], capsys))


def test_a_folder_for_the_audit_is_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("kept").write_text("mine")
    said = refused(["audit", "--out=kept"], capsys)
    assert said == "needed a folder to write audit.json in, got the file kept; name another"


# The probe


def test_the_table_of_known_functions(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = said(["probe"], capsys)
    for name, verdict in {"step": "cut", "sign": "flat", "relu": "useful", "sqrt": "non-finite"}.items():
        assert re.search(rf"^{name} .* {verdict} ", out, re.MULTILINE), name
    assert len(re.findall(r"^\S+ ", out, re.MULTILINE)) >= len(probing.BUILTINS)


def test_known_functions_by_name_are_kept_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = said(["probe", "relu", "argmax", "--out=probe.json"], capsys)
    assert "kink at x = 0" in out
    assert "cut by argmax" in out
    found = json.loads(Path("probe.json").read_text())
    assert [report["findings"][0]["verdict"] for report in found.values()] == ["useful", "cut"]
    assert "pass --overwrite" in refused(["probe", "relu", "--out=probe.json"], capsys)


def test_a_network_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mynets.py").write_text(
        "import torch\n"
        "class Hard(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.first, self.last = torch.nn.Linear(3, 4), torch.nn.Linear(4, 1)\n"
        "    def forward(self, x):\n"
        "        return self.last((self.first(x) > 0).float())\n"
    )
    out, _ = said(["probe", "mynets:Hard", "--shape", "8,3"], capsys)
    assert "No gradient reaches the weights of: first." in " ".join(out.split())
    assert "gt" in out
    assert "mynets.py:7" in out


def test_inputs_of_other_dtypes(capsys: pytest.CaptureFixture[str]) -> None:
    Path("tokens.py").write_text(
        "import torch\n"
        "class Bag(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.bag, self.last = torch.nn.EmbeddingBag(10, 4).double(), torch.nn.Linear(4, 1).double()\n"
        "    def forward(self, tokens, shift):\n"
        "        return self.last(self.bag(tokens) + shift)\n"
    )
    probe = ["probe", "tokens:Bag", "--shape", "8,3", "8,4"]
    out, _ = said([*probe, "--dtype", "int64", "float64"], capsys)
    assert "Bag: 4 leaves, 1 output: 4 useful." in out
    message = refused(probe, capsys)
    assert message.endswith("check the inputs, their shapes and dtypes")
    assert "or one for each of the 2, got 3" in refused([*probe, "--dtype", *["int64"] * 3], capsys)


def test_the_help_of_the_probe_tells_what_shapes_are_shared(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["probe", "--help"])
    told = " ".join(re.sub("[│╭╰─╮╯]", " ", capsys.readouterr().out).split())
    assert "the same for all functions named" in told
    assert "They come before the options." in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rellu"], "needed a known function, or package.module:name, that exists, got 'rellu'; did you mean relu"),
        (["torch:nothing_like_it"], "needed a name that exists, found no 'nothing_like_it'"),
        (["no_such_package:f"], "needed a module that can be imported, found none called 'no_such_package'"),
        (["torch:sigmoid", "--shape", "8x3"], "needed a shape such as 8,3, got --shape '8x3'"),
        (["torch.nn.ReLU"], "needed package.module:name, got 'torch.nn.ReLU'; write torch.nn:ReLU$"),
        (["torch.sigmoid", "--shape", "8,3"], ".*; write torch:sigmoid$"),
        (["--shape", "8,3", "torch:sigmoid"], ".* got --shape 'torch:sigmoid'; .* names of functions first, as in"),
        (["--dtype", "int64", "torch:sigmoid"], ".* got --dtype 'torch:sigmoid'; names of functions come first"),
        (["relu", "--dtype", "int64"], "needed a package.module:name to give inputs to, got --dtype alone"),
        (["--shape", "8", "--dtype", "int64"], "needed a package.module:name .* got --shape and --dtype alone"),
        (["torch:matmul", "--shape", "2,3"], ".*matmul"),
        (["torch:pi"], "needed a function or a module at torch:pi, got float"),
    ],
)
def test_what_a_probe_refuses(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert re.match(message, refused(["probe", *arguments], capsys))
