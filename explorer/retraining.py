"""What would the model say without these examples? Many small models trained at once, each on its own subset.

The truth that influence estimates: leave-one-out, leave-group-out and random subsets, with the batches and rates of
`training.train_epochs`, as one batch of models. It scores no method, keeps no weights unless asked, and knows no files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from explorer.contracts import Examples, Objective, Progress, Queries, Recipe, Target, silent
from explorer.errors import DataError, ModelError, SettingsError
from explorer.influence.gradients import asked_of
from explorer.influence.replay import MEGABYTE, Network, gradients_per_model
from explorer.influence.trajectory import REMOVALS, Optimizer, Removal, State, optimizer_of
from explorer.loading import as_model_input
from explorer.training import EVALUATION_BATCH, epoch_batches, evaluate, rate_at, resolve_epochs

Masks = NDArray[np.bool_]
Weights = NDArray[np.floating[Any]]
Array64 = NDArray[np.float64]
Watch = Callable[[NDArray[np.int64], int, Tensor], None]
"""`watch(models, epoch, weights)`: hears after each epoch (1 = the first) where models, by number, are: weights `[b, P]`."""

COPIES = 6
"""Times a model's weights that its training holds at once: weights, velocity, gradient, and each new one of them."""
TRACES = 3
"""Times its forward pass's outputs that a model's gradient holds at once."""
BOOTSTRAPS = 1000
"""Resamples behind the interval of `predictability`."""


@dataclass(frozen=True)
class Retraining:
    """How models are trained again: everything but which rows and which seeds.

    `fresh(seed)` makes the model before its training; all of them must be of one architecture. `recipe.seed` is replaced
    by each model's own seed, which also orders its batches; with `order` given, that seed orders the batches of all of them, so
    that seeds vary the initial weights alone. `removal` says what a left-out example does to its batch: "leaves"
    (`train_epochs(rows=...)`: the mean of those that stay, no step where none does) or "zero" (its loss counts 0,
    the divisor stays). An example of weight w in between counts w times its loss: "leaves" divides by the sum of the
    weights in the batch, so that 0 and 1 are to leave and to stay; "zero" by the whole batch. `optimizer=None` is the recipe's own SGD. `memory`, in megabytes, bounds the models at once.
    """

    fresh: Callable[[int], nn.Module]
    train: Examples
    objective: Objective
    recipe: Recipe
    removal: Removal = "leaves"
    optimizer: Optimizer | None = None
    order: int | None = None
    memory: float = 256.0

    def __post_init__(self) -> None:
        if self.removal not in REMOVALS:
            raise SettingsError(f"Expected removal to be one of {', '.join(REMOVALS)}; found {self.removal!r}.")
        if not 0 < self.memory < float("inf"):
            raise SettingsError(f"Expected memory > 0 in megabytes; found {self.memory!r}. Allow some, such as 256.")


@dataclass(frozen=True)
class Retrained:
    """Some models after training: which of those asked for, their trained weights `[b, P]` and `outputs` `[b, q, k]`.

    A row of `weights` is the model's trainable parameters one after another, in its own order.
    """

    models: NDArray[np.int64]
    weights: Tensor
    outputs: Tensor


def retrain(
    plan: Retraining,
    masks: Masks,
    seeds: Sequence[int],
    asked: Examples,
    rows: NDArray[np.int64],
    progress: Progress = silent,
    watch: Watch | None = None,
    weights: Weights | None = None,
) -> Iterator[Retrained]:
    """Trains model j on the rows that `masks[j]` keeps, with `seeds[j]`; yields blocks of models as they are done.

    `masks` `[t, n]` bool, one seed each; outputs are of `rows` of `asked`, in evaluation mode. A model equals the one
    that `train_epochs` trains alone up to float32 sums in another order. Blocks hold models of one batch order, so equal
    seeds, or `order`, train fastest. Cost: as t trainings, less their overhead. `progress` counts epochs over all models.
    `watch` must leave what it is shown as it is. `weights` `[t, n]` in 0..1 are what the losses of those kept count (1).

    Raises:
        DataError: masks or seeds do not fit, a weight is outside 0..1, or a model keeps nothing.
        ModelError: the model differs between training and evaluation mode, or a training diverges.
    """
    kept, numbers = _checked(masks, seeds, len(plan.train), weights)
    orders = numbers if plan.order is None else np.full_like(numbers, plan.order)
    model = plan.fresh(int(numbers[0]))
    network = Network(model, model.state_dict())
    inputs = as_model_input(model, asked.batch(rows))
    network.check_replayable(network.flat(model.state_dict()), inputs[:8])
    size = _models_at_once(plan, network)
    blocks = [
        members[start : start + size]
        for order in np.unique(orders)
        for members in [np.flatnonzero(orders == order)]
        for start in range(0, len(members), size)
    ]
    done = 0
    for members in blocks:
        recipe = replace(plan.recipe, seed=int(orders[members[0]]))
        start = torch.stack([_initial(plan, network, int(numbers[m])) for m in members])

        def told(epoch: int, epochs: int, note: str, done: int = done, size: int = len(members)) -> None:
            progress(done * epochs + epoch * size, len(numbers) * epochs, note)

        def watched(epoch: int, thetas: Tensor, members: NDArray[np.int64] = members) -> None:
            if watch is not None:
                watch(members, epoch, thetas)

        thetas = _train(plan, network, recipe, start, torch.from_numpy(kept[members]), told, watched)
        with network.mode(training=False), torch.no_grad():
            outputs = torch.stack([network.outputs(theta, inputs) for theta in thetas])
        yield Retrained(members, thetas, outputs)
        done += len(members)


def outputs_at(network: Network, theta: Tensor, examples: Examples) -> Tensor:
    """Outputs `[n, k]` of a model with weights `[P]` for all `examples`, in evaluation mode, a batch at a time."""
    with network.mode(training=False), torch.no_grad():
        parts = []
        for start in range(0, len(examples), EVALUATION_BATCH):
            rows = np.arange(start, min(start + EVALUATION_BATCH, len(examples)), dtype=np.int64)
            parts.append(network.outputs(theta, as_model_input(network.model, examples.batch(rows))))
        return torch.cat(parts)


def measures(
    plan: Retraining,
    masks: Masks,
    seeds: Sequence[int],
    queries: Queries,
    model: nn.Module | None = None,
    progress: Progress = silent,
) -> Tensor:
    """m_q of every retrained model, `[t, q]`: what `fidelity.lds` takes. Arguments as `retrain`.

    A query about the `prediction` of a classifier asks each of them about the answer of `model`, the one explained; one
    about a margin or a contrast asks all of them about the same classes.

    Raises:
        SettingsError: such a query without `model`. What `retrain` raises.
    """
    found: Tensor | None = None
    targets = _asked_about(plan.objective, queries, model)
    answers = queries.target == "prediction" and plan.objective.task == "classification"
    target: Target = "label" if answers else queries.target
    for block in retrain(plan, masks, seeds, queries.examples, queries.rows, progress):
        if found is None:
            found = block.outputs.new_empty(len(masks), len(queries.rows))
            targets = targets if queries.classes is None else asked_of(queries, block.outputs.shape[2])
        for number, outputs in zip(block.models, block.outputs, strict=True):
            found[int(number)] = plan.objective.measure(outputs, targets, target)
    assert found is not None
    return found


def leave_out(
    plan: Retraining,
    groups: Sequence[NDArray[np.int64]],
    seeds: Sequence[int],
    queries: Queries,
    model: nn.Module | None = None,
    progress: Progress = silent,
) -> Tensor:
    """What having each group in the training set did, by retraining without it: `[seed, group, q]`.

    m_q(θ) − m_q(θ without the group), both trained with the same seed: the quantity that scores estimate, positive =
    helpful. Groups of one row are leave-one-out. Cost: (groups + 1) trainings a seed.
    """
    n = len(plan.train)
    masks = np.ones((1 + len(groups), n), dtype=bool)
    for number, group in enumerate(groups):
        if len(group) and not 0 <= min(group) <= max(group) < n:
            raise DataError(
                f"Expected groups of rows from 0 to {n - 1}; found {min(group)} to {max(group)} in group {number}. "
                "Name rows of the training set."
            )
    for mask, group in zip(masks[1:], groups, strict=True):
        mask[group] = False
    everything = np.tile(masks, (len(seeds), 1))
    found = measures(plan, everything, np.repeat(np.asarray(seeds), len(masks)).tolist(), queries, model, progress)
    by_seed = found.reshape(len(seeds), len(masks), -1)
    return by_seed[:, :1] - by_seed[:, 1:]


def random_masks(n: int, count: int, kept: float, seed: int) -> Masks:
    """`count` random subsets of n examples that each keep round(kept · n) of them, `[count, n]`."""
    size = round(kept * n)
    if not (count >= 1 and 1 <= size <= n):
        raise SettingsError(
            f"Expected at least one subset that keeps 1..{n} of {n} examples; found {count} that keep {kept:g} of them."
        )
    draws = np.random.default_rng([seed, count, size])
    masks = np.zeros((count, n), dtype=bool)
    for mask in masks:
        mask[draws.permutation(n)[:size]] = True
    return masks


@dataclass(frozen=True)
class Predictability:
    """How repeatable the effects of removals are when training is perturbed (another seed, order, or rate).

    `per_query` `[q]`: Spearman's correlation over removals between two perturbed trainings, the mean over pairs of them;
    `mean` over queries with a 95 % interval `low`..`high` that covers the choice of removals and of queries. `ceiling`
    is about the best correlation that any prediction can have with the mean effect of all the trainings at hand.
    """

    per_query: Array64
    mean: float
    low: float
    high: float
    ceiling: float


def predictability(effects: Array64, seed: int = 0) -> Predictability:
    """How far effects `[s, t, q]` agree between s >= 2 perturbed trainings, over t >= 3 removals, query by query.

    Subtract nothing first: what shifts all effects of one training by a constant does not count. The interval resamples
    removals and queries together. `ceiling` is √(s r / (1 + (s − 1) r)) for the mean agreement r (Spearman-Brown).

    Raises:
        DataError: fewer trainings or removals, or an effect is not finite.
    """
    values = np.asarray(effects, dtype=np.float64)
    if values.ndim != 3 or len(values) < 2 or values.shape[1] < 3 or not values.shape[2]:
        raise DataError(
            "Expected effects [trainings, removals, queries] of 2 or more trainings, 3 or more removals and a query; "
            f"found shape {values.shape}. Retrain with another seed, or without further groups."
        )
    if not np.isfinite(values).all():
        raise DataError(f"Expected finite effects; found {int((~np.isfinite(values)).sum())} others. Train again.")
    per_query = _agreement(values)
    draws = np.random.default_rng(seed)
    again = []
    for _ in range(BOOTSTRAPS):
        removals = draws.integers(values.shape[1], size=values.shape[1])
        queries = draws.integers(values.shape[2], size=values.shape[2])
        again.append(_mean(_agreement(values[:, removals][:, :, queries])))
    low, high = np.nanquantile(again, [0.025, 0.975]) if np.isfinite(again).any() else (np.nan, np.nan)
    mean, s = _mean(per_query), len(values)
    together = s * mean / (1 + (s - 1) * mean) if mean > 0 else 0.0
    return Predictability(per_query, mean, float(low), float(high), float(np.sqrt(together)))


def _agreement(values: Array64) -> Array64:
    """Mean over pairs of trainings of Spearman over removals, `[q]`; NaN for a query that nothing moves."""
    from scipy.stats import rankdata  # a second to load, and only needed where something is compared

    ranks = rankdata(values, axis=1) - (values.shape[1] + 1) / 2
    size = np.sqrt(np.square(ranks).sum(1, keepdims=True))
    unit = np.divide(ranks, size, out=np.full_like(ranks, np.nan), where=size > 0)
    s = len(values)
    both = np.square(unit.sum(0)).sum(0) - s  # Σ over ordered pairs of different trainings
    return np.asarray(both / (s * (s - 1)))


def _mean(values: Array64) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _train(
    plan: Retraining,
    network: Network,
    recipe: Recipe,
    start: Tensor,
    kept: Tensor,
    progress: Progress,
    watch: Callable[[int, Tensor], None],
) -> Tensor:
    """Weights `[b, P]` after training every model of a block; `kept` `[b, n]` bool or weights."""
    n, epochs = len(plan.train), resolve_epochs(recipe, len(plan.train))
    optimizer = plan.optimizer or optimizer_of(plan.recipe)
    targets = torch.tensor(plan.train.labels).to(start.device)
    states = [optimizer.start(part.clone()) for part in torch.split(start, network.sizes, 1)]
    for epoch in range(1, epochs + 1):
        progress(epoch - 1, epochs, f"epoch {epoch} of {epochs}, {len(start)} models")
        batches = epoch_batches(n, recipe, epoch)
        with network.mode(training=True):
            for number, batch in enumerate(batches, start=(epoch - 1) * len(batches)):
                rows = torch.from_numpy(batch)
                stays = kept[:, rows].to(start)
                count = stays.sum(1, keepdim=True)
                shares = stays / (torch.where(count > 0, count, 1) if plan.removal == "leaves" else len(batch))
                inputs = as_model_input(network.model, plan.train.batch(batch))
                thetas = [state[0] for state in states]
                found = gradients_per_model(network, plan.objective, thetas, shares, inputs, targets[rows])
                moves = count > 0 if plan.removal == "leaves" else None
                rate = rate_at(recipe, number, epochs * len(batches))
                states = [_moved(optimizer, s, g, rate, moves) for s, g in zip(states, found, strict=True)]
        weights = torch.cat([state[0] for state in states], 1)
        if not bool(weights.isfinite().all()):
            raise ModelError(
                f"Expected finite weights; found others in {int((~weights.isfinite()).any(1).sum())} of {len(start)} "
                f"models in epoch {epoch} with a rate of {recipe.rate:g}. Try a rate of {recipe.rate / 10:g}."
            )
        watch(epoch, weights)
    progress(epochs, epochs, f"{len(start)} models trained")
    return weights


def _moved(optimizer: Optimizer, state: State, gradient: Tensor, rate: float, moves: Tensor | None) -> State:
    """One parameter of all models after a step, which a model whose batch was emptied (`moves` `[m, 1]`) does not take."""
    if moves is None or bool(moves.all()):
        return optimizer.advance(state, gradient, rate)
    moved = optimizer.step(state, gradient, rate)
    return tuple(torch.where(moves, new, old) for new, old in zip(moved, state, strict=True))


def _initial(plan: Retraining, network: Network, seed: int) -> Tensor:
    model = plan.fresh(seed)
    own = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
    if own != dict(zip(network.names, network.shapes, strict=True)):
        raise ModelError(
            f"Expected models of one architecture for all seeds; found other parameters for seed {seed}. "
            "Let only the initial weights depend on the seed."
        )
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    moved = [name for name, tensor in network.rest.items() if not torch.equal(tensor, tensors[name])]
    if moved:
        raise ModelError(
            f"Expected what is not trained to be the same for all seeds; found another {moved[0]!r} for seed {seed}. "
            "Let only the initial weights of trained parameters depend on the seed."
        )
    return network.flat(model.state_dict())


def _models_at_once(plan: Retraining, network: Network) -> int:
    """How many models train together, by their weights and what one of them holds for a batch."""
    theta = network.flat(dict(network.model.named_parameters()))
    rows = np.arange(min(plan.recipe.batch_size, len(plan.train)), dtype=np.int64)
    saved = 0

    def seen(tensor: Tensor) -> Tensor:
        nonlocal saved
        saved += tensor.nbytes
        return tensor

    with network.mode(training=True), torch.autograd.graph.saved_tensors_hooks(seen, lambda tensor: tensor):
        network.outputs(theta.requires_grad_(True), as_model_input(network.model, plan.train.batch(rows)))
    return max(1, int(plan.memory * MEGABYTE / (COPIES * theta.nbytes + TRACES * saved)))


def _asked_about(objective: Objective, queries: Queries, model: nn.Module | None) -> Tensor:
    """What retrained models are asked about where the query names no classes `[q]`: labels, or answers of the model explained."""
    if queries.target != "prediction" or objective.task == "regression":
        return torch.tensor(np.asarray(queries.examples.labels)[queries.rows])
    if model is None:
        raise SettingsError(
            "Expected the model whose answers are asked about, for queries about its prediction; found none. Give the "
            "model that is explained, or ask about the label."
        )
    return objective.predict(evaluate(model, queries.examples, queries.rows))


def _checked(
    masks: Masks, seeds: Sequence[int], n: int, weights: Weights | None
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """What every example counts in every model, bool where no weights are given, and the seeds."""
    kept, numbers = np.asarray(masks), np.asarray(seeds, dtype=np.int64)
    if kept.dtype != bool or kept.ndim != 2 or kept.shape[1] != n or numbers.shape != (len(kept),) or not len(kept):
        raise DataError(
            f"Expected masks [models, {n}] of bool and one seed each; found masks {list(kept.shape)} of {kept.dtype} and "
            f"{numbers.size} seeds. Give a row of masks and a seed for every model."
        )
    if weights is not None:
        if weights.shape != kept.shape or not (weights.min() >= 0 and weights.max() <= 1):  # NaN fails both
            raise DataError(
                f"Expected weights in 0..1, {list(kept.shape)} as the masks; found {weights.min():g} to {weights.max():g}, "
                f"{list(weights.shape)}. Give 1 for an example that counts in full."
            )
        kept = np.where(kept, weights, 0)
    if not kept.any(1).all():
        raise DataError(
            f"Expected every model to keep an example; found none in mask {int(np.flatnonzero(~kept.any(1))[0])}. "
            "Leave out fewer."
        )
    return kept, numbers
