"""The law of a count of independent yes/no decisions, as a quadrature rule: constant nodes, differentiable weights.

A count X = sum of b_i with b_i ~ Bernoulli(p_i) follows the Poisson-binomial law, and for any function f of it

    E[f(X)] = sum over nodes of weight f(node),    dE[f(X)]/dp_i = sum over nodes of dweight/dp_i f(node).

The nodes carry no gradient, so f is only ever evaluated: it needs no derivative, and may have none. Two rules stand
for the law, chosen for each count by its standard deviation:

``law_rule``, below ``SWITCH``: nodes are the integers, weights their probabilities (to about 1e-11), from the
    characteristic function by FFT. It covers a window of ``WINDOW`` integers about the mean, eight deviations to either
    side at the switch, and all outcomes of a count that has no more.
``gauss_rule``, from ``SWITCH`` on: Gauss-Hermite nodes at the count's mean and standard deviation, weights corrected to
    its first six cumulants, which are sums of polynomials in p. The mean of such a count is at least its variance, and
    so is the mean of the misses: both ends of its range, where a formula may be singular (g_mean's root, precision's
    0/0), lie at least SWITCH deviations away from the mean, and the outermost node at 5.5 lies inside.

Both cost O(items) and both have all their data in the probabilities: no sampling, no derivative of the formula.
"""

import math

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

SWITCH = 6.0  # standard deviation of the count from which on the Gauss rule stands for its law
WINDOW = 97  # integers covered by the law; odd, so that pi is no frequency and no factor of the product can vanish
NODES = 12  # of the Gauss rule
CUMULANTS = 6  # of the count that the Gauss rule matches
ORDER = 12  # of the Hermite series that corrects its weights
_TAIL = 1 / 32  # probabilities within this of 0 or 1 enter the law through power sums
_FEW = 4096  # items, of all rows together, up to which power sums do not pay
_POWERS = 11  # of those sums: the first one left out is (2 / 32)^12 / 12 = 3e-16


def count_rule(p: Float[Tensor, "rows items"]) -> tuple[Float[Tensor, "rows nodes"], Float[Tensor, "rows nodes"]]:
    """Nodes and weights with E[f(count)] = sum of weights f(nodes), for each row.

    Args:
        p: probability of each decision, float64. An item that does not belong to the count has p = 0.

    Returns:
        Nodes between 0 and the number of items, without gradient, and weights, differentiable in p. Rows whose rule
        has fewer nodes than another's are filled up with nodes of weight 0.

    Source: Hong, On computing the distribution function for the Poisson binomial distribution (2013), for the FFT;
        Blinnikov, Moessner, Expansions for nearly Gaussian distributions (1998), for the corrected weights.

    Example:
        >>> p = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64)
        >>> nodes, weights = count_rule(p)
        >>> [f"{x:g}: {w:.2f}" for x, w in zip(nodes[0].tolist(), weights[0].tolist()) if w > 1e-9]
        ['0: 0.25', '1: 0.50', '2: 0.25']
    """
    narrow = (p * (1 - p)).detach().sum(-1) < SWITCH**2
    if not narrow.any():
        return gauss_rule(p)
    nodes, weights = law_rule(p[narrow])
    if narrow.all():
        return nodes, weights
    wide_nodes, wide_weights = gauss_rule(p[~narrow])
    length = max(nodes.shape[-1], NODES)
    return (
        _merge(narrow, _fill(nodes, length), _fill(wide_nodes, length)),
        _merge(narrow, _fill(weights, length), _fill(wide_weights, length)),
    )


def law_rule(p: Float[Tensor, "rows items"]) -> tuple[Float[Tensor, "rows nodes"], Float[Tensor, "rows nodes"]]:
    """The integers around the mean and their probabilities, from the characteristic function on as many frequencies."""
    outcomes = int((p > 0).sum(-1).max()) + 1
    window = min(WINDOW, outcomes + 1 - outcomes % 2)
    theta = 2 * math.pi / window * torch.arange(window // 2 + 1, dtype=p.dtype, device=p.device)
    # P(X = r modulo the window); within the window itself nothing else has that remainder but the far tails.
    by_remainder = torch.fft.irfft(_characteristic(p, theta).conj(), n=window)
    start = (p.detach().sum(-1).round() - window // 2).clamp(0, max(0, outcomes - window))
    nodes = start[:, None] + torch.arange(window, dtype=p.dtype, device=p.device)
    return nodes.clamp(max=outcomes - 1), by_remainder.gather(-1, nodes.long() % window)


def _characteristic(
    p: Float[Tensor, "rows items"], theta: Float[Tensor, " frequencies"]
) -> Complex[Tensor, "rows frequencies"]:
    """E[exp(i theta X)] = product over items of (1 + p z), z = exp(i theta) - 1.

    Few items are multiplied one by one. Of many, most decisions of a narrow count are nearly sure: those enter through
    the power series of the logarithm, whose coefficients are power sums of p (or of 1 - p, counted from the other end),
    and only the others, at most SWITCH^2 / (_TAIL (1 - _TAIL)) = 1190 a row, one by one.
    """
    z = torch.polar(torch.ones_like(theta), theta) - 1
    if p.numel() <= _FEW:
        return _product(p, z)
    low, high = p <= _TAIL, p >= 1 - _TAIL
    log_sure = _series(torch.where(low, p, 0.0), z) + _series(torch.where(high, 1 - p, 0.0), z.conj())
    log_sure = log_sure + 1j * theta * high.sum(-1, keepdim=True)
    return torch.exp(log_sure) * _product(torch.where(low | high, 0.0, p), z)


def _product(p: Float[Tensor, "rows items"], z: Complex[Tensor, " frequencies"]) -> Complex[Tensor, "rows frequencies"]:
    """Product over items of (1 + p z), over those with p > 0. No factor is zero, since no frequency is pi."""
    members = p.topk(int((p > 0).sum(-1).max()), sorted=False).values
    return torch.prod(1 + members[..., None] * z, dim=1)


def _series(p: Float[Tensor, "rows items"], z: Complex[Tensor, " frequencies"]) -> Complex[Tensor, "rows frequencies"]:
    """Sum over items of log(1 + p z) = sum over m of (-1)^(m+1) z^m / m, times the m-th power sum of p."""
    total, power, z_power = torch.zeros_like(z), p, z
    for m in range(1, _POWERS + 1):
        total = total + (-1) ** (m + 1) / m * power.sum(-1, keepdim=True) * z_power
        power, z_power = power * p, z_power * z
    return total


def gauss_rule(p: Float[Tensor, "rows items"]) -> tuple[Float[Tensor, "rows nodes"], Float[Tensor, "rows nodes"]]:
    """Gauss-Hermite nodes x_j and weights w_j (1 + sum of h_n He_n(x_j) / n!), where h_n = E[He_n] of the count.

    With nodes held fixed at the mean and deviation, h_1 and h_2 are zero, but not their gradients.
    """
    cumulants = _cumulants(p)
    mean, deviation = cumulants[0].detach(), cumulants[1].detach().sqrt()
    scaled = [(cumulants[0] - mean) / deviation, cumulants[1] / deviation**2 - 1]
    scaled += [cumulant / deviation**m for m, cumulant in enumerate(cumulants[2:], start=3)]
    x, w, hermite = _gauss_hermite(p)
    weights = w * (_hermite_moments(scaled) @ hermite)
    return mean[:, None] + deviation[:, None] * x, weights


def _cumulants(p: Float[Tensor, "rows items"]) -> list[Float[Tensor, " rows"]]:
    """The first six cumulants of the count: sums over items of kappa_(m+1) = p (1 - p) d kappa_m / dp, kappa_1 = p."""
    q, d = p * (1 - p), 1 - 2 * p
    terms = (p, q, q * d, q * (1 - 6 * q), q * d * (1 - 12 * q), q * (1 - 30 * q + 120 * q * q))
    return [term.sum(-1) for term in terms]


def _hermite_moments(scaled: list[Float[Tensor, " rows"]]) -> Float[Tensor, "rows orders"]:
    """h_n / n! for n = 0 .. ORDER: the coefficients of exp(sum of c_m t^m / m!), c the scaled cumulants.

    The exponential of a power series: n a_n = sum over m of m (c_m / m!) a_(n-m).
    """
    moments = [torch.ones_like(scaled[0])]
    for n in range(1, ORDER + 1):
        terms = (c / math.factorial(m - 1) * moments[n - m] for m, c in enumerate(scaled[:n], start=1))
        moments.append(sum(terms, torch.zeros_like(moments[0])) / n)
    return torch.stack(moments, -1)


def _gauss_hermite(like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes and weights of the standard normal law, and the Hermite polynomials He_0 .. He_ORDER at the nodes."""
    x, w = np.polynomial.hermite_e.hermegauss(NODES)
    hermite = np.polynomial.hermite_e.hermevander(x, ORDER).T
    return like.new_tensor(x), like.new_tensor(w / w.sum()), like.new_tensor(hermite)


def _fill(values: Float[Tensor, "rows nodes"], length: int) -> Float[Tensor, "rows length"]:
    return torch.nn.functional.pad(values, (0, length - values.shape[-1]))


def _merge(
    narrow: Bool[Tensor, " rows"], ours: Float[Tensor, "some nodes"], theirs: Float[Tensor, "others nodes"]
) -> Float[Tensor, "rows nodes"]:
    merged = ours.new_empty(len(narrow), ours.shape[-1])
    merged[narrow], merged[~narrow] = ours, theirs
    return merged
