"""What to do about a verdict, in a sentence each."""

_DISCRETE = {"argmax", "argmin", "multinomial", "topk", "sort", "argsort", "max", "min", "median", "mode"}
_SAMPLING = {"bernoulli", "bernoulli_", "multinomial", "poisson", "binomial", "sample"}

_CHOICE = (
    "The choice of an index has no slope. At the output, train on the score of the choice: "
    "rlgrad.MetricLoss(metric, policy=rlgrad.Categorical). Inside a network, as in a router, make it a decision of "
    "rlgrad.Categorical, with an estimator of rlgrad.estimators, scored by what follows: "
    "rlgrad.metrics.Downstream(function, classes=K)."
)
_HARD = (
    "A hard decision has no slope. If it is scored, train on the score itself: rlgrad.MetricLoss(metric) on the "
    "logits. Inside a network, put rlgrad.steps.Step (or Sign, Staircase) in its place: "
    'Step(backward="arctan"), with a surrogate derivative, or Step(backward=rlgrad.stochastic.policy_gradient()), '
    "which rlgrad.ExpectedLoss draws and trains. Else make it a decision of rlgrad.Bernoulli, with an estimator of "
    "rlgrad.estimators."
)
_SAMPLE = (
    "A sample has no slope, its expectation has: put an estimator of rlgrad.estimators in its place, or "
    "rlgrad.MetricLoss(metric) where the sample is scored."
)
_STEP = {
    "step": '{name} has the true derivative, zero: give it a rule, as in Step(backward="arctan"), or train the network '
    "with rlgrad.ExpectedLoss and Step(backward=rlgrad.stochastic.policy_gradient()).",
    "drawn": "{name} with policy_gradient() is for rlgrad.ExpectedLoss, which draws it; its own derivative is the true "
    'one, zero: train the network with that loss, or give it a rule, as in Step(backward="arctan").',
    "ruled": "Its input lies where {name} passes no gradient back: another scale or start brings it nearer, or a rule "
    'with long tails, as in Step(backward="arctan"), reaches it.',
}
_KEEP = "Keep the tensor as it is where its gradient is wanted; leave the call where the stop is meant."

_CUT = {
    "detached": _KEEP,
    "no_grad": "Take what is to be trained out of torch.no_grad(); leave it there where the stop is meant.",
    "python": "Stay in torch: keep the tensor instead of its Python number or NumPy array, and decide with "
    "torch.where. If a program must see the number, rlgrad.MetricLoss trains on what it returns.",
    "copied": "Join tensors with torch.stack or torch.cat; torch.tensor copies their values only.",
    "other": "Autograd has no derivative here: write it with operations that have one, or use an estimator of "
    "rlgrad.estimators.",
}
_NON_FINITE = {
    "masked": "Replace the input before the function, not only its value after: "
    "torch.where(ok, f(torch.where(ok, x, 1.0)), 0.0). Zero times an infinite slope is NaN.",
    "sqrt": "Keep its argument away from zero: torch.sqrt(x.clamp_min(eps)) or torch.sqrt(x + eps).",
    "log": "Keep its argument away from zero, or stay in logits: logsigmoid and log_softmax are finite everywhere.",
    "div": "Keep the divisor away from zero: add eps, or clamp it.",
    "norm": "A norm has no slope at zero: add eps inside the root, or use torch.nn.functional.normalize.",
}


def for_cut(name: str, kind: str) -> str:
    """Advice where an operation cut the gradient."""
    if kind != "discrete":
        return _SAMPLE if name in _SAMPLING else _CUT.get(kind, _CUT["other"])
    return _CHOICE if name in _DISCRETE else _HARD


def for_flat(name: str, kind: str, *, constant: bool) -> str:
    """Advice where the slope is zero almost everywhere; both are empty where no operation was found to be to blame."""
    if kind in _STEP:
        return _STEP[kind].format(name=name)
    if name in _SAMPLING:
        return _SAMPLE
    if constant:
        return "The output does not depend on it: a normalisation, a mask or a product with zero may undo it; drop it."
    return _HARD


def for_non_finite(name: str | None, *, masked: bool) -> str:
    """Advice where a gradient or a value is not finite."""
    key = "masked" if masked else next((key for key in _NON_FINITE if key in (name or "")), "")
    return _NON_FINITE.get(key, "Keep its argument inside the domain: clamp it, or add eps where it divides.")


PRETENDED = (
    "Autograd follows a rule of its own, as a straight-through step, a detached factor or an estimator of a policy "
    "gradient does, or leaves entries out, as the padding of an embedding. That may be meant."
)
FIXED = "The function takes certain values only, as of a target; nothing is to be trained here."
VANISHES = "It is too small to train: a skip connection, a normalisation or another initial scale lets it through."
UNUSED = "It plays no part here: remove it, or look for the call that was forgotten."
UNKNOWN = "Look for a custom autograd function, another library or a .data assignment between the two."
FROZEN = "requires_grad is False; set it to True to train it."
RESTS = "It is a point of rest, not a flat function: another start or scale, or a leaky unit, moves it."
