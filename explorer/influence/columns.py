"""Which of the Fisher's columns are worth a backward pass? For each example the loudest first, and none that nobody hears.

Plans passes over the training set, in which examples that need as many columns go together. Makes no backward pass itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from explorer.contracts import Objective, Progress, Subject
from explorer.influence import factors
from explorer.influence.blocks import Need, in_blocks
from explorer.influence.layers import evaluation
from explorer.loading import as_model_input

FEWEST = 256
"""Examples that a block has at least, though they need unlike numbers of columns: a backward pass costs something by itself."""


@dataclass(frozen=True)
class Columns:
    """What passes over the training set do: its `rows` in an order of their own, cut at `cuts` into blocks of like need.

    `counts` is how many columns each block takes at most, None for all there are; `left_out` the share of the Fisher's
    trace, as a sum over the training set, in the columns that are not taken.
    """

    rows: NDArray[np.int64]
    cuts: tuple[int, ...] = ()
    counts: tuple[int | None, ...] = (None,)
    left_out: float = 0.0

    def of(self, place: int) -> int | None:
        """How many columns the examples from this place among `rows` on take."""
        return self.counts[int(np.searchsorted(self.cuts, place, side="right"))]

    def yielded(
        self, objective: Objective, outputs: Float[Tensor, "b k"], place: int
    ) -> Iterator[Float[Tensor, "b k"]]:
        """The columns of the block at this place."""
        yield from factors.fewest_columns(objective, outputs, place, self.of(place))

    def mean(self, objective: Objective, outputs: int) -> float:
        """How many columns an example takes on average."""
        every = factors.fewest_count(objective, outputs)
        sizes = np.diff((0, *self.cuts, len(self.rows)))
        return float(sizes @ [every if count is None else count for count in self.counts]) / max(1, len(self.rows))


def planned(subject: Subject, share: float, step: int, need: Need, progress: Progress) -> Columns:
    """The quietest columns are left out, as many as make up no more than this share of the Fisher's trace.

    None are for a share of 0, for regression and sequences, and where labels are drawn: there all rows come in their order.
    Cost one forward pass over the training set, in blocks of at most `step`.
    """
    rows = np.arange(len(subject.train), dtype=np.int64)
    if share == 0 or subject.objective.task != "classification":
        return Columns(rows)
    norms = torch.cat([found for _, found in in_blocks(len(rows), step, partial(_norms, subject, progress), need)])
    if not norms.shape[1]:
        return Columns(rows)
    counts = needed(norms, share)
    order = np.argsort(counts, kind="stable")
    cuts = _cuts(counts[order])
    ends = (*cuts, len(rows))
    most = tuple(int(counts[order[end - 1]]) for end in ends)
    rows = order if cuts else rows
    taken = torch.from_numpy(np.repeat(most, np.diff((0, *ends)))).to(norms.device)
    quiet = torch.arange(norms.shape[1], device=norms.device) >= taken.unsqueeze(1)
    if not bool(quiet.any()):
        return Columns(np.sort(rows))
    return Columns(rows, cuts, most, float(norms[torch.from_numpy(rows).to(norms.device)][quiet].sum() / norms.sum()))


def needed(norms: Float[Tensor, "n c"], share: float) -> NDArray[np.int64]:
    """How many columns each example takes, `[n]`, given their square norms: the others make up at most this share of all.

    A column is taken where its norm is above a level, and so is every one before it.
    """
    rising = norms.flatten().sort()[0]
    total = float(rising.sum())
    if not 0 < total < float("inf"):
        return np.full(len(norms), norms.shape[1], dtype=np.int64)
    quiet = int((rising.cumsum(0) <= share * total).sum())
    loud = norms > (rising[quiet - 1] if quiet else -1.0)
    places = torch.arange(1, norms.shape[1] + 1, device=norms.device)
    return (loud * places).amax(1).cpu().numpy().astype(np.int64)


def _norms(subject: Subject, progress: Progress, part: slice) -> Float[Tensor, "b c"]:
    rows = np.arange(part.start, part.stop, dtype=np.int64)
    progress(part.start, len(subject.train), "answers")
    with evaluation(subject.model), torch.no_grad():
        outputs = subject.model(as_model_input(subject.model, subject.train.batch(rows)))
    return factors.column_norms(outputs.double())


def _cuts(counts: NDArray[np.int64]) -> tuple[int, ...]:
    """Where to begin a block, for counts that never fall: where they rise, if the block so far has `FEWEST` examples."""
    cuts: list[int] = []
    began = 0
    for place in (np.flatnonzero(np.diff(counts)) + 1).tolist():
        if place - began >= FEWEST:
            cuts.append(place)
            began = place
    return tuple(cuts)
