"""Train PyTorch models directly on F1, IoU or any black-box metric, by policy gradient.

A name is imported from its home when it is first used, so ``import rlgrad`` alone is instant: it does
not import torch.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

_MODULES = [
    "agent",
    "auditing",
    "constrained",
    "credit",
    "estimators",
    "metrics",
    "objective",
    "policies",
    "probing",
    "steps",
    "stochastic",
    "surrogates",
    "train",
]
_HOMES = {
    "Bernoulli": "policies",
    "Categorical": "policies",
    "CountMetric": "metrics",
    "Downstream": "metrics",
    "ExpectedLoss": "stochastic",
    "Gaussian": "policies",
    "MetricLoss": "objective",
    "PlackettLuce": "policies",
    "Reinforce": "agent",
    "Stage": "train",
    "audit": "auditing",
    "evaluate": "train",
    "fit": "train",
    "probe": "probing",
}
__all__ = ["__version__", *_MODULES, *_HOMES]

if TYPE_CHECKING:  # the same names, for readers and type checkers
    from . import agent as agent
    from . import auditing as auditing
    from . import constrained as constrained
    from . import credit as credit
    from . import estimators as estimators
    from . import metrics as metrics
    from . import objective as objective
    from . import policies as policies
    from . import probing as probing
    from . import steps as steps
    from . import stochastic as stochastic
    from . import surrogates as surrogates
    from . import train as train
    from .agent import Reinforce as Reinforce
    from .auditing import audit as audit
    from .metrics import CountMetric as CountMetric
    from .metrics import Downstream as Downstream
    from .objective import MetricLoss as MetricLoss
    from .policies import Bernoulli as Bernoulli
    from .policies import Categorical as Categorical
    from .policies import Gaussian as Gaussian
    from .policies import PlackettLuce as PlackettLuce
    from .probing import probe as probe
    from .stochastic import ExpectedLoss as ExpectedLoss
    from .train import Stage as Stage
    from .train import evaluate as evaluate
    from .train import fit as fit
else:  # PEP 562; hidden from type checkers, which would otherwise accept any name

    def __getattr__(name):
        from importlib import import_module

        if name in _MODULES:
            return import_module(f"{__name__}.{name}")
        if name in _HOMES:
            return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted(__all__)
