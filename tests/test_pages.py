"""The examples of the pages run, one after the other in one room."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("page", ["agent.md", "environments.md", "metrics.md"])
def test_the_examples_of_a_page_run(page: str) -> None:
    names: dict[str, object] = {}
    examples = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    assert examples
    for example in examples:
        exec(example, names)
