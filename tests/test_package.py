"""The face of the package: what it shows, what it imports and when, and what the README promises."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rlgrad

README = Path(__file__).parents[1] / "README.md"
HEAVY = {"torch", "sklearn", "pandas", "matplotlib", "lightning_fabric"}


def imported_by(code: str) -> set[str]:
    """Run `code` in a fresh interpreter and return which heavy packages it imported."""
    code += "\nimport sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return HEAVY & set(run.stdout.split())


@pytest.mark.parametrize("module", ["rlgrad", "rlgrad.cli"])
def test_the_package_and_its_command_line_start_light(module: str) -> None:
    assert imported_by(f"import {module}") == set()


def test_a_report_is_made_without_torch() -> None:
    assert "torch" not in imported_by("import rlgrad.report")


def test_the_loss_brings_torch_and_nothing_more() -> None:
    assert imported_by("import rlgrad; rlgrad.MetricLoss") == {"torch"}


def test_dir_lists_the_public_names() -> None:
    assert dir(rlgrad) == sorted(rlgrad.__all__)


@pytest.mark.parametrize("name", rlgrad.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(rlgrad, name) is not None


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(rlgrad.__file__).read_text(encoding="utf-8"))
    seen = {
        alias.asname: node.module or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }
    assert seen == rlgrad._HOMES | {name: name for name in rlgrad._MODULES}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'rlgrad' has no attribute 'MetricLos'$"):
        _ = rlgrad.MetricLos  # type: ignore[attr-defined]


def test_the_readme_shows_two_commands() -> None:
    readme = README.read_text(encoding="utf-8")
    (block,) = re.findall(r"<!-- two commands -->\s*```\w*\n(.*?)```", readme, re.DOTALL)
    install, develop = block.splitlines()
    assert install == "pip install -c constraints.txt -e . && rlgrad compare"
    assert develop == 'pip install -c constraints.txt -e ".[test]" && pytest'


def test_the_python_in_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    value = re.search(r"value=([\d.]+)", capsys.readouterr().out)
    assert value is not None
    assert float(value[1]) > 0.5
    assert len(blocks) == 6
