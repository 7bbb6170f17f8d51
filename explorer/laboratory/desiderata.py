"""Does the model learn the way one would wish? One number with interval, controls and a sentence for each wish.

Takes matrices of effects as `teaching` makes them; trains nothing. A number is what these samples and this model showed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import pi, sqrt

import numpy as np
from numpy.typing import NDArray

from explorer.errors import DataError
from explorer.laboratory.statistics import Array64, Measured, bootstrap, divided, matrix, mean_of, quantile_of, ratio_of

Mask = NDArray[np.bool_]
SYMMETRIC = 0.05
CORRELATED = 0.95
"""Asymmetry below, and correlation with η g·g above: the effects are those of a first-order step."""
SIGMAS = (0.02, 0.05, 0.1, 0.2)
TENTH = 0.1
MAIN_SIGMA = 0.1


@dataclass(frozen=True)
class Desideratum:
    """One wish: its number with a 95 % interval over samples, further numbers, controls, and what it says in plain words.

    `parts` take the number apart (within a class, by noise, ...); `controls` are what chance or another cause would give.
    """

    name: str
    measured: Measured
    sentence: str
    parts: Mapping[str, Measured] = field(default_factory=dict)
    controls: Mapping[str, Measured] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The number itself."""
        return self.measured.value


@dataclass(frozen=True)
class LinearRegime:
    """Whether effects are those of a first-order step: asymmetry < 0.05 and correlation with η g·g > 0.95.

    `asymmetry` is NaN, and does not count, where lessons and probes differ.
    """

    linear: bool
    asymmetry: float
    correlation: float
    sentence: str


def linear_regime(values: Array64, first_order: Array64, *, square: bool | None = None) -> LinearRegime:
    """The badge of a matrix `[i, j]` beside its first-order twin; `square` says whether lessons and probes are the same.

    None: they are where there are as many of them.
    """
    E, F = matrix(values, "effects"), matrix(first_order, "first-order effects")
    if E.shape != F.shape:
        raise DataError(f"Expected two matrices of one shape; found {list(E.shape)} and {list(F.shape)}.")
    same = E.shape[0] == E.shape[1] if square is None else square
    asymmetry = float(_asymmetries(E, diagonal=True)(np.ones((1, len(E))))[0]) if same else float("nan")
    both = np.isfinite(E) & np.isfinite(F)
    correlation = _pearson(E[both], F[both])
    linear = bool(correlation > CORRELATED and (not same or asymmetry < SYMMETRIC))
    said = f"correlation with the first-order prediction {correlation:.3f}"
    said += f", asymmetry {asymmetry:.3f}" if same else ", asymmetry not defined where lessons and probes differ"
    head = "Linear regime" if linear else "Not in the linear regime"
    tail = "these effects are close to inner products of gradients" if linear else "the step is not a small one of SGD"
    return LinearRegime(linear, asymmetry, correlation, f"{head}: {said}; {tail}.")


def symmetry(values: Array64, seed: int = 0) -> Desideratum:
    """‖E − Eᵀ‖/‖E + Eᵀ‖ of `[n, n]`: 0 = i teaches j what j teaches i, 1 = unrelated, above 1 = opposite.

    Samples whose lesson or probe failed are left out. The control pairs each effect with that of a random other pair.
    """
    E = _complete(matrix(values, "effects", square=True))
    measured = bootstrap(len(E), _asymmetries(E, diagonal=True), seed)
    off = bootstrap(len(E), _asymmetries(E, diagonal=False), seed)
    away = ~np.eye(len(E), dtype=bool)
    mixed = E.copy()
    mixed[away] = np.random.default_rng(seed).permutation(E[away])
    shuffled = bootstrap(len(E), _asymmetries(mixed, diagonal=False), seed)
    said = (
        f"The part of the effects that differs between teaching i and asking j, and the reverse, is {measured.words} times "
        f"the part they share ({off.words} without a sample's effect on itself; {shuffled.words} for shuffled pairs)."
    )
    return Desideratum("symmetry", measured, said, {"without the diagonal": off}, {"shuffled": shuffled})


def decay(
    values: Array64,
    distance: Array64,
    same_class: Mask | None = None,
    itself: NDArray[np.int64] | None = None,
    seed: int = 0,
) -> Desideratum:
    """Spearman's correlation of −distance with effect over pairs `[i, j]`, all and within and across classes apart.

    `itself[i]` is the column of lesson i's own example, left out (−1: none; None: the diagonal of a square matrix). The
    interval draws lessons and keeps the ranks of all pairs. The control shuffles which probe has which distances. A probe
    that the model is unsure of gains or loses much from any lesson: "on one scale" each probe's effects, then each
    lesson's, are divided by their root mean square.
    """
    E, D = matrix(values, "effects"), matrix(distance, "distances")
    if E.shape != D.shape or (same_class is not None and np.shape(same_class) != E.shape):
        raise DataError(
            f"Expected a distance and a class mark for each of {list(E.shape)} effects; found other shapes."
        )
    pairs = np.isfinite(E) & np.isfinite(D) & ~_own(E, itself)
    measured = _ranked(-D, E, pairs, seed)
    even = _on_one_scale(E, pairs)
    parts = {"on one scale": _ranked(-D, even, pairs, seed)}
    if same_class is not None:
        marks = np.asarray(same_class, dtype=bool)
        for name, some in (("within a class", pairs & marks), ("across classes", pairs & ~marks)):
            parts |= {name: _ranked(-D, E, some, seed), f"{name}, on one scale": _ranked(-D, even, some, seed)}
    order = np.random.default_rng(seed).permutation(E.shape[1])
    control = _ranked(-D[:, order], E, pairs & np.isfinite(D[:, order]), seed)
    apart = "".join(f", {name} {part.words}" for name, part in parts.items())
    said = (
        f"Nearer samples gained more with a rank correlation of {measured.words}{apart}; with distances of other samples it "
        f"is {control.words}."
    )
    return Desideratum("decay with semantic distance", measured, said, parts, {"shuffled": control})


def sparseness(values: Array64, itself: NDArray[np.int64] | None = None, seed: int = 0) -> Desideratum:
    """Hoyer's (√n − ‖·‖₁/‖·‖₂)/(√n − 1) of each row `[j]`, the mean: 1 = one probe has all of the effect, 0 = all equal.

    The control is that of Gaussian noise of the same length, in expectation.
    """
    E = matrix(values, "effects")
    rows = np.where(np.isfinite(E), E, 0.0)
    taught = np.isfinite(E).any(1)
    counts = np.isfinite(E).sum(1)
    measured = mean_of(np.where(taught, _hoyer(rows, counts), np.nan), seed)
    own = _own(E, itself) & np.isfinite(E)
    others = mean_of(np.where(taught, _hoyer(np.where(own, 0.0, rows), counts - own.sum(1)), np.nan), seed)
    n = int(counts.max())
    noise = (sqrt(n) - sqrt(2 * n / pi)) / (sqrt(n) - 1) if n > 1 else float("nan")
    said = (
        f"A lesson's effect is concentrated to {measured.words} on a scale from 0 (all probes alike) to 1 (a single one); "
        f"{others.words} without the sample itself, and {noise:.2f} for random noise."
    )
    return Desideratum(
        "sparseness", measured, said, {"without itself": others}, {"random noise": Measured(noise, noise, noise, n)}
    )


def noise_invariance(
    values: Array64, noisy: Mapping[float, Array64], labels: NDArray[np.int64] | None = None, seed: int = 0
) -> Desideratum:
    """Cosine of E[i, :] with the effects of lesson i plus noise of each deviation: 1 = the lesson stays the same.

    For each deviation the median, the 10th percentile, and the median ratio of sizes. The number is the median at 0.1, or
    the deviation next to it. The control is the cosine with the lesson of another sample (of the same class, given labels).
    """
    E = matrix(values, "effects")
    if not noisy:
        raise DataError("Expected effects of noisy lessons; found none. Teach them with noise of a deviation first.")
    parts: dict[str, Measured] = {}
    medians = {}
    for sigma, found in sorted(noisy.items()):
        other = matrix(found, f"effects with noise {sigma:g}")
        if other.shape != E.shape:
            raise DataError(f"Expected effects {list(E.shape)} with noise {sigma:g}; found {list(other.shape)}.")
        cosine, size = _cosine(E, other)
        medians[sigma] = parts[f"{sigma:g}: median cosine"] = quantile_of(cosine, 0.5, seed)
        parts[f"{sigma:g}: 10th percentile"] = quantile_of(cosine, TENTH, seed)
        parts[f"{sigma:g}: size"] = quantile_of(size, 0.5, seed)
    main = min(medians, key=lambda sigma: abs(sigma - MAIN_SIGMA))
    control = quantile_of(_cosine(E, E[_partners(len(E), labels, seed)])[0], 0.5, seed)
    said = (
        f"A lesson with noise of deviation {main:g} teaches in the same direction with a median cosine of {medians[main].words}; "
        f"the lesson of another sample{' of its class' if labels is not None else ''} has {control.words}."
    )
    return Desideratum("noise invariance", medians[main], said, parts, {"another sample": control})


def transitive_causality(
    both: Array64, first: Array64, second: Array64, shuffled: Array64, direct: Array64, seed: int = 0
) -> Desideratum:
    """What A → B and B → C taught together do to A → C, as a share of what teaching A → C itself does, over chains `[c]`.

    `first` and `second` are what each does alone, `shuffled` what A → B does with a B′ → C. "Beyond the sum" is both less
    first less second: near 0 for steps so small that effects add up.
    """
    arrays = _same_length(both=both, first=first, second=second, shuffled=shuffled, direct=direct)
    aim = arrays["direct"]
    measured = ratio_of(arrays["both"], aim, seed)
    beyond = ratio_of(arrays["both"] - arrays["first"] - arrays["second"], aim, seed)
    controls = {name: ratio_of(arrays[name], aim, seed) for name in ("first", "second", "shuffled")}
    said = (
        f"Taught that A is B and B is C, the model gained {measured.words} of what teaching A is C directly gains; "
        f"A is B alone {controls['first'].words}, B is C alone {controls['second'].words}, with another B "
        f"{controls['shuffled'].words}."
    )
    return Desideratum("transitive causality", measured, said, {"beyond the sum": beyond}, controls)


def logical_consistency(
    own: Array64,
    negation: Array64,
    converse: Array64 | None = None,
    contrapositive: Array64 | None = None,
    shuffled: Array64 | None = None,
    seed: int = 0,
) -> Desideratum:
    """(E[P, P] − E[P, ¬P]) / (|E[P, P]| + |E[P, ¬P]|) of each statement `[p]`, the mean: 1 = its negation fell, 0 = both rose alike.

    `converse`, `contrapositive` and `shuffled` are E[P, ·] on those, told as shares of E[P, P]: logic asks for the
    contrapositive to rise with P, and says nothing of the converse or of another statement.
    """
    given = {
        "own": own,
        "negation": negation,
        "converse": converse,
        "contrapositive": contrapositive,
        "shuffled": shuffled,
    }
    arrays = _same_length(**{name: array for name, array in given.items() if array is not None})
    P, N = arrays.pop("own"), arrays.pop("negation")
    below = np.abs(P) + np.abs(N)
    measured = mean_of(divided(P - N, below), seed)
    controls = {name: ratio_of(array, P, seed) for name, array in arrays.items()}
    moved = ratio_of(N, P, seed)
    beside = "".join(
        f", its {name} {control.words}" if name != "shuffled" else f", another statement {control.words}"
        for name, control in controls.items()
    )
    said = (
        f"Consistency is {measured.words} on a scale from −1 to 1; of a statement's own gain its negation gained "
        f"{moved.words}{beside}."
    )
    return Desideratum("logical consistency", measured, said, {"negation": moved}, controls)


def distances(lessons: Array64, probes: Array64) -> Array64:
    """Euclidean distance of features `[i, d]` and `[j, d]`, `[i, j]`."""
    a, b = matrix(lessons, "features"), matrix(probes, "features")
    if a.shape[1] != b.shape[1]:
        raise DataError(f"Expected features of one length; found {a.shape[1]} and {b.shape[1]}.")
    squares = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))


def _asymmetries(E: Array64, *, diagonal: bool) -> Callable[[Array64], Array64]:
    """‖E − Eᵀ‖/‖E + Eᵀ‖ by weights `[d, n]`: pair i, j counts w_i w_j times, and a sample's own effect w_i times."""
    whole = np.isfinite(E) & np.isfinite(E.T)
    apart, shared = (np.square(np.where(whole, part, 0.0)) for part in (E - E.T, E + E.T))
    own = np.diagonal(shared).copy() if diagonal else np.zeros(len(E))
    np.fill_diagonal(shared, 0.0)

    def numbers(weights: Array64) -> Array64:
        above, below = (((weights @ part) * weights).sum(1) for part in (apart, shared))
        return np.sqrt(divided(above, below + weights @ own))

    return numbers


def _complete(E: Array64) -> Array64:
    """Without samples whose lesson failed or whose probe cannot be measured."""
    kept = ~(np.isnan(E).all(1) | np.isnan(E).all(0))
    if kept.sum() < 2:
        raise DataError(
            f"Expected two samples at least that were taught and measured; found {int(kept.sum())}. Teach more."
        )
    return E[np.ix_(kept, kept)]


def _own(E: Array64, itself: NDArray[np.int64] | None) -> Mask:
    mask = np.zeros(E.shape, dtype=bool)
    if itself is None:
        if E.shape[0] == E.shape[1]:
            np.fill_diagonal(mask, val=True)
        return mask
    rows = np.flatnonzero(np.asarray(itself) >= 0)
    mask[rows, np.asarray(itself)[rows]] = True
    return mask


def _on_one_scale(E: Array64, pairs: Mask) -> Array64:
    """Effects divided by the size of their column, then of their row, over `pairs`."""
    found = np.where(pairs, E, 0.0)
    for axis in (0, 1):
        size = np.sqrt(np.square(found).sum(axis, keepdims=True) / np.maximum(pairs.sum(axis, keepdims=True), 1))
        found = np.divide(found, size, out=np.zeros_like(found), where=size > 0)
    return found


def _ranked(x: Array64, y: Array64, pairs: Mask, seed: int) -> Measured:
    """Spearman over pairs; the interval draws rows, by each row's sums of ranks."""
    from scipy.stats import rankdata  # a second to load, and only needed where something is compared

    a, b = np.zeros(x.shape), np.zeros(y.shape)
    if pairs.sum() < 3:
        return Measured(float("nan"), float("nan"), float("nan"), 0)
    for ranks, values in ((a, x), (b, y)):
        found = rankdata(values[pairs])
        ranks[pairs] = (found - found.mean()) / len(found)
    sums = np.stack([pairs.sum(1), a.sum(1), b.sum(1), (a * a).sum(1), (b * b).sum(1), (a * b).sum(1)])

    def numbers(weights: Array64) -> Array64:
        n, sa, sb, saa, sbb, sab = sums @ weights.T
        size = np.maximum(n, 1)
        spread = np.maximum((saa - sa * sa / size) * (sbb - sb * sb / size), 0.0)
        return divided(sab - sa * sb / size, np.sqrt(spread))

    measured = bootstrap(len(x), numbers, seed)
    return Measured(measured.value, measured.low, measured.high, int(pairs.any(1).sum()))


def _hoyer(rows: Array64, counts: NDArray[np.int64]) -> Array64:
    root = np.sqrt(counts.astype(np.float64))
    size = np.linalg.norm(rows, axis=1)
    share = divided(np.abs(rows).sum(1), size)
    return divided(root - share, root - 1)


def _cosine(a: Array64, b: Array64) -> tuple[Array64, Array64]:
    """Cosines and ratios of sizes of rows, over columns where both are finite; NaN for rows without any."""
    both = np.isfinite(a) & np.isfinite(b)
    a, b = np.where(both, a, 0.0), np.where(both, b, 0.0)
    own, other = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    return divided((a * b).sum(1), own * other), divided(other, own)


def _partners(n: int, labels: NDArray[np.int64] | None, seed: int) -> NDArray[np.int64]:
    """Another sample for each, of the same class where labels are given and there is one."""
    random = np.random.default_rng(seed)
    found = np.empty(n, dtype=np.int64)
    groups = np.zeros(n, dtype=np.int64) if labels is None else np.asarray(labels)
    for label in np.unique(groups):
        rows = random.permutation(np.flatnonzero(groups == label))
        found[rows] = np.roll(rows, 1)
    alone = found == np.arange(n)
    found[alone] = (np.flatnonzero(alone) + 1) % n
    return found


def _same_length(**arrays: Array64) -> dict[str, Array64]:
    found = {name: np.asarray(array, dtype=np.float64) for name, array in arrays.items()}
    shapes = {array.shape for array in found.values()}
    if len(shapes) != 1 or next(iter(shapes)) == () or len(next(iter(shapes))) != 1 or next(iter(shapes)) == (0,):
        raise DataError(
            f"Expected one number for each statement, all alike in number; found shapes {sorted(map(str, shapes))}."
        )
    return found


def _pearson(a: Array64, b: Array64) -> float:
    if len(a) < 2 or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
