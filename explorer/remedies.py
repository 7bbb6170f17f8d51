"""What does acting on some training examples do? Models trained as it is, with the change, and without as many random others.

Relabel, drop, downweight, with several seeds: what each arm says of the test set, and the differences between arms of the
same seed. It chooses no examples, judges no change, and reads no file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from explorer.contracts import Examples, Objective, Progress, silent
from explorer.errors import DataError, SettingsError
from explorer.influence.replay import Network
from explorer.retraining import Retraining, outputs_at, retrain
from explorer.sources.planted import Rearranged

Action = Literal["relabel", "drop", "downweight"]
Against = Literal["before", "random"]
Of = Literal["accuracy", "loss", "asked"]
Array = NDArray[np.float64]
Rows = NDArray[np.int64]

CONFIDENCE = 0.95
"""Of every interval here."""
ARMS = ("before", "after", "random")


@dataclass(frozen=True, eq=False)
class Change:
    """What is done to which training rows `[k]`: other `labels` `[k]`, nothing of them left, or less of their loss.

    `labels` goes with "relabel" alone; `weight`, in (0, 1), is what a row's loss counts under "downweight".

    Raises:
        SettingsError: an unknown action, labels that do not go with it, or a weight outside (0, 1).
        DataError: no rows, a row twice or below 0, or another number of labels.
    """

    action: Action
    rows: Rows
    labels: NDArray[Any] | None = None
    weight: float = 0.1

    def __post_init__(self) -> None:
        if self.action not in get_args(Action):
            raise SettingsError(f"Expected action to be one of {', '.join(get_args(Action))}; found {self.action!r}.")
        object.__setattr__(self, "rows", _whole(self.rows, "training rows to change"))
        if (self.labels is None) == (self.action == "relabel"):
            found = "none" if self.labels is None else "some"
            raise SettingsError(
                f"Expected labels for relabel and for nothing else; found {found} for {self.action}. "
                f"{'Give each row its new label.' if self.labels is None else 'Leave them out.'}"
            )
        if self.labels is not None:
            labels = np.array(self.labels)
            if labels.shape != self.rows.shape:
                raise DataError(
                    f"Expected a label for each of {len(self.rows)} rows; found labels {list(labels.shape)}. Give one a row."
                )
            object.__setattr__(self, "labels", labels)
        if not 0 < self.weight < 1:
            raise SettingsError(
                f"Expected weight between 0 and 1; found {self.weight!r}. To leave the examples out, drop them."
            )

    def as_json(self) -> dict[str, Any]:
        """Plain values; `from_json` turns them back."""
        labels = None if self.labels is None else self.labels.tolist()
        return {"action": self.action, "rows": self.rows.tolist(), "labels": labels, "weight": self.weight}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The change whose `as_json()` this is."""
        labels = None if values["labels"] is None else np.array(values["labels"])
        return cls(values["action"], np.array(values["rows"]), labels, values["weight"])


@dataclass(frozen=True, eq=False)
class Arm:
    """What s models, one a seed, say of the test examples.

    `loss` `[s]` is the mean, `accuracy` `[s]` the share that is right (NaN for regression), `per_class` `[s, c]` that among
    the examples of each class (NaN without any; c = 0 for regression), and `asked` `[s, q]` m_q of each asked test row
    about its label: log p in nats, or −½ squared error.
    """

    loss: Array
    accuracy: Array
    per_class: Array
    asked: Array

    def __post_init__(self) -> None:
        for field, axes in zip(fields(self), (1, 1, 2, 2), strict=True):
            values = np.asarray(getattr(self, field.name), dtype=np.float64)
            if values.ndim != axes or len(values) != len(self.loss):
                raise DataError(
                    f"Expected {field.name} of {len(self.loss)} seeds in {axes} dimensions; found shape {values.shape}. "
                    "Give every seed a row."
                )
            object.__setattr__(self, field.name, values)

    def as_json(self) -> dict[str, Any]:
        """Nested lists, NaN as None."""
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The arm whose `as_json()` this is."""
        return cls(**{field.name: np.array(values[field.name], dtype=np.float64) for field in fields(cls)})


@dataclass(frozen=True)
class Effect:
    """A mean difference between arms and its 95 % interval, over seeds alone: the test examples are taken as given."""

    mean: float
    low: float
    high: float

    def as_json(self) -> dict[str, float | None]:
        """Plain values, NaN as None."""
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)}


@dataclass(frozen=True, eq=False)
class Outcome:
    """The three arms of a comparison, each trained once for each of `seeds`: as it is, changed, and without random others."""

    seeds: tuple[int, ...]
    before: Arm
    after: Arm
    random: Arm

    def __post_init__(self) -> None:
        sizes = [len(getattr(self, name).loss) for name in ARMS]
        if sizes != [len(self.seeds)] * len(ARMS) or not self.seeds:
            raise DataError(
                f"Expected three arms of {len(self.seeds)} seeds, at least 1; found {sizes}. Train every arm."
            )

    def effect(self, of: Of, against: Against = "before") -> Effect:
        """What the change did: `after` less the arm it is held `against`, seed by seed; of a loss, less is better.

        "asked" is the mean over the asked rows. One seed has no interval: its bounds are NaN.
        """
        after, other = (np.asarray(getattr(arm, of)) for arm in (self.after, getattr(self, against)))
        if of != "asked":
            return paired(after - other)
        return paired((after - other).mean(1) if after.shape[1] else np.full(len(after), np.nan))

    def each_class(self, against: Against = "before") -> tuple[Effect, ...]:
        """The change of the accuracy of each class; NaN for a class without test examples."""
        return tuple(paired(column) for column in (self.after.per_class - getattr(self, against).per_class).T)

    def each_asked(self, against: Against = "before") -> tuple[Effect, ...]:
        """The change of m_q of each asked row."""
        return tuple(paired(column) for column in (self.after.asked - getattr(self, against).asked).T)

    def and_then(self, other: Outcome) -> Outcome:
        """The same comparison with the seeds of `other` after these. Raises `DataError` where seeds repeat."""
        both = set(self.seeds) & set(other.seeds)
        if both:
            raise DataError(f"Expected other seeds than {min(both)}, which is there. Train with new seeds.")
        arms = [
            Arm(*(np.concatenate([getattr(getattr(o, name), f.name) for o in (self, other)]) for f in fields(Arm)))
            for name in ARMS
        ]
        return Outcome(self.seeds + other.seeds, *arms)

    def as_json(self) -> dict[str, Any]:
        """Seeds, arms, and all effects against both other arms, for readers that compute nothing."""
        effects = {}
        for against in get_args(Against):
            found: dict[str, Any] = {of: self.effect(of, against).as_json() for of in get_args(Of)}
            found["per_class"] = [one.as_json() for one in self.each_class(against)]
            found["each_asked"] = [one.as_json() for one in self.each_asked(against)]
            effects[against] = found
        arms = {name: getattr(self, name).as_json() for name in ARMS}
        return {"seeds": list(self.seeds), "effects": effects} | arms

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The outcome whose `as_json()` this is; effects are computed anew."""
        return cls(tuple(values["seeds"]), *(Arm.from_json(values[name]) for name in ARMS))


def paired(differences: ArrayLike) -> Effect:
    """Mean of s paired differences with the t-interval of s − 1 degrees of freedom; bounds are NaN for one alone."""
    values = np.asarray(differences, dtype=np.float64)
    mean, s = float(values.mean()), len(values)
    if s < 2:
        return Effect(mean, float("nan"), float("nan"))
    from scipy.special import stdtrit  # heavy, and only needed where something is compared

    reach = float(stdtrit(s - 1, (1 + CONFIDENCE) / 2) * values.std(ddof=1) / np.sqrt(s))
    return Effect(mean, mean - reach, mean + reach)


def compare(
    plan: Retraining,
    change: Change,
    test: Examples,
    asked_rows: Rows,
    seeds: Sequence[int],
    classes: int = 0,
    progress: Progress = silent,
) -> Outcome:
    """Trains on everything, with `change`, and without as many random other rows, once for each seed.

    The random rows are drawn anew for each seed, from the seed alone, so parts trained apart can be joined
    (`Outcome.and_then`). All arms of a seed share initial weights and batch order. A downweighted example counts in its batch
    by its weight, as `Retraining` says. `classes` is their number, 0 for regression; `asked_rows` are rows of `test`.
    Cost: three trainings a seed.

    Raises:
        DataError: rows, labels or seeds do not fit the data, or fewer others than changed rows.
        SettingsError: a task other than classification and regression. What `retrain` raises.
    """
    asked = _checked(plan, change, test, asked_rows, seeds, classes)
    n, s = len(plan.train), len(seeds)
    masks = np.ones((len(ARMS), s, n), dtype=bool)
    masks[1][:, change.rows] = change.action != "drop"
    for own, seed in zip(masks[2], seeds, strict=True):
        own[others(n, change.rows, seed)] = False
    weights = None
    if change.action == "downweight":
        weights = np.ones((len(ARMS), s, n), dtype=np.float32)
        weights[1][:, change.rows] = change.weight
    parts = [(plan, [0, 1, 2])]
    if change.labels is not None:
        parts = [(plan, [0, 2]), (replace(plan, train=relabeled(plan.train, change)), [1])]
    found: list[list[_Said]] = [[] for _ in ARMS]
    done = 0
    for part, arms in parts:

        def told(at: int, total: int, note: str, first: int = done, size: int = len(arms)) -> None:
            epochs = total // size  # of all seeds
            progress(first * epochs + at, len(ARMS) * epochs, note)

        chosen = masks[arms].reshape(-1, n), None if weights is None else weights[arms].reshape(-1, n)
        said = _trained(part, *chosen, list(seeds) * len(arms), test, asked, classes, told)
        for position, arm in enumerate(arms):
            found[arm] = said[position * s : (position + 1) * s]
        done += len(arms)
    return Outcome(tuple(int(seed) for seed in seeds), *(_arm(models) for models in found))


def others(n: int, rows: Rows, seed: int) -> Rows:
    """As many random rows of n as `rows`, none of them among these, in ascending order; the same for the same seed."""
    rest = np.setdiff1d(np.arange(n, dtype=np.int64), rows)
    return np.sort(np.random.default_rng([seed, len(rows)]).choice(rest, len(rows), replace=False))


def relabeled(train: Examples, change: Change) -> Rearranged:
    """`train` with the labels of a change to "relabel" in place; inputs, order and ids are the same."""
    labels = np.array(train.labels)
    labels[change.rows] = change.labels
    return Rearranged(train, np.arange(len(train), dtype=np.int64), labels, train.ids)


def plain(values: ArrayLike) -> Any:
    """Numbers as nested lists (or one number) for JSON, NaN as None."""
    array = np.asarray(values, dtype=np.float64)
    return np.where(np.isnan(array), None, array.astype(object)).tolist()  # type: ignore[call-overload]


_Said = tuple[float, float, Array, Array]
"""Of one model: loss, accuracy, accuracy of each class, m_q of each asked row."""


def _trained(
    plan: Retraining,
    masks: NDArray[np.bool_],
    weights: NDArray[np.float32] | None,
    seeds: list[int],
    test: Examples,
    asked: Rows,
    classes: int,
    progress: Progress,
) -> list[_Said]:
    """What each of t models says after training, in order."""
    model = plan.fresh(seeds[0])
    network = Network(model, model.state_dict())
    said: dict[int, _Said] = {}
    for block in retrain(plan, masks, seeds, test, np.zeros(1, dtype=np.int64), progress, weights=weights):
        for number, theta in zip(block.models, block.weights, strict=True):
            said[int(number)] = _says(plan.objective, outputs_at(network, theta, test), test, asked, classes)
    return [said[number] for number in range(len(seeds))]


def _says(objective: Objective, outputs: Tensor, test: Examples, asked: Rows, classes: int) -> _Said:
    targets = torch.tensor(test.labels).to(outputs.device)
    loss = float(objective.loss(outputs, targets).double().mean())
    chosen = torch.from_numpy(asked).to(outputs.device)
    measured = objective.measure(outputs[chosen], targets[chosen], "label").double().cpu().numpy()
    if objective.task != "classification":
        return loss, float("nan"), np.zeros(0), measured
    right = (objective.predict(outputs) == targets).cpu().numpy()
    labels = np.asarray(test.labels)
    count = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels, weights=right, minlength=classes)
    share = np.divide(hits, count, out=np.full(classes, np.nan), where=count > 0)
    return loss, float(right.mean()), share, measured


def _arm(models: list[_Said]) -> Arm:
    loss, accuracy, per_class, asked = zip(*models, strict=True)
    return Arm(np.array(loss), np.array(accuracy), np.stack(per_class), np.stack(asked))


def _checked(
    plan: Retraining, change: Change, test: Examples, asked_rows: Rows, seeds: Sequence[int], classes: int
) -> Rows:
    n, k = len(plan.train), len(change.rows)
    if int(change.rows.max()) >= n or 2 * k > n:
        raise DataError(
            f"Expected rows below {n}, at most half of them, so that as many others can be left out; found {k} up to "
            f"{int(change.rows.max())}. Change fewer."
        )
    _whole(seeds, "seeds")
    check_classes(plan.objective, test, classes)
    labels = change.labels
    if labels is not None and plan.objective.task == "classification":
        if not np.issubdtype(labels.dtype, np.integer) or not 0 <= labels.min() <= labels.max() < classes:
            raise DataError(
                f"Expected new labels as whole numbers from 0 to {classes - 1}; found {labels.dtype} {labels.min()} to "
                f"{labels.max()}. Name a class of the data."
            )
    elif labels is not None and not np.isfinite(labels.astype(np.float64)).all():
        raise DataError("Expected finite new targets; found others. Give numbers in the unit of the targets.")
    asked = np.asarray(asked_rows, dtype=np.int64)
    if asked.ndim != 1 or (len(asked) and not 0 <= asked.min() <= asked.max() < len(test)):
        raise DataError(f"Expected asked rows from 0 to {len(test) - 1}; found {asked.tolist()[:5]}. Name test rows.")
    return asked


def check_classes(objective: Objective, test: Examples, classes: int) -> None:
    """Raises unless the task is known and the test examples are some, of `classes` classes (0 for regression)."""
    if objective.task == "sequence":
        raise SettingsError(
            "Expected a task of classification or regression; found sequences. Use explorer.retraining there."
        )
    counted = classes >= 1 if objective.task == "classification" else classes == 0
    labels = np.asarray(test.labels)
    if not len(labels) or not counted or (classes and not 0 <= labels.min() <= labels.max() < classes):
        raise DataError(
            f"Expected test examples, and the number of their classes (0 for regression); found {len(labels)} examples of "
            f"a {objective.task} with {classes} classes. Give the held-out examples of this data."
        )


def _whole(values: ArrayLike, what: str) -> Rows:
    """Distinct whole numbers >= 0, at least one, `[k]`."""
    found = np.asarray(values)
    fits = found.ndim == 1 and found.size > 0 and np.issubdtype(found.dtype, np.integer)
    if not fits or found.min() < 0 or len(np.unique(found)) != len(found):
        raise DataError(
            f"Expected {what} as whole numbers >= 0, each once and at least one; found {found.dtype} "
            f"{found.ravel()[:5].tolist()}. Name each once."
        )
    return np.array(found, dtype=np.int64)
