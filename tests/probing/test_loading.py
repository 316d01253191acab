"""Names and shapes as a command line gives them."""

from pathlib import Path

import pytest
import torch
from torch import nn

from rlgrad.probing import example, load, probe


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_functions_instances_and_classes(here: Path) -> None:
    text = "from torch import nn\ncalled = []\nmodel = nn.Linear(1, 1)\ndef loss(x):\n    called.append(1)\n"
    (here / "probed_net.py").write_text(text)
    assert load("torch:sigmoid") is torch.sigmoid
    assert load("torch.nn.functional:relu") is nn.functional.relu
    assert isinstance(load("torch.nn:ReLU"), nn.ReLU)
    assert isinstance(load("probed_net:model"), nn.Linear)
    assert load("torch:Tensor.sign") is torch.Tensor.sign
    assert load("probed_net:loss").__name__ == "loss"
    load("probed_net:called.append")
    assert __import__("probed_net").called == []


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("torch.sigmoid", "needed package.module:name, got 'torch.sigmoid'; write torch:sigmoid$"),
        ("torch.nn.functional.relu", "; write torch.nn.functional:relu$"),
        ("nets/wide.py", "; write nets.wide:NAME, with a name that it holds$"),
        ("wide", "; write for instance torch.nn:ReLU$"),
        (":name", "needed package.module:name, got ':name'; write for instance torch.nn:ReLU$"),
        ("torch.nn:", "needed package.module:name, got 'torch.nn:'; write for instance torch.nn:ReLU$"),
        ("no_such_module:f", "found none called 'no_such_module'"),
        ("no_such_package.part:f", "found none called 'no_such_package.part'"),
        ("torch.no_such_part:f", "found none called 'torch.no_such_part'"),
        ("torch:sigmoidd", "did you mean sigmoid"),
        ("torch:zzzqqqxxx", "check the spelling"),
        ("torch.nn:Linear", "takes no arguments"),
    ],
)
def test_a_wrong_name_gets_one_clear_error(spec: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load(spec)


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="needed a function or a module at torch:float32, got dtype"):
        load("torch:float32")


def test_a_function_that_makes_a_model_is_no_model(here: Path) -> None:
    text = "from torch import nn\ndef build():\n    raise AssertionError\ndef sized(n=4):\n    return nn.Linear(4, 1)\n"
    (here / "probed_factory.py").write_text(text)
    with pytest.raises(TypeError, match=r"probed_factory:build, got a function that takes none; .* model = build\(\)"):
        load("probed_factory:build")
    with pytest.raises(TypeError, match=r"got one that returns Linear; .* of a function that makes a model pass what"):
        probe(load("probed_factory:sized"), torch.ones(4))


def test_a_class_of_anything_but_modules_is_refused(here: Path) -> None:
    (here / "probed_class.py").write_text("class Trainer:\n    def __init__(self, x):\n        self.x = x\n")
    with pytest.raises(TypeError, match=r"got the class Trainer, which is no torch\.nn\.Module; name an instance"):
        load("probed_class:Trainer")
    with pytest.raises(TypeError, match="got the class Size"):
        load("torch:Size")


def test_a_module_that_fails_on_import_says_why(here: Path) -> None:
    (here / "probed_broken.py").write_text("import no_such_module_at_all")
    with pytest.raises(ImportError, match="could not import probed_broken: ModuleNotFoundError"):
        load("probed_broken:f")


def test_examples_of_shapes() -> None:
    first, scalar = example([(2, 3), ()])
    assert (first.shape, scalar.shape, first.dtype) == ((2, 3), (), torch.float32)
    assert torch.equal(first, example([(2, 3)])[0])
    assert not torch.equal(first, example([(2, 3)], seed=1)[0])
    with pytest.raises(ValueError, match=r"needed sizes of at least 0, got \(-1,\)"):
        example([(-1,)])


def test_examples_of_dtypes() -> None:
    tokens, weights = example([(40, 3), (40,)], dtypes=[torch.int64, torch.float64])
    assert (tokens.dtype, weights.dtype) == (torch.int64, torch.float64)
    assert set(tokens.flatten().tolist()) == {0, 1}
    assert [x.dtype for x in example([(2,), (3,)], dtypes=[torch.float64])] == [torch.float64] * 2
    assert torch.equal(example([(2, 3)], dtypes=[torch.float64])[0].float(), example([(2, 3)])[0])
    for dtypes in ([], [torch.float32] * 3):
        with pytest.raises(ValueError, match=rf"or one for each of the 2, got {len(dtypes)}; "):
            example([(2,), (3,)], dtypes=dtypes)
