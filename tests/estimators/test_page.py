"""The page of estimators: its text is what the script writes, and its example runs."""

import importlib.util
import re
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "estimators.md").read_text(encoding="utf-8")


def test_the_text_of_the_page_is_what_the_script_writes() -> None:
    spec = importlib.util.spec_from_file_location("estimator_toys", ROOT / "scripts" / "estimator_toys.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    command = re.search(r"^    (python scripts/estimator_toys\.py --count (\d+) --seed (\d+))$", PAGE, re.MULTILINE)
    assert command is not None
    introduction = script.INTRODUCTION.format(command=command[1], count=f"{int(command[2]):,}", seed=command[3])
    for text in (introduction + script.ONE, script.VARIANCES):
        assert text in PAGE, "run: python scripts/estimator_toys.py"


def test_the_example_of_the_page_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, torch.Tensor] = {}
    exec(example, names)
    assert names["logits"].grad is not None
    assert names["logits"].grad.abs().sum() > 0
