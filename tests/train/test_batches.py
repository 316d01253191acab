"""Batches: split evenly, in an order that seed and epoch alone decide."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from rlgrad.train.batches import Batches


def pair(rows: int) -> tuple[Tensor, Tensor]:
    return torch.arange(float(rows))[:, None], torch.arange(rows)


def order(rows: int, batch_size: int = 4, *, seed: int = 0, epoch: int = 1) -> list[int]:
    batches = Batches(pair(rows), "train").shuffled(batch_size, seed=seed, epoch=epoch)
    return torch.cat([y for _, y in batches]).tolist()


@pytest.mark.parametrize("batch_size", [2, 3, 7, 256])
@pytest.mark.parametrize("rows", range(1, 23))
def test_shuffled_batches_are_nearly_equal_and_none_too_large(rows: int, batch_size: int) -> None:
    sizes = [len(y) for _, y in Batches(pair(rows), "train").shuffled(batch_size, seed=0, epoch=1)]
    assert sum(sizes) == rows
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == -(-rows // batch_size)  # as few as there can be
    if batch_size > 2:  # pairs of an odd number of rows leave one over, whatever one does
        assert min(sizes) > 1 or rows == 1


def test_batches_of_one_row_where_they_are_asked_for() -> None:
    assert [len(y) for _, y in Batches(pair(3), "train").shuffled(1, seed=0, epoch=1)] == [1, 1, 1]


@pytest.mark.parametrize("rows", [1, 2, 17, 100])
def test_shuffled_is_a_permutation_that_keeps_pairs_together(rows: int) -> None:
    batches = list(Batches(pair(rows), "train").shuffled(8, seed=3, epoch=2))
    assert all(torch.equal(x[:, 0], y.float()) for x, y in batches)
    assert sorted(torch.cat([y for _, y in batches]).tolist()) == list(range(rows))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    first = order(50)
    torch.manual_seed(1)  # which may not matter
    assert order(50) == first
    assert order(50, batch_size=7) == first
    orders = {tuple(order(50, seed=seed, epoch=epoch)) for seed, epoch in itertools.product(range(4), range(4))}
    assert len(orders) == 16  # also (1, 2) is not (2, 1)
    assert tuple(range(50)) not in orders


def test_shuffling_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    order(50)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("seed", [0, 2**32, 2**63 - 1])
def test_any_seed_serves(seed: int) -> None:
    assert sorted(order(9, seed=seed)) == list(range(9))


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 11])
def test_in_order(batch_size: int) -> None:
    x, y = pair(10)
    batches = list(Batches((x, y), "data").in_order(batch_size))
    assert [len(part) for _, part in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert torch.equal(torch.cat([part for part, _ in batches]), x)
    assert torch.equal(torch.cat([part for _, part in batches]), y)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("kind", [tuple, list])
def test_arrays_are_taken_as_tensors(kind: type) -> None:
    x, y = np.arange(12.0, dtype=np.float32).reshape(6, 2), np.arange(6) > 2
    ((inputs, target),) = Batches(kind([x, y]), "data").in_order(6)
    assert torch.equal(inputs, torch.from_numpy(x))
    assert torch.equal(target, torch.from_numpy(y))


@pytest.mark.usefixtures("as_a_user")
def test_read_only_arrays_are_taken_without_a_warning() -> None:
    x, y = np.ones((4, 2), dtype=np.float32), np.zeros(4)
    x.flags.writeable = y.flags.writeable = False
    ((inputs, target),) = Batches((x, y), "data").in_order(4)
    assert inputs.shape == (4, 2)
    assert target.shape == (4,)


@pytest.mark.usefixtures("as_a_user")
def test_reversed_arrays_are_taken() -> None:
    x, y = np.arange(4.0, dtype=np.float32)[::-1], np.arange(4)[::-1]
    ((inputs, target),) = Batches((x, y), "data").in_order(4)
    assert inputs.tolist() == target.tolist() == [3, 2, 1, 0]


def test_an_iterable_is_handed_on_as_it_is() -> None:
    loader = DataLoader(TensorDataset(*pair(5)), batch_size=2)
    batches = Batches(loader, "data")
    assert batches.in_order(99) is loader
    assert batches.shuffled(99, seed=0, epoch=1) is loader
    batches.to(torch.device("cpu"))


def test_two_batches_in_a_list_are_no_pair() -> None:
    both = [pair(3), pair(2)]
    assert [len(y) for _, y in Batches(both, "data").in_order(99)] == [3, 2]


@pytest.mark.parametrize("shapes", [((5, 2), (4,)), ((0, 2), (0,)), ((), ()), ((1,), ()), ((4,), (5,))])
def test_unequal_or_empty_pairs_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="as many inputs as targets in validation, and one at least, got shapes"):
        Batches((torch.zeros(shapes[0]), torch.zeros(shapes[1])), "validation")


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("data", [None, 3, "data.csv", b"data"])
def test_what_is_no_data_is_refused(data: object) -> None:
    with pytest.raises(TypeError, match="a pair of tensors or an iterable of batches as train"):
        Batches(data, "train")
