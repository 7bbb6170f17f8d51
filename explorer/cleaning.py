"""How far does it help to take out the most suspect examples? Remove a few, train again, score the rest anew, and so on.

Half of the held-out examples say when to stop, the other half what was gained, beside removing as many at random. It
writes nothing: who calls it saves each round, and hands them back to go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explorer.contracts import Examples, Progress, silent
from explorer.errors import DataError, SettingsError
from explorer.influence.replay import Network
from explorer.memorization.checks import vector
from explorer.remedies import Against, Effect, paired, plain
from explorer.retraining import Retraining, outputs_at, retrain
from explorer.training import resolve_epochs

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
Gain = Literal["accuracy", "report_loss"]
Score = Callable[[Array, NDArray[np.bool_]], NDArray[Any]]
"""`score(losses, kept)`: how suspect each example is, `[n]`, from its losses after each epoch of the new training `[epochs, n]`
(the mean over seeds; examples that are out have losses too) and which examples were trained on, bool `[n]`."""

MOST_REMOVED = 0.5
"""Share of the training set that all rounds together may take out."""


def mean_loss(losses: Array, kept: NDArray[np.bool_]) -> Array:  # noqa: ARG001
    """The loss averaged over epochs: the suspect score of a training log alone."""
    return np.asarray(losses.mean(0))


@dataclass(frozen=True, eq=False)
class Round:
    """One training of the loop: what had been `removed` before it, and what its models, one a seed, say held out.

    `removed` `[k]` are the rows that left since the round before (none in round 0, which trains on everything), `suspects`
    `[k]` those that leave next, most suspect first. Each `[s]`: `stop_loss` is the mean loss on the half that says when to stop; `report_loss` and
    `accuracy` (NaN for regression) on the half that does not; `random_report_loss` and `random_accuracy` the same after
    removing as many rows at random, other ones for each seed.
    """

    number: int
    removed: Rows
    kept: int
    suspects: Rows
    stop_loss: Array
    report_loss: Array
    accuracy: Array
    random_report_loss: Array
    random_accuracy: Array

    def __post_init__(self) -> None:
        shapes = {getattr(self, name).shape for name in MEASURED}
        if len(shapes) != 1 or len(min(shapes)) != 1 or shapes == {(0,)}:
            raise DataError(
                f"Expected numbers of the same seeds, at least one; found shapes {shapes}. Measure them all."
            )

    def as_json(self) -> dict[str, Any]:
        """Plain values: for each number over seeds its `mean`, standard error `se` (None for one seed) and the `seeds` apart."""
        found: dict[str, Any] = {"number": self.number, "kept": self.kept}
        found |= {name: getattr(self, name).tolist() for name in ("removed", "suspects")}
        for name in MEASURED:
            values = getattr(self, name)
            se = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
            found[name] = {"mean": plain(values.mean()), "se": plain(se), "seeds": plain(values)}
        return found

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The round whose `as_json()` this is."""
        removed, suspects = (np.array(values[name], dtype=np.int64) for name in ("removed", "suspects"))
        measured = [np.array(values[name]["seeds"], dtype=np.float64) for name in MEASURED]
        return cls(values["number"], removed, values["kept"], suspects, *measured)


MEASURED = tuple(field.name for field in fields(Round) if field.name not in ("number", "removed", "kept", "suspects"))
"""What a round measures once for each seed."""


def clean(
    plan: Retraining,
    test: Examples,
    *,
    seeds: Sequence[int],
    share: float = 0.02,
    rounds: int = 10,
    patience: int = 2,
    score: Score = mean_loss,
    state: Sequence[Round] | None = None,
    halves_seed: int = 0,
    progress: Progress = silent,
) -> Iterator[Round]:
    """The loop: yields round 0, then up to `rounds` more, each without `share` of the training set more.

    It stops once `patience` rounds in a row brought no lower `stop_loss` (the mean over seeds). Within a round all examples
    that are left are scored anew, and the most suspect leave. `state` are the rounds so far, to go on from: the rest is
    what it would have been. Rounds share seeds, so their differences are paired. `progress` counts thousandths of a round.
    Cost: 2 trainings a round and seed, and a pass over the training set after each epoch.

    Raises:
        SettingsError: a setting out of its range.
        DataError: seeds repeat, fewer than two held-out examples, scores that are not finite, or a `state` of another
            loop. What `retrain` raises.
    """
    n = len(plan.train)
    _check(share, rounds, patience, seeds, test)
    size = max(1, round(share * n))
    if size * (rounds + 1) > n:
        raise DataError(f"Expected more than {size * rounds} training examples; found {n}. Clean in fewer rounds.")
    loop = _Loop(plan, test, tuple(seeds), size, score, halves(test, halves_seed))
    done = loop.checked(state or ())
    while not finished(done, rounds, patience):

        def told(at: int, total: int, note: str) -> None:
            progress(1000 * len(done) + 1000 * at // max(total, 1), 1000 * (rounds + 1), f"round {len(done)}, {note}")

        done.append(loop.round(done, told))
        yield done[-1]


def finished(done: Sequence[Round], rounds: int, patience: int) -> bool:
    """Whether a loop of at most `rounds` removals is over after the rounds `done`."""
    return len(done) > rounds or (len(done) > 0 and len(done) - 1 - stopped_at(done) >= patience)


def stopped_at(rounds: Sequence[Round]) -> int:
    """The round to keep: the one with the lowest mean `stop_loss`, the first of equals."""
    return int(np.argmin([one.stop_loss.mean() for one in rounds]))


def removed_by(rounds: Sequence[Round], number: int) -> Rows:
    """All rows that are out in round `number`, in the order in which they left."""
    return np.concatenate([one.removed for one in rounds[: number + 1]])


def gain(rounds: Sequence[Round], of: Gain = "accuracy", against: Against = "before") -> Effect:
    """What cleaning up to `stopped_at` changed on the half that did not choose it, paired over seeds.

    Against round 0 ("before"), or against removing as many at random ("random"); of a loss, less is better.
    """
    best = rounds[stopped_at(rounds)]
    other = getattr(rounds[0], of) if against == "before" else getattr(best, f"random_{of}")
    return paired(getattr(best, of) - other)


def summary(rounds: Sequence[Round]) -> dict[str, Any]:
    """JSON-ready: the round to keep, how many rows are out by then, and every `gain` by what it is held against."""
    at = stopped_at(rounds)
    gains = {a: {of: gain(rounds, of, a).as_json() for of in get_args(Gain)} for a in get_args(Against)}
    return {"stopped_at": at, "removed": len(removed_by(rounds, at)), "gain": gains}


def halves(test: Examples, seed: int) -> tuple[Rows, Rows]:
    """Two random halves of held-out rows, in ascending order, each with half of every class (or range of targets).

    Neighbors in the order of labels are parted by a coin; of an odd number the last goes to the second half.
    """
    draw, labels = np.random.default_rng(seed), np.asarray(test.labels)
    order = draw.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    half = len(order) // 2
    pairs = draw.permuted(order[: 2 * half].reshape(half, 2), axis=1)
    return np.sort(pairs[:, 0]), np.sort(np.concatenate([pairs[:, 1], order[2 * half :]]))


@dataclass(frozen=True)
class _Loop:
    """Everything that stays the same between rounds; `size` rows leave in each."""

    plan: Retraining
    test: Examples
    seeds: tuple[int, ...]
    size: int
    score: Score
    halves: tuple[Rows, Rows]

    def round(self, done: Sequence[Round], progress: Progress) -> Round:
        """The next round: trained without what the last one suspected."""
        n, s, number = len(self.plan.train), len(self.seeds), len(done)
        out = np.concatenate([one.suspects for one in done]) if done else np.zeros(0, dtype=np.int64)
        masks = np.ones((2 if done else 1, s, n), dtype=bool)
        masks[0][:, out] = False
        if done:
            for own, seed in zip(masks[1], self.seeds, strict=True):
                own[np.random.default_rng([seed, n]).permutation(n)[: len(out)]] = False
        losses, said = self.train(masks.reshape(-1, n), progress)
        kept = masks[0, 0]
        scores = vector(self.score(losses, kept.copy()), "scores")
        if len(scores) != n:
            raise DataError(f"Expected a score for each of {n} training examples; found {len(scores)}. Score them all.")
        ranked = np.argsort(-np.where(kept, scores, -np.inf), kind="stable")
        stop, report, accuracy = said[:s].T
        _, random_report, random_accuracy = said[-s:].T
        return Round(
            number=number,
            removed=done[-1].suspects if done else out,
            kept=int(kept.sum()),
            suspects=ranked[: self.size].astype(np.int64),
            stop_loss=stop,
            report_loss=report,
            accuracy=accuracy,
            random_report_loss=random_report,
            random_accuracy=random_accuracy,
        )

    def train(self, masks: NDArray[np.bool_], progress: Progress) -> tuple[Array, Array]:
        """Mean training losses `[epochs, n]` of the first s models, and `[t, 3]` of all: loss, loss, and accuracy held out."""
        plan, s = self.plan, len(self.seeds)
        model = plan.fresh(self.seeds[0])
        network = Network(model, model.state_dict())
        losses = np.zeros((resolve_epochs(plan.recipe, len(plan.train)), len(plan.train)))
        said = np.empty((len(masks), 3))

        def watch(models: Rows, epoch: int, weights: Tensor) -> None:
            for number, theta in zip(models, weights, strict=True):
                if number < s:
                    losses[epoch - 1] += self.losses(network, theta, plan.train)[0] / s

        seeds = list(self.seeds) * (len(masks) // s)
        for block in retrain(plan, masks, seeds, self.test, np.zeros(1, dtype=np.int64), progress, watch):
            for number, theta in zip(block.models, block.weights, strict=True):
                loss, right = self.losses(network, theta, self.test)
                said[number] = [*(loss[half].mean() for half in self.halves), right[self.halves[1]].mean()]
        return losses, said

    def losses(self, network: Network, theta: Tensor, examples: Examples) -> tuple[Array, Array]:
        """Loss of each example, and whether its class is right (NaN for regression), `[n]` each."""
        outputs = outputs_at(network, theta, examples)
        targets = torch.tensor(examples.labels).to(outputs.device)
        loss = self.plan.objective.loss(outputs, targets).double().cpu().numpy()
        if self.plan.objective.task != "classification":
            return loss, np.full(len(loss), np.nan)
        return loss, (self.plan.objective.predict(outputs) == targets).double().cpu().numpy()

    def checked(self, state: Sequence[Round]) -> list[Round]:
        """The rounds so far, where they are of this loop."""
        n, s = len(self.plan.train), len(self.seeds)
        for number, one in enumerate(state):
            expected = (number, n - number * self.size, self.size, s)
            found = (one.number, one.kept, len(one.suspects), len(one.stop_loss))
            if found != expected:
                raise DataError(
                    f"Expected rounds of this loop (number, kept, suspects, seeds: {expected}); found {found}. Go on with the "
                    "settings and data of the rounds so far, or begin anew."
                )
        return list(state)


def _check(share: float, rounds: int, patience: int, seeds: Sequence[int], test: Examples) -> None:
    if not share > 0 or rounds < 1 or share * rounds > MOST_REMOVED:
        raise SettingsError(
            f"Expected a share > 0 and rounds >= 1 that remove at most {MOST_REMOVED:g} of the examples together; found "
            f"{share!r} in {rounds} rounds. Remove less a round, or in fewer."
        )
    if patience < 1:
        raise SettingsError(f"Expected patience >= 1 rounds; found {patience!r}. Wait a round or more.")
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise DataError(f"Expected distinct seeds >= 0, at least one; found {list(seeds)}. Name each once.")
    if len(test) < 2:
        raise DataError(f"Expected at least 2 held-out examples, to halve them; found {len(test)}. Hold out more.")
