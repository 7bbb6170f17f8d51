"""The panel's part "Selection": how many points lie inside what was drawn on the map, which, and what is special about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from explorer.contracts import Target
from explorer.errors import RunError
from explorer.groups import LEVEL, SMALLEST, Comparison, Difference, compare
from explorer.shown import prompts
from explorer.shown.filters import LEVELS, Filter
from explorer.shown.selection import Selection, in_map_units
from explorer.store import Row, Run
from explorer.store.export import encode
from explorer.store.run import Split
from explorer.ui import answers, load, scatter, wire
from explorer.ui.parts import facts, items, likeness
from explorer.ui.views import selection as heads
from explorer.ui.views import special as views
from explorer.ui.views.tiles import effect, grid, tile

CLAIMS = 8
"""Rows on what is special, of both splits together."""
CLAIMS_TEST = 3
"""At most so many of them on test examples."""
OF_A_KIND, OF_WORDS = 2, 4
"""At most so many rows on one question, such as the label: the class counts say more; and so many on words."""
TILES = 24
"""Members shown, of both splits together."""
TILES_TEST = 6
"""At most so many of them test examples."""
SPLITS: tuple[Split, ...] = ("test", "train")
NAMES: dict[Split, str] = {"train": "training", "test": "test"}
OF_OUTCOMES = ("wrong", "confidence")
COLUMNS = (
    *("id", "split", "row", "label", "prediction", *OF_OUTCOMES, "loss"),
    *("influence", "memorized", "self_influence", "quadrant"),
)
"""What is saved of each member, as far as it is computed; two of them only where an answer is right or wrong."""
WORDS = {
    facts.LABEL: "labeled {}",
    facts.ANSWER: "model says {}",
    facts.QUADRANT: "{}",
    facts.RETRAINED: "{} by retraining",
    facts.PLANTED: "planted {}",
}
"""A fact in words, by what is asked."""


@dataclass(frozen=True)
class Members:
    """Which points are shown, and which of those lie inside, bool `[train + test]`, train first."""

    shown: NDArray[np.bool_]
    selected: NDArray[np.bool_]
    train: int

    def rows(self, split: Split) -> NDArray[np.int64]:
        """Rows of the selected examples of a split."""
        return np.flatnonzero(self.of(self.selected, split))

    def of(self, mask: NDArray[np.bool_], split: Split) -> NDArray[np.bool_]:
        """The part of a mask that is about a split."""
        return mask[: self.train] if split == "train" else mask[self.train :]


@dataclass(frozen=True)
class Influences:
    """Influence of the training examples on the current query: its int8 row, and exact values of the strongest by row."""

    row: Row
    exact: dict[int, float]

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Influence of training rows, in the unit of the scores: exact for the strongest, else to 1/127 of the row's scale."""
        values = self.row.values.astype(np.float64) / LEVELS * self.row.scale
        values[list(self.exact)] = list(self.exact.values())
        return np.asarray(values[rows])

    def clipped(self, row: int) -> bool:
        """Whether the influence of a training row is "this much or more"."""
        return abs(int(self.row.values[row])) == LEVELS and row not in self.exact


def show(
    run: Run,
    query: int,
    target: Target,
    selection: Selection | None,
    kept: Filter,
    layout: str,
    on_pick: Callable[[int, Target], None],
    on_inspect: Callable[[int], None],
) -> None:
    """The part for a query; `kept` is the filter, `layout` the map on screen."""
    if selection is None:
        st.html(heads.how_to_select())
        return
    if selection.layout != layout:
        st.html(heads.other_map(selection.layout))
        return
    influences = _influences(run, query, target)
    found = members(run, selection, kept, influences.row if influences else None)
    st.html(heads.header(counts(run, found, kept)) + heads.classes(by_class(run, found)))
    if not found.selected.any():
        return
    with st.spinner("Comparing; the inputs of a run are measured once."):
        parts = special(run, found, influences)
    st.html("".join(map(views.special, parts)) + (views.method(LEVEL) if any(part.claims for part in parts) else ""))
    scatter.show_tiles(
        gallery(run, found, target, influences),
        run=run.key,
        key="selection-tiles",
        on_pick=on_pick,
        on_inspect=on_inspect,
    )
    _save(run, found, influences)


def members(run: Run, selection: Selection, kept: Filter, row: Row | None) -> Members:
    """Which points are shown and which are selected, by the rules of the map."""
    train, test = facts.side(run, "train"), facts.side(run, "test")
    shown = kept.shown(
        np.concatenate([train.classes, test.classes]),
        np.concatenate([train.wrong, test.wrong]),
        train.suspect,
        row,
        train.retrained,
    )
    inside = selection.inside(in_map_units(np.asarray(run.array(f"coordinates-{selection.layout}"), dtype=np.float32)))
    return Members(shown, shown & inside, len(train.wrong))


def counts(run: Run, found: Members, kept: Filter) -> heads.Counts:
    """Points selected, shown and there, by split."""
    meta = load.meta(run)
    test, train = (int(found.of(found.selected, split).sum()) for split in SPLITS)
    shown_test, shown_train = (int(found.of(found.shown, split).sum()) for split in SPLITS)
    return heads.Counts(train, test, shown_train, shown_test, meta.train, meta.test, bool(kept))


def by_class(run: Run, found: Members) -> list[heads.ClassCount]:
    """Selected points by label, classes without any left out; none where labels are no classes."""
    names = load.meta(run).classes
    if not load.meta(run).has_classes:
        return []
    test, train = (
        np.bincount(facts.side(run, split).categories[facts.LABEL].codes[found.rows(split)], minlength=len(names))
        for split in SPLITS
    )
    return [heads.ClassCount(name, int(a), int(b)) for name, a, b in zip(names, train, test, strict=True) if a or b]


def special(run: Run, found: Members, influences: Influences | None) -> list[views.Special]:
    """What is special about the selected training examples, then about the test examples; a split without any is left out.

    Each split has half of the error that all intervals together may make.
    """
    parts: list[views.Special] = []
    for split in SPLITS:
        inside = found.of(found.selected, split)
        if not inside.any():
            continue
        known, looks = facts.side(run, split), facts.looks(str(run.path), split)
        numbers = {**known.numbers, **looks.numbers}
        if split == "train" and influences is not None:
            numbers[facts.INFLUENCE] = facts.ranked(influences.row.values)
        rest = found.of(found.shown, split) & ~inside
        categories = {**known.categories, **looks.categories}
        result = compare(inside, rest, categories, numbers, level=1 - (1 - LEVEL) / len(SPLITS))
        most = CLAIMS_TEST if split == "test" else CLAIMS - sum(len(part.claims) for part in parts)
        parts.append(_special(NAMES[split], result, most, looks.note))
    return parts[::-1]


def gallery(run: Run, found: Members, target: Target, influences: Influences | None) -> str:
    """Members as tiles: training examples, strongest |influence| on the current query first, then the worst predictions."""
    train, test = found.rows("train"), found.rows("test")
    worst = test[np.argsort(load.query_positions(run)[test], kind="stable")][:TILES_TEST]
    first, effects, order = train[: TILES - len(worst)], [""] * TILES, "in the order of the data"
    if influences is not None:
        values = influences.of(train)
        first = train[np.argsort(-np.abs(values), kind="stable")][: TILES - len(worst)]
        shown = zip(influences.of(first).tolist(), first.tolist(), strict=True)
        effects = [effect(value, clipped=influences.clipped(row)) for value, row in shown]
        order = f"strongest influence on this prediction first, in {answers.unit(run, target)}"
    parts = []
    if len(train):
        tiles = [tile(item, said) for item, said in zip(items.training(run, first.tolist()), effects, strict=False)]
        parts += [heads.gallery_title(len(first), len(train), "training examples", order)]
        parts += [grid(tiles, "Selected training examples", "")]
    if len(test):
        tiles = [tile(item) for item, _ in items.predictions(run, worst.tolist())]
        parts += [heads.gallery_title(len(worst), len(test), "test examples", "worst predictions first")]
        parts += [grid(tiles, "Selected test examples", "")]
    return "".join(parts)


def table(run: Run, found: Members, influences: Influences | None) -> pd.DataFrame:
    """The selected examples with what is known of them; influence on the current query of training examples."""
    meta, train, test = load.meta(run), found.rows("train"), found.rows("test")
    first = load.train_table(run).iloc[train].assign(split="train")
    if influences is not None:
        first["influence"] = influences.of(train)
    second = load.table(run, "queries").iloc[load.query_positions(run)[test]].assign(split="test")
    both: dict[str, Any] = {}
    for name in COLUMNS if meta.has_outcomes else [name for name in COLUMNS if name not in OF_OUTCOMES]:
        if name in first:
            both[name] = [*first[name], *(second[name] if name in second else [None] * len(second))]
    for name in ("label", "prediction"):
        both[name] = wire.names(both[name], meta)
    table_ = pd.DataFrame(both)
    if meta.preview == "text":
        texts = np.concatenate([prompts(run, "train")[train], prompts(run, "test")[test]])
        table_.insert(list(table_.columns).index("label"), "prompt", texts)
    return table_


def _influences(run: Run, query: int, target: Target) -> Influences | None:
    """The answer to the query; None where there is none, which the page says elsewhere."""
    try:
        return Influences(load.row(run, query, target), likeness.influences(load.top(run, query, target)))
    except RunError:
        return None


def _special(split: str, result: Comparison, most: int, note: str) -> views.Special:
    return views.Special(
        split=split,
        inside=result.inside,
        outside=result.outside,
        found=len(result.claims),
        compared=len(result.differences),
        claims=tuple(map(_claim, _varied(result.claims)[:most])),
        smallest=SMALLEST,
        note=note,
    )


def _varied(claims: Iterable[Difference]) -> list[Difference]:
    """The claims in their order, at most `OF_A_KIND` on one question and `OF_WORDS` on words."""
    asked: Counter[str] = Counter()
    kept = []
    for one in claims:
        word = one.about == facts.HAS_WORD.format(one.value)
        question = facts.HAS_WORD if word else one.about
        asked[question] += 1
        if asked[question] <= (OF_WORDS if word else OF_A_KIND):
            kept.append(one)
    return kept


def _claim(one: Difference) -> views.Claim:
    word = one.about == facts.HAS_WORD.format(one.value)
    fact = WORDS.get(one.about, "{}").format(one.value) if one.kind == "share" and not word else one.about
    return views.Claim(
        fact, one.kind, one.inside, one.outside, one.difference, one.low, one.high, one.ratio, one.about in facts.RANKED
    )


def _save(run: Run, found: Members, influences: Influences | None) -> None:
    total = int(found.selected.sum())
    st.download_button(
        f"Save these {total:,} rows as CSV",
        lambda: encode(table(run, found, influences), "csv"),
        f"{run.key}-selection.csv",
        "text/csv",
        on_click="ignore",
        key="save-selection",
    )
