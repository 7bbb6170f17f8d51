"""What of a block of scores is kept: the strongest of both signs, int8 rows, and how far a second method agrees.

Works on one block of queries at a time in memory that it uses again, so memory does not grow with their number. Knows
no files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from explorer.contracts import Fitted, Queries
from explorer.influence.blocks import Need, in_blocks
from explorer.jobs.extremes import extremes

TOP = 50
"""Training examples kept with exact influence, per query and sign."""
CLIP = 0.995
"""Quantile of |influence| that ±127 stands for."""
AGREEMENT_SAMPLE = 2000
"""Training examples over which the rank agreement of two methods is measured."""
OVERLAP = 10
"""Strongest examples of each sign compared between two methods."""
ELEMENTS = 32_000_000
"""Scores of one method held in one piece of memory (128 MB); there are two pieces."""
NEED = Need("the scores of one query", remedy="Close other programs, or choose a method that needs less.")

Kept = dict[str, NDArray[Any]]
"""What is kept of queries but the rows, by name, `[query, ...]` each."""
Finish = Callable[[Kept, NDArray[np.int8]], None]
"""What to do with a block that is done: what is kept of its queries, and the int8 rows `[query, train]`."""


def score_blocks(
    fitted: Fitted, second: Fitted | None, blocks: Iterable[tuple[Queries, Finish]], train: int, seed: int
) -> None:
    """Score block after block and finish each, in order; `train` is the number of training examples.

    While the methods score some queries, one more thread keeps what counts of those before and finishes their block.
    Where memory does not suffice for as many queries at once, there are fewer (see `blocks.in_blocks`).
    """
    scorer = _Scorer([fitted] if second is None else [fitted, second], train, seed)
    step = max(1, ELEMENTS // train)
    before: Future[None] | None = None
    with ThreadPoolExecutor(1) as keeper:
        for block, finish in blocks:
            count = len(block.rows)
            kept, levels = _room(count, train), np.empty((count, train), dtype=np.int8)
            for part, looks in in_blocks(count, step, partial(scorer.part, block), NEED, scorer.forget):
                if before is not None:
                    before.result()
                if part.stop < count:
                    step = min(step, part.stop - part.start)  # what did not fit here will not fit in the next block
                then = partial(finish, kept, levels) if part.stop >= count else None
                here = {name: values[part] for name, values in kept.items()}
                before = keeper.submit(_keep_all, looks, here, levels[part], then)
        if before is not None:
            before.result()


def score_block(
    fitted: Fitted, second: Fitted | None, queries: Queries, train: int, seed: int
) -> tuple[Kept, NDArray[np.int8]]:
    """One block alone: what `score_blocks` finishes it with."""
    done: list[tuple[Kept, NDArray[np.int8]]] = []
    score_blocks(fitted, second, [(queries, lambda kept, levels: done.append((kept, levels)))], train, seed)
    return done[0]


@dataclass(frozen=True)
class _Look:
    """Scores of one method `[query, train]`, and some of them picked blindly `[query, sample]`."""

    scores: NDArray[np.float32]
    sample: NDArray[np.float32]


class _Scorer:
    """Scores queries into two pieces of memory by turns: what it says is valid until it was asked twice more.

    Fresh memory for each block would cost more time than all that is done with the scores.
    """

    def __init__(self, methods: list[Fitted], train: int, seed: int) -> None:
        self._methods = methods
        self._sample = torch.from_numpy(np.sort(np.random.default_rng(seed).permutation(train)[:AGREEMENT_SAMPLE]))
        self._pieces = [torch.empty(len(methods), 0, train) for _ in range(2)]

    def part(self, block: Queries, part: slice) -> list[_Look]:
        """The scores of some of a block's queries by each method; where it fails, what was said before stays valid."""
        queries = block.block(part)
        count = len(queries.rows)
        methods, held, train = self._pieces[1].shape
        if held < count:
            self._pieces[1] = torch.empty(methods, count, train)
        looks = []
        for method, piece in zip(self._methods, self._pieces[1], strict=True):
            scores = piece[:count]
            method.score(queries, out=scores)
            looks.append(_Look(scores.numpy(), scores.index_select(1, self._sample).numpy()))
        self._pieces.reverse()
        return looks

    def forget(self) -> None:
        """Memory is short: give back the piece that was to be filled."""
        methods, _, train = self._pieces[1].shape
        self._pieces[1] = torch.empty(methods, 0, train)


def _room(count: int, train: int) -> Kept:
    """Room for what is kept of `count` queries, NaN where nothing is known.

    `total` is Σ|influence|, the denominator of shares; `scale` the |influence| that ±127 stands for; of the `TOP` most
    helpful and most harmful training rows one of the wrong sign is marked −1.
    """
    top = min(TOP, train)
    kept: Kept = {side: np.empty((count, top), dtype=np.int32) for side in ("towards", "away")}
    kept |= {f"{side}_influence": np.empty((count, top), dtype=np.float32) for side in ("towards", "away")}
    numbers = ("total", "scale", "agreement", "overlap")
    return kept | {name: np.full(count, np.nan, dtype=np.float32) for name in numbers}


def _keep_all(looks: list[_Look], kept: Kept, levels: NDArray[np.int8], then: Callable[[], None] | None) -> None:
    """Fill `kept` and `levels`, query by query because one row of scores fits a core's cache; `then` go on."""
    for at in range(len(levels)):
        rows = [_Look(look.scores[at], look.sample[at]) for look in looks]
        _keep(rows[0], {name: values[at : at + 1] for name, values in kept.items()}, levels[at], *rows[1:])
    if then is not None:
        then()


def _keep(look: _Look, kept: Kept, levels: NDArray[np.int8], other: _Look | None = None) -> None:
    """All that is kept of one query's scores `[train]`, which are used up; `other` is the second method's look."""
    row, n = look.scores, len(look.scores)
    kept["total"][0] = np.abs(row).sum()
    found = extremes(row, min(TOP, n), max(1, round((1 - CLIP) * n)), look.sample)
    for name, places, sign in (("towards", found.high, 1), ("away", found.low, -1)):
        influence = row[places]
        right = influence * sign > 0
        kept[name][0] = np.where(right, places, -1)
        kept[f"{name}_influence"][0] = np.where(right, influence, 0)
    kept["scale"][0] = found.magnitude
    if other is not None:
        few = max(1, min(OVERLAP, n // 2))
        theirs = extremes(other.scores, few, 1, other.sample)
        shared = set(found.high[:few]) & set(theirs.high), set(found.low[:few]) & set(theirs.low)
        kept["overlap"][0] = sum(map(len, shared)) / (2 * few)
        kept["agreement"][0] = rank_agreement(look.sample, other.sample)
    quantize(row, found.magnitude, levels)


def quantize(row: NDArray[np.float32], scale: np.float32, levels: NDArray[np.int8]) -> None:
    """int8 `levels` of a `row` `[train]`, which is used up: ±127 stands for ±`scale` and beyond, 0 for 0."""
    row *= np.float32(127) / (scale if scale > 0 else np.float32(1))
    np.rint(row, out=row)
    np.clip(row, -127, 127, out=row)
    levels[:] = row


def rank_agreement(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Spearman's correlation of two rows of scores; NaN where one is constant.

    The same number as `fidelity.rank_agreement`, in a fifth of the time: rows seldom have ties.
    """
    x, y = _centered_ranks(a), _centered_ranks(b)
    size = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / size) if size > 0 else float("nan")


def _centered_ranks(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Ranks around 0; ties share their mean rank."""
    n, order = len(x), np.argsort(x)
    ordered = x[order]
    if (ordered[1:] == ordered[:-1]).any():
        return np.asarray((np.searchsorted(ordered, x, "left") + np.searchsorted(ordered, x, "right")) / 2 - n / 2)
    ranks = np.empty(n)
    ranks[order] = np.arange(n) - (n - 1) / 2
    return ranks
