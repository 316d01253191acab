"""What the tests and the doctests share."""

from collections.abc import Iterator

import jaxtyping
import pytest
import torch


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Single files are tested in this process: workers would take longer to start than most of them take."""
    files = [argument.partition("::")[0].endswith(".py") for argument in config.args]
    return 0 if all(files) else None


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tensors are tiny here: threads would only wait for one another."""
    torch.set_num_threads(1)


@pytest.fixture
def as_a_user() -> Iterator[None]:
    """Switch the shape checks of the test run off, so that bad input meets the library's own checks."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture
def generator() -> torch.Generator:
    """A fresh one, seeded."""
    return torch.Generator().manual_seed(0)
