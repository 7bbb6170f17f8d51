"""What does retraining really do? Networks trained without some of their examples, many at once, kept on the disk.

Shares no code with the product: the training loop is written here once more (`test_fidelity_bench.py` holds it against
the product's). Knows no influence method.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, stack_module_state

from tests.bench.data import cache
from tests.bench.fidelity_problems import Problem, Removal

VERSION = 1
"""Of this code: another number, other truths. Raise it with every change of what is trained or measured."""

Masks = NDArray[np.bool_]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Truth:
    """`masks [t, n]`: what each retraining kept; `measures [seeds, t, q]`: what the test examples' measures then were."""

    removal: Removal
    masks: Masks
    measures: NDArray[np.float32]


def masks_of(problem: Problem, removal: Removal) -> Masks:
    """Random subsets of one size, the same for the same problem size and removal."""
    n = len(problem.train)
    draw = np.random.default_rng([n, removal.subsets, round(1e6 * removal.kept)])
    masks = np.zeros((removal.subsets, n), dtype=bool)
    for mask in masks:
        mask[draw.permutation(n)[: round(removal.kept * n)]] = True
    return masks


def train(
    problem: Problem,
    starts: list[int],
    orders: list[list[int]],
    masks: Masks,
    *,
    fixed: bool,
    targets: Tensor | None = None,
    each_epoch: Callable[[int, dict[str, Tensor]], None] | None = None,
) -> dict[str, Tensor]:
    """Trains one network per row of `masks`, all at once, and returns their stacked parameters `[models, ...]`.

    Model m starts as `problem.build(starts[m])`; epoch e is shuffled by `[*orders[m], e]`. `fixed`: batches of the whole
    set, removed examples with weight 0; else batches of what is kept (as many in every mask). `targets [models, n]`
    replaces the labels.
    """
    template = problem.build(0)
    stacked, _ = stack_module_state([problem.build(seed) for seed in starts])
    names = list(stacked)
    held = [stacked[name].detach().clone().requires_grad_() for name in names]
    velocity = [torch.zeros_like(p) for p in held]
    run = torch.vmap(lambda values, x: functional_call(template, dict(zip(names, values, strict=True)), (x,)))
    recipe, inputs = problem.training, problem.train.inputs
    labels = problem.train.targets.expand(len(masks), -1) if targets is None else targets
    kept = [np.arange(masks.shape[1]) if fixed else np.flatnonzero(mask) for mask in masks]
    weights = torch.from_numpy(masks).float()
    steps, step = recipe.epochs * math.ceil(len(kept[0]) / recipe.batch), 0
    for epoch in range(1, recipe.epochs + 1):
        for batch in _shuffled(kept, orders, epoch).split(recipe.batch, dim=1):
            losses = problem.loss(run(held, inputs[batch]), labels.gather(1, batch)) * weights.gather(1, batch)
            gradients = torch.autograd.grad(losses.sum() / batch.shape[1], held)
            rate = recipe.rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            with torch.no_grad():
                torch._foreach_mul_(velocity, recipe.momentum)
                torch._foreach_add_(velocity, gradients)
                torch._foreach_add_(velocity, held, alpha=recipe.decay)
                torch._foreach_add_(held, velocity, alpha=-rate)
            step += 1
        if each_epoch is not None:
            each_epoch(epoch, {name: p.detach() for name, p in zip(names, held, strict=True)})
    return {name: p.detach() for name, p in zip(names, held, strict=True)}


def _shuffled(kept: list[NDArray[np.int64]], orders: list[list[int]], epoch: int) -> Tensor:
    """What each model sees in an epoch, int64 `[models, kept]`."""
    draws = [np.random.default_rng([*order, epoch]) for order in orders]
    return torch.from_numpy(
        np.stack([rows[draw.permutation(len(rows))] for rows, draw in zip(kept, draws, strict=True)])
    )


def outputs_of(problem: Problem, stacked: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """Outputs `[models, q, k]` of stacked networks."""
    template = problem.build(0)
    with torch.no_grad():
        return torch.vmap(lambda p: functional_call(template, p, (inputs,)))(stacked)


def folder() -> Path:
    """Where truths and trained networks are kept."""
    return cache() / "fidelity"


def truth(problem: Problem, removal: Removal, say: Say = print) -> Truth:
    """The truth of a removal, from the disk or computed seed by seed and chunk by chunk; stopped, it goes on there."""
    masks = masks_of(problem, removal)
    shards = []
    for seed in range(removal.seeds):
        parts = [
            str(VERSION),
            problem.key(),
            hashlib.sha256(masks.tobytes()).hexdigest(),
            str(seed),
            str(removal.fixed),
        ]
        path = folder() / f"truth-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:24]}.npy"
        if not path.is_file():
            say(f"{problem.name}: retraining {len(masks)} networks ({removal.label}, seed {seed})")
            _compute(problem, removal, masks, seed, path)
        shards.append(np.load(path, allow_pickle=False))
    return Truth(removal, masks, np.stack(shards))


def _compute(problem: Problem, removal: Removal, masks: Masks, seed: int, path: Path) -> None:
    """One seed of every mask, chunk by chunk: what is on the disk is done."""
    parts = []
    for start in range(0, len(masks), problem.chunk):
        part = path.with_suffix(f".{start}.npy")
        if not part.is_file():
            some = masks[start : start + problem.chunk]
            own = [[1, seed, start + at] for at in range(len(some))]
            orders = [[seed]] * len(some) if removal.fixed else own  # fixed: the order of the full training
            begins = [seed if removal.fixed else 1000 + seed] * len(some)
            stacked = train(problem, begins, orders, some, fixed=removal.fixed)
            save(part, problem.measure(outputs_of(problem, stacked, problem.test.inputs)).numpy())
        parts.append(part)
    save(path, np.concatenate([np.load(part, allow_pickle=False) for part in parts]))
    for part in parts:
        part.unlink()


def save(path: Path, values: NDArray[np.float32]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.part")
    with unfinished.open("wb") as file:
        np.save(file, values)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
