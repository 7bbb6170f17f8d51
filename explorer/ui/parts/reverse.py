"""Which test predictions does a training example help and hurt? One column of the stored influence, exact where it counts.

int8 rows cut off beyond the 99.5th percentile of a prediction, where the strongest effects lie; the lists of the strongest
examples have these in full. Reads both, computes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from explorer.contracts import Target
from explorer.store import Run
from explorer.store.run import BLOCK, block_name

CUT = 1 - 1e-6
"""Share of the scale from which on an int8 value stands for "or more"."""


@dataclass(frozen=True)
class Effects:
    """Influence of one training example on every computed test prediction, `[q]` each.

    `rows` are test rows; `clipped` marks where the value is a bound: the true influence is as large or larger.
    """

    rows: NDArray[np.int64]
    influence: NDArray[np.float32]
    clipped: NDArray[np.bool_]


def effects(run: Run, train_row: int, target: Target) -> Effects:
    """The column of a training row, with the exact values of the lists of the strongest examples put in."""
    rows, stored = run.column(train_row, target)
    influence = np.array(stored, dtype=np.float32)
    clipped = np.zeros(len(rows), dtype=np.bool_)
    place = {int(row): position for position, row in enumerate(rows)}
    for path, queries in _blocks(run, target):
        at = np.array([place.get(int(query), -1) for query in queries])
        block = _Block.read(path, train_row)
        here = np.flatnonzero(at >= 0)
        clipped[at[here]] = (block.scale[here] > 0) & (np.abs(influence[at[here]]) >= CUT * block.scale[here])
        listed = at[block.listed] >= 0
        influence[at[block.listed][listed]] = block.exact[listed]
        clipped[at[block.listed][listed]] = False
    return Effects(rows, influence, clipped)


def strongest(found: Effects, count: int, sign: int) -> NDArray[np.int64]:
    """Positions of the strongest effects of one sign (1 or −1), strongest first; equal ones in the order of the run."""
    order = np.argsort(-sign * found.influence, kind="stable")[:count]
    return np.asarray(order[sign * found.influence[order] > 0])


@dataclass(frozen=True)
class _Block:
    """What a block of queries says: the scale `[b]` of each, and where in it the example is listed with which influence."""

    scale: NDArray[np.float32]
    listed: NDArray[np.int64]
    exact: NDArray[np.float32]

    @classmethod
    def read(cls, path: Path, train_row: int) -> Self:
        listed: list[NDArray[np.int64]] = []
        exact: list[NDArray[np.float32]] = []
        with safe_open(path, framework="numpy") as file:
            for side in ("towards", "away"):
                query, rank = np.nonzero(file.get_tensor(side) == train_row)
                listed.append(query)
                exact.append(
                    file.get_tensor(f"{side}_influence")[query, rank] if len(query) else np.zeros(0, np.float32)
                )
            scale = file.get_tensor("scale")
        return cls(scale, np.concatenate(listed), np.concatenate(exact))


def _blocks(run: Run, target: Target) -> Iterator[tuple[Path, NDArray[np.int64]]]:
    """Files of the computed blocks and their queries; −1 for queries whose scores for `target` are kept elsewhere."""
    own = run.plan(target)
    plans: list[tuple[Target, NDArray[np.int64]]] = [(target, own)]
    if target == "prediction":  # a right prediction is its label, and kept there
        label = run.plan("label")
        plans.append(("label", np.where(np.isin(label, own), -1, label)))
    for name, queries in plans:
        for start in range(0, len(queries), BLOCK):
            part = queries[start : start + BLOCK]
            if run.has(block_name(name, start)) and (part >= 0).any():
                yield run.path / block_name(name, start), part
