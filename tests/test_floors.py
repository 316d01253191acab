"""A module imports only from its own floor and from the floors below it."""

import ast
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path, PurePosixPath

import pytest

import rlgrad
import rlgrad_envs

FLOORS = {
    "cli": 7,
    "report": 6,
    "study": 5,
    "auditing": 5,
    "probing": 5,
    "train": 4,
    "agent": 4,
    "tables": 4,
    "images": 4,
    "model": 4,
    "objective": 3,
    "constrained": 3,
    "stochastic": 3,
    "scope": 3,
    "surrogates": 3,
    "estimators": 2,
    "credit": 1,
    "policies": 0,
    "metrics": 0,
    "steps": 0,
    "checks": -1,
    "files": -1,
    "text": -1,
}
VIEWED = {"metrics", "tables", "images"}  # what the environments show: they import nothing else of rlgrad
ROOT = Path(rlgrad.__file__).parent
FILES = sorted(path.relative_to(ROOT.parent).as_posix() for path in ROOT.rglob("*.py"))


def imported(source: str, package: str) -> Iterator[str]:
    """Yield the full dotted name of everything that a module of `package` imports, wherever it does so."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            home = resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{home}.{alias.name}" for alias in node.names)


def view_faults(file: str, source: str) -> Iterator[str]:
    """Yield one message for each import in a file of `rlgrad_envs` that is not of what the environments show."""
    for name in imported(source, package="rlgrad_envs"):
        top, _, rest = name.partition(".")
        if top == "rlgrad" and rest.partition(".")[0] not in VIEWED:
            yield f"{file}: imports {name}, where an environment is a view of {', '.join(sorted(VIEWED))}"


def faults(file: str, source: str) -> Iterator[str]:
    """Yield one message for each import in `file` (as in `rlgrad/metrics/counts.py`) that breaks the plan."""
    path = PurePosixPath(file)
    module = path.parts[1].removesuffix(".py")
    if module not in FLOORS:
        yield f"{file}: place `{module}` in FLOORS, the table of this test"
        return
    for name in imported(source, package=".".join(path.parent.parts)):
        top, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        if top == "rlgrad_envs":
            yield f"{file}: imports {name}, but environments are a view of rlgrad, not a part of it"
        elif top == "torch" and module == "report":
            yield f"{file}: imports {name}, but a report is made from records alone"
        elif top == "rlgrad" and rest != "__version__":
            if target not in FLOORS:
                yield f"{file}: imports {name}; import a name from its home, and place a new home in FLOORS"
            elif FLOORS[target] > FLOORS[module]:
                yield f"{file}: floor {FLOORS[module]} imports {name} from floor {FLOORS[target]}"


@pytest.mark.parametrize("file", [file for file in FILES if file != "rlgrad/__init__.py"])
def test_no_import_points_up(file: str) -> None:
    assert list(faults(file, (ROOT.parent / file).read_text(encoding="utf-8"))) == []


def test_environments_are_a_view() -> None:
    files = sorted(Path(rlgrad_envs.__file__).parent.glob("*.py"))
    assert files
    assert [fault for file in files for fault in view_faults(file.name, file.read_text(encoding="utf-8"))] == []
    assert list(view_faults("a.py", "from rlgrad.train import fit"))


@pytest.mark.parametrize(
    ("file", "source", "message"),
    [
        ("rlgrad/credit.py", "from rlgrad.train import fit", "floor 1 imports rlgrad.train.fit from floor 4"),
        ("rlgrad/credit.py", "from rlgrad import train", "floor 1 imports rlgrad.train from floor 4"),
        ("rlgrad/credit.py", "def f():\n    import rlgrad.cli", "floor 1 imports rlgrad.cli from floor 7"),
        ("rlgrad/credit.py", "from .objective import x", "floor 1 imports rlgrad.objective.x from floor 3"),
        ("rlgrad/metrics/__init__.py", "from ..credit import x", "floor 0 imports rlgrad.credit.x"),
        ("rlgrad/credit.py", "from rlgrad import MetricLoss", "import a name from its home"),
        ("rlgrad/credit.py", "import rlgrad", "import a name from its home"),
        ("rlgrad/agent.py", "import rlgrad_envs.binary", "environments are a view"),
        ("rlgrad/report/page.py", "from torch import Tensor", "made from records alone"),
        ("rlgrad/attic.py", "", "place `attic` in FLOORS"),
    ],
)
def test_a_planted_fault_is_caught(file: str, source: str, message: str) -> None:
    (fault,) = faults(file, source)
    assert message in fault


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("rlgrad/train.py", "import torch\nfrom rlgrad.objective import MetricLoss"),
        ("rlgrad/metrics/catalogue.py", "from .counts import CountMetric\nfrom . import scorer"),
        ("rlgrad/metrics/catalogue.py", "from ..policies import slices"),
        ("rlgrad/cli/__init__.py", "from rlgrad import __version__"),
    ],
)
def test_an_import_along_or_down_is_allowed(file: str, source: str) -> None:
    assert list(faults(file, source)) == []
