"""The training loop, on lightning-fabric, which is imported when ``fit`` is called."""

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from rlgrad.checks import describe
from rlgrad.constrained import Constrained
from rlgrad.metrics import CountMetric, LabelMetric, Metric, as_metric
from rlgrad.objective import MetricLoss, PolicyType, usual_policy
from rlgrad.policies import Bernoulli, kl_divergence
from rlgrad.stochastic import ExpectedLoss
from rlgrad.surrogates import best_threshold, best_thresholds
from rlgrad.train.batches import Batches, Data
from rlgrad.train.evaluation import Threshold, is_threshold, judge, predict
from rlgrad.train.stages import Epoch, History, Stage

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Tuned = Literal["tuned", "tuned per label"]


def fit(
    model: nn.Module,
    stages: Stage | Sequence[Stage],
    train: Data,
    validation: Data,
    metric: Metric | Callable[..., object],
    *,
    threshold: Threshold | Tuned = 0.0,
    policy: PolicyType | None = None,
    batch_size: int = 256,
    fabric: "Fabric | None" = None,
    seed: int = 0,
    progress: bool = True,
) -> History:
    """Train a model in place, stage by stage, and leave it with the weights that were best by the validation metric.

    The weights after each epoch are candidates; the initial ones are not. Each stage starts from the best weights so
    far, the first from those the model has, and ends after its epochs, or when the validation metric has stopped
    improving. Cross-entropy first and then the metric is the usual recipe: ``[Stage(bce), Stage(MetricLoss(f1))]``.
    Whatever ends the training early, an error or Ctrl-C, the model keeps the best weights so far.

    Args:
        model: gives logits for a batch of inputs: ``batch`` for one decision an input (squeeze the last axis), which
            are scored jointly, or ``batch items`` for rows scored apart.
        stages: one or several.
        train: a pair of tensors (inputs, targets), split anew for each epoch into shuffled batches of nearly equal
            size; or a DataLoader, or any iterable that can be gone through again, of such pairs.
        validation: likewise.
        metric: what counts in the end, larger is better: a CountMetric, or a function of one row's (decision, target).
        threshold: decisions are ``logits > threshold``; "tuned" sets it after every epoch to the best on the
            validation data, for the mean over rows where rows are scored apart. For logits ``rows labels`` it may be
            one for each label, and "tuned per label".
        policy: Bernoulli, or Categorical for logits with an axis of classes; by default the metric's own, see
            ``MetricLoss``.
        batch_size: rows a batch, where the data are tensors.
        fabric: device and precision; one automatically chosen device by default.
        seed: of the shuffles.
        progress: show a progress bar.

    Returns:
        The history: loss and true metric of train and validation at every epoch.

    Raises:
        FloatingPointError: logits, loss or gradient ceased to be finite; stage, epoch and batch are named.
        TypeError, ValueError: bad arguments, before anything is trained; or a batch that does not fit, when it comes.

    Source: Pinto, Kolesnikov, Shi, Beyer, Zhai, Tuning computer vision models with task rewards (2023), and Rennie et
        al. (2017), for training on cross-entropy first and on the metric then.

    Example:
        >>> from rlgrad import MetricLoss, Stage, fit
        >>> from rlgrad.metrics import f1
        >>> _ = torch.manual_seed(0)
        >>> x = torch.linspace(-1, 1, 200)[:, None]
        >>> y = (x[:, 0] > 0.6).float()
        >>> model = nn.Sequential(nn.Linear(1, 1), nn.Flatten(0))
        >>> history = fit(model, Stage(MetricLoss(f1), lr=0.1, patience=100), (x, y), (x, y), f1, progress=False)
        >>> history.best.validation > 0.9
        True
    """
    metric = as_metric(metric)
    policy = usual_policy(metric) if policy is None else policy
    stages = [stages] if isinstance(stages, Stage) else stages
    _check_arguments(stages, metric, threshold, policy, batch_size, seed)
    fabric = _launched(fabric)
    run = _Run(fabric, model, Batches(train, "train"), Batches(validation, "validation"), metric, threshold, policy)
    run.fit(stages, batch_size, seed, progress)
    return run.history


class _Run:
    """One call of ``fit``: the model, its judges, and the best weights so far."""

    def __init__(
        self,
        fabric: "Fabric",
        model: nn.Module,
        train: Batches,
        validation: Batches,
        metric: Metric,
        threshold: Threshold | Tuned,
        policy: PolicyType,
    ) -> None:
        self.fabric, self.model, self.train, self.validation = fabric, model.to(fabric.device), train, validation
        self.metric, self.threshold, self.policy = metric, threshold, policy
        self.history = History()
        self.best_weights = _copy(model)
        self.start = time.perf_counter()
        train.to(fabric.device)
        validation.to(fabric.device)

    def fit(self, stages: Sequence[Stage], batch_size: int, seed: int, progress: bool) -> None:
        """Run the stages; whatever ends them, the model has its best weights then."""
        from tqdm import tqdm

        total = sum(stage.epochs for stage in stages)
        modes = {module: module.training for module in self.model.modules()}
        try:
            with tqdm(total=total, unit="epoch", disable=None if progress else True, leave=False) as bar:
                for stage in stages:
                    self.model.load_state_dict(self.best_weights)
                    for epoch in self._epochs(stage, batch_size, seed):
                        bar.set_description(stage.name)
                        bar.set_postfix({"loss": epoch.loss, self.metric.name: epoch.validation})
                        bar.update()
        finally:
            self.model.load_state_dict(self.best_weights)
            for module, training in modes.items():
                module.training = training

    def _epochs(self, stage: Stage, batch_size: int, seed: int) -> Iterator[Epoch]:
        """Train a stage until it ends, yielding each epoch as it is done."""
        step = _Step(self, stage)
        best_of_stage, since = -math.inf, 0
        for _ in range(stage.epochs):
            number = len(self.history.epochs) + 1
            loss = self._pass(step, number, self.train.shuffled(batch_size, seed=seed, epoch=number))
            step.check_weights(where=f"epoch {number}, after its last batch")
            epoch = self._record(step, number, loss)
            yield epoch
            since = 0 if epoch.validation > best_of_stage else since + 1
            best_of_stage = max(best_of_stage, epoch.validation)
            if since >= stage.patience:
                return

    def _pass(self, step: "_Step", epoch: int, batches: Iterable[Sequence[Tensor]]) -> float:
        self.model.train()
        step.start_pass()
        losses, rows = 0.0, 0
        for number, (x, y) in enumerate(batches, start=1):
            losses += len(y) * step(*self.fabric.to_device((x, y)), where=f"epoch {epoch}, batch {number}")
            rows += len(y)
        if not rows:
            raise ValueError("needed data to train on, got no batch; an iterator can be gone through only once")
        return losses / rows

    def _record(self, step: "_Step", number: int, loss: float) -> Epoch:
        logits, target = predict(step.model, self.validation.in_order(4096), self.policy)
        threshold = self._tuned(logits, target)
        validation = judge(logits, target, self.metric, threshold, self.policy)
        logits, target = predict(step.model, self.train.in_order(4096), self.policy)
        train = judge(logits, target, self.metric, threshold, self.policy)
        seconds = time.perf_counter() - self.start
        epoch = Epoch(step.stage.name, number, loss, train.value, validation.value, threshold, seconds)
        if not self.history.epochs or epoch.validation > self.history.best.validation:
            self.best_weights = _copy(self.model)
        self.history.epochs.append(epoch)
        return epoch

    def _tuned(self, logits: Tensor, target: Tensor) -> Threshold:
        """The threshold of the decisions on these logits."""
        if not isinstance(self.threshold, str):
            return self.threshold
        assert isinstance(self.metric, CountMetric | LabelMetric)
        if self.threshold == "tuned":
            return best_threshold(self.metric, logits, target)[0]
        each, _ = best_thresholds(self.metric, logits, target)
        return tuple(each.tolist())

    def kept(self) -> str:
        """Which weights the model has after an error, for messages."""
        if not self.history.epochs:
            return "the model keeps its initial weights"
        best = self.history.best
        return (
            f"the model keeps the weights of epoch {best.epoch} (validation {self.metric.name} {best.validation:.4f})"
        )


class _Step:
    """One optimizer step of a stage, refusing what is not finite before it reaches the weights."""

    def __init__(self, run: _Run, stage: Stage) -> None:
        self.run, self.stage, self.fabric = run, stage, run.fabric
        parameters = list(run.model.parameters())
        if isinstance(stage.criterion, nn.Module):
            stage.criterion.to(run.fabric.device)
        if isinstance(
            stage.criterion, MetricLoss | Constrained | ExpectedLoss
        ):  # baselines and control variates learn with the policy
            known = set(map(id, parameters))
            parameters += [each for each in stage.criterion.parameters() if id(each) not in known]
        optimizer = stage.optimizer(parameters, lr=stage.lr)
        self.reference = None
        if stage.kl:
            self.reference = run.fabric.setup_module(copy.deepcopy(run.model).eval().requires_grad_(False))
        self.model, self.optimizer = run.fabric.setup(run.model, optimizer)

    def __call__(self, x: Any, target: Tensor, *, where: str) -> float:
        criterion = self.stage.criterion
        if isinstance(criterion, ExpectedLoss):  # it runs the network itself, drawing its steps
            with self.fabric.autocast():
                logits, loss = None, criterion(self.run.model, x, target)
        else:
            logits = self.model(x)
            self._refuse("a logit", logits, where, "look for NaN in the inputs, or lower lr")
            loss = criterion(logits, target)
        if not isinstance(loss, Tensor) or loss.ndim:
            got = describe(loss) if isinstance(loss, Tensor) else repr(loss)
            raise TypeError(f"needed a scalar tensor from the criterion of stage {self.stage.name!r}, got {got}")
        if self.reference is not None:
            logits = self.model(x) if logits is None else logits
            policy, reference = self.run.policy(logits), self.run.policy(self.reference(x))
            loss = loss + self.stage.kl * kl_divergence(policy, reference).mean()
        self._refuse("the loss", loss, where, "lower lr, or look at the criterion")
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        # A gradient scaler meets infinite gradients by design, and skips the step itself.
        if self.fabric._precision.precision != "16-mixed":
            for name, parameter in self.run.model.named_parameters():
                if parameter.grad is not None:
                    self._refuse(f"the gradient of {name}", parameter.grad, where, "lower lr")
        self.optimizer.step()
        return float(loss.detach())

    def start_pass(self) -> None:
        """Tell a loss that counts the whole data set that it begins anew, wherever in the criterion it stands."""
        if isinstance(self.stage.criterion, nn.Module):
            for loss in self.stage.criterion.modules():
                if isinstance(loss, MetricLoss):
                    loss.start_pass()

    def check_weights(self, *, where: str) -> None:
        """Refuse to judge, let alone keep, weights that a step has thrown out of range."""
        for name, parameter in self.run.model.named_parameters():
            self._refuse(f"the weights {name}", parameter, where, "lower lr")

    def _refuse(self, what: str, values: Tensor, where: str, advice: str) -> None:
        # The sum is not finite where an entry is not; the entries decide, as finite ones may overflow together.
        if torch.isfinite(values.detach().sum()) or torch.isfinite(values.detach()).all():
            return
        bad = values.detach()[~torch.isfinite(values.detach())].flatten()[0].item()
        raise FloatingPointError(
            f"needed finite numbers, got {bad} for {what} in stage {self.stage.name!r}, {where}; "
            f"{self.run.kept()}; {advice}"
        )


def _launched(fabric: "Fabric | None") -> "Fabric":
    from lightning_fabric import Fabric

    if fabric is None:
        fabric = Fabric(accelerator="auto", devices=1)
    if fabric.world_size > 1:
        raise ValueError(
            f"needed a Fabric of one device, got {fabric.world_size}: each would train on the metric of its own shard, "
            "whose mean is not the metric of the batch; use devices=1"
        )
    fabric.launch()
    return fabric


def _check_arguments(
    stages: Sequence[Stage],
    metric: Metric,
    threshold: Threshold | Tuned,
    policy: PolicyType,
    batch_size: int,
    seed: int,
) -> None:
    if not isinstance(stages, list | tuple) or not stages or not all(isinstance(stage, Stage) for stage in stages):
        raise TypeError(f"needed a Stage or several, got {stages!r}; wrap the criterion: Stage(MetricLoss(f1))")
    tuned = threshold in get_args(Tuned)
    if not tuned and not is_threshold(threshold):
        raise ValueError(
            'needed a finite number in logits or "tuned" as threshold, or of several labels one for each or "tuned per '
            f'label", got {threshold!r}'
        )
    if tuned and not isinstance(metric, CountMetric | LabelMetric):
        raise TypeError(f"needed a CountMetric to tune a threshold for, got {metric!r}; give the threshold as a number")
    if policy is not Bernoulli and threshold != 0:
        raise ValueError(f"needed threshold 0 for a {policy.__name__} policy, got {threshold}")
    if batch_size < 1:
        raise ValueError(f"needed a batch_size of at least 1, got {batch_size}")
    if not 0 <= seed < 2**63:
        raise ValueError(f"needed a seed from 0 to 2^63 - 1, got {seed}")


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
