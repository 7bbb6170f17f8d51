"""How much is each example memorized, by training without it? Counts over many models trained on random subsets.

Feldman and Zhang 2020 as a tally that grows model by model; it trains nothing (`explorer.subset_models` does) and never
holds what more than a block of models said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from explorer.errors import DataError, SettingsError

Array = NDArray[np.float64]

MEMORIZED_ABOVE = 0.25
"""An example is flagged whose memorization is above this, and above zero by two standard errors."""
FEWEST = 20
"""Models before which an estimate says nothing: each example is then out of about six of them."""


@dataclass(frozen=True)
class SubsetSettings:
    """Which examples each model is trained on: `ratio` of them, drawn from `seed` and the model's number alone."""

    ratio: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise SettingsError(f"Expected ratio between 0 and 1; found {self.ratio!r}. Feldman and Zhang keep .7.")
        if self.seed < 0:
            raise SettingsError(f"Expected seed >= 0; found {self.seed!r}. Choose another seed.")

    def masks(self, n: int, first: int, last: int) -> NDArray[np.bool_]:
        """What models `first` .. `last - 1` keep of n examples, `[last - first, n]`: round(ratio · n) each, 1 to n − 1.

        Nothing needs to be stored: the same numbers give the same masks.
        """
        size = min(max(round(self.ratio * n), 1), n - 1)
        masks = np.zeros((last - first, n), dtype=bool)
        for number, mask in enumerate(masks, start=first):
            mask[np.random.default_rng([self.seed, number]).permutation(n)[:size]] = True
        return masks

    def model_seed(self, number: int) -> int:
        """The seed of a model's initial weights."""
        return int(np.random.SeedSequence([self.seed, number, 1]).generate_state(1)[0])


@dataclass(frozen=True)
class Estimate:
    """Memorization of n examples after some models, `[n]` each; NaN where an example was never in, or never out.

    `memorization` = `accuracy_in` − `accuracy_out`: how much likelier a model is right on it for having trained on it. `se` is
    √(p_in (1 − p_in) / in + p_out (1 − p_out) / out) with the numbers of models that had it and had not; `flagged`
    where memorization > .25 and memorization − 2 se > 0 (never where NaN).
    """

    memorization: Array
    se: Array
    flagged: NDArray[np.bool_]
    accuracy_in: Array
    accuracy_out: Array
    models: int


@dataclass(frozen=True, eq=False)
class Tally:
    """What so many models said, as counts: exact, so that adding blocks of models in any split gives the same numbers.

    `inside` `[n]` models had each training example; `right_in`, `right_out` `[n]` of those that had it and had not were right on
    it. `right` `[q]` were right on each asked test example, and `right_with` `[q, n]` of them had each training example.
    16 n + 4 q n bytes. `add` changes the arrays in place.
    """

    settings: SubsetSettings
    models: NDArray[np.int64]
    inside: NDArray[np.int32]
    right_in: NDArray[np.int32]
    right_out: NDArray[np.int32]
    right: NDArray[np.int32]
    right_with: NDArray[np.int32]

    @classmethod
    def empty(cls, n: int, asked: int = 0, settings: SubsetSettings | None = None) -> Self:
        """No model yet, over n >= 2 training examples and `asked` test examples."""
        if n < 2:
            raise DataError(f"Expected at least 2 training examples, of which one is left out; found {n}.")
        inside, right_in, right_out = (np.zeros(n, dtype=np.int32) for _ in range(3))
        right, right_with = np.zeros(asked, dtype=np.int32), np.zeros((asked, n), dtype=np.int32)
        chosen = settings or SubsetSettings()
        return cls(chosen, np.zeros(1, dtype=np.int64), inside, right_in, right_out, right, right_with)

    @property
    def done(self) -> int:
        """How many models are counted; the next one has this number."""
        return int(self.models[0])

    def add(self, correct: ArrayLike, correct_asked: ArrayLike) -> None:
        """Count the next models: right on every training example or not, `[b, n]` bool, and on the asked, `[b, q]` bool.

        Raises:
            DataError: shapes that do not fit; nothing is counted then.
        """
        own, other = np.asarray(correct), np.asarray(correct_asked)
        b, (q, n) = len(own), self.right_with.shape
        if own.dtype != bool or other.dtype != bool or own.shape != (b, n) or other.shape != (b, q):
            raise DataError(
                f"Expected right or wrong as bool for {n} training and {q} asked examples; found {own.dtype} {own.shape} and "
                f"{other.dtype} {other.shape}. Ask every model about the same examples."
            )
        kept = self.settings.masks(n, self.done, self.done + b)
        self.inside[:] += kept.sum(axis=0, dtype=np.int32)
        self.right_in[:] += (own & kept).sum(axis=0, dtype=np.int32)
        self.right_out[:] += (own & ~kept).sum(axis=0, dtype=np.int32)
        self.right[:] += other.sum(axis=0, dtype=np.int32)
        if q:
            self.right_with[:] += (other.T.astype(np.float32) @ kept.astype(np.float32)).astype(np.int32)
        self.models[:] += b

    def estimate(self) -> Estimate:
        """Memorization of every training example from the models counted so far."""
        without = self.done - self.inside
        p_in, p_out = _share(self.right_in, self.inside), _share(self.right_out, without)
        difference, se = _difference(p_in, self.inside, p_out, without)
        with np.errstate(invalid="ignore"):
            flagged = (difference > MEMORIZED_ABOVE) & (difference - 2 * se > 0)
        return Estimate(difference, se, flagged, p_in, p_out, self.done)

    def influence(self, asked: int) -> tuple[Array, Array]:
        """infl[j, i] of one asked test example j on every training example i, `[n]`, and its standard error `[n]`.

        How much likelier a model is right on j for having trained on i; NaN as in `Estimate`.
        """
        having, without = self.right_with[asked], self.done - self.inside
        p_in, p_out = _share(having, self.inside), _share(self.right[asked] - having, without)
        return _difference(p_in, self.inside, p_out, without)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Everything as named arrays, ready for a file; `restored` turns them back."""
        names = ("models", "inside", "right_in", "right_out", "right", "right_with")
        settings = {"ratio": np.array([self.settings.ratio]), "seed": np.array([self.settings.seed], dtype=np.int64)}
        return {name: getattr(self, name).copy() for name in names} | settings

    @classmethod
    def restored(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """The tally whose `arrays()` these are."""
        names = ("inside", "right_in", "right_out", "right", "right_with")
        settings = SubsetSettings(float(arrays["ratio"][0]), int(arrays["seed"][0]))
        counts = [np.array(arrays[name], dtype=np.int32) for name in names]
        return cls(settings, np.array(arrays["models"], dtype=np.int64), *counts)

    def check_fits(self, n: int, asked: int, settings: SubsetSettings) -> None:
        """Raises `DataError` where this tally counts other examples or other subsets than these."""
        mine = (self.right_with.shape[1], len(self.right), self.settings)
        if mine != (n, asked, settings):
            raise DataError(
                f"Expected counts over {n} training and {asked} asked examples with {settings}; found {mine[0]} and {mine[1]} "
                f"with {mine[2]}. Go on with what was counted for this data, or begin anew."
            )


def models_that_fit(done: int, seconds_each: float, left: float) -> int:
    """How many models there can be in all when `done` are counted, one takes so long and `left` seconds are left; at least 20.

    Raises:
        SettingsError: no time was measured, or the budget is not finite and >= 0.
    """
    if not (0 < seconds_each < np.inf and 0 <= left < np.inf):
        raise SettingsError(
            f"Expected the seconds of a model and a finite budget; found {seconds_each!r} s and {left!r} s left. "
            "Train a block first."
        )
    return max(FEWEST, done + int(left / seconds_each))


def _share(count: NDArray[np.int32], total: NDArray[np.int32]) -> Array:
    return np.asarray(np.divide(count, total, out=np.full(count.shape, np.nan), where=total > 0))


def _difference(p: Array, count: NDArray[np.int32], q: Array, other: NDArray[np.int32]) -> tuple[Array, Array]:
    variance = p * (1 - p) / np.maximum(count, 1) + q * (1 - q) / np.maximum(other, 1)
    return p - q, np.sqrt(variance)
