"""How far do two runs of one subject agree over all their predictions? Stored influence of both, read in blocks, once.

Takes int8 rows for the rank agreement and the lists of the strongest for what is shared; computes no influence. Of many
predictions a sample is compared, and its size is part of the answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from explorer import fidelity
from explorer.contracts import Target
from explorer.shown.methods import TOP
from explorer.store import Run
from explorer.store.files import member
from explorer.store.run import BLOCK, block_name, rows_name
from explorer.ui import load
from explorer.ui.parts import likeness

LEVELS = 12_000_000
"""Stored values of a run that are compared: 200 predictions over 60,000 training examples."""
FEWEST = 50
"""Predictions compared however large the training set is."""
HELD = 8_000_000
"""Stored values of a run in memory at once."""


@dataclass(frozen=True)
class Agreement:
    """Of the test rows `rows` `[m]`, out of `held` that both runs hold: Spearman's correlation over all training examples
    `[m]` (NaN where undefined), and the share of the strongest of the first run that are among those of the second `[m]`.
    """

    rows: NDArray[np.int64]
    held: int
    ranks: NDArray[np.float64]
    shared: NDArray[np.float64]

    def most_different(self, count: int) -> NDArray[np.int64]:
        """Positions with the smallest share, and among equal ones the smallest correlation, first."""
        return np.lexsort((np.nan_to_num(self.ranks, nan=-2.0), np.nan_to_num(self.shared, nan=-1.0)))[:count]


@dataclass(frozen=True)
class Places:
    """Where a run keeps the influence on its computed predictions `[m]`, ascending by test row: file and position."""

    rows: NDArray[np.int64]
    own: NDArray[np.bool_]
    position: NDArray[np.int64]
    target: Target

    @classmethod
    def of(cls, run: Run, target: Target) -> Self:
        """All that are computed for a target; a right prediction is its label, and kept there."""
        names: tuple[Target, ...] = ("label",) if target == "label" else ("label", "prediction")
        plans = {name: run.plan(name) for name in names}
        found = []
        for name, plan in plans.items():
            position = np.arange(len(plan))
            there = np.repeat([run.has(block_name(name, at)) for at in range(0, len(plan), BLOCK)], BLOCK)[: len(plan)]
            if name != target:
                there &= ~np.isin(plan, plans[target])
            found.append((plan[there], np.full(there.sum(), name == target), position[there]))
        rows, own, position = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.argsort(rows)
        return cls(rows[order], own[order], position[order], target)

    def only(self, rows: NDArray[np.int64]) -> Places:
        """The places of some of the rows."""
        at = np.searchsorted(self.rows, rows)
        return Places(self.rows[at], self.own[at], self.position[at], self.target)

    def blocks(self) -> Iterator[tuple[Target, int, NDArray[np.int64], NDArray[np.int64]]]:
        """Of each file: whose it is, its first position, which of the places it holds, and their rows in it."""
        kinds: tuple[tuple[Target, NDArray[np.bool_]], ...] = (("label", ~self.own), (self.target, self.own))
        for name, here in kinds:
            for block in np.unique(self.position[here] // BLOCK):
                at = np.flatnonzero(here & (self.position // BLOCK == block))
                if len(at):
                    yield name, int(block) * BLOCK, at, self.position[at] % BLOCK


def agreement(a: Run, b: Run, target: Target) -> Agreement:
    """The agreement of two runs over the predictions that both hold; computed again when one of them has more."""
    parts = tuple(f"{run.path} {load.stamp(run)} {len(Places.of(run, target).rows)}" for run in (a, b))
    return _agreement(str(a.path), str(b.path), target, parts)


@lru_cache(maxsize=16)
def _agreement(a: str, b: str, target: Target, version: tuple[str, ...]) -> Agreement:  # noqa: ARG001 - the cache's key
    runs = [Run.at(Path(path)) for path in (a, b)]
    places = [Places.of(run, target) for run in runs]
    both, train = np.intersect1d(places[0].rows, places[1].rows), runs[0].meta().train
    rows = np.sort(np.random.default_rng(0).permutation(both)[: max(FEWEST, LEVELS // train)])
    ranks, shared = np.empty(len(rows)), np.empty(len(rows))
    step = max(1, HELD // train)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        chosen = [held.only(rows[part]) for held in places]
        first, second = (_levels(run, held, train) for run, held in zip(runs, chosen, strict=True))
        ranks[part] = [likeness.spearman(x, y) for x, y in zip(first, second, strict=True)]
        ours, theirs = (_lists(run, held) for run, held in zip(runs, chosen, strict=True))
        shared[part] = fidelity.shared(ours, theirs)
    return Agreement(rows, len(both), ranks, shared)


def _levels(run: Run, places: Places, train: int) -> NDArray[np.int8]:
    """int8 rows `[m, train]`."""
    found = np.empty((len(places.rows), train), dtype=np.int8)
    for name, start, at, rows in places.blocks():
        found[at] = np.load(run.path / rows_name(name, start), mmap_mode="r", allow_pickle=False)[rows]
    return found


def _lists(run: Run, places: Places) -> NDArray[np.int64]:
    """The strongest examples `[m, 2 k]`, helpful ones as twice their row and harmful ones as one more, −1 for none."""
    found = np.full((len(places.rows), 2 * TOP), -1, dtype=np.int64)
    for name, start, at, rows in places.blocks():
        for side, sign in enumerate(("towards", "away")):
            listed = member(run.path / block_name(name, start), sign)[rows, :TOP].astype(np.int64)
            found[at, side * TOP : side * TOP + listed.shape[1]] = np.where(listed < 0, -1, 2 * listed + side)
    return found
