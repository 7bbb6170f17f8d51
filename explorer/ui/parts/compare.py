"""The panel's part "Compare": the pinned prediction A beside the one that is selected now, B."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from explorer.contracts import Target
from explorer.errors import RunError
from explorer.store import Run
from explorer.ui import answers, load, scatter
from explorer.ui.parts import asked, items, likeness
from explorer.ui.parts.asked import Influence
from explorer.ui.views import compare
from explorer.ui.views.words import as_markdown

SHARED, ONLY = 12, 6
"""Training examples shown in the middle, and on each side."""
HOW = (
    'Two predictions side by side, and the training examples that both rest on. Press "Pin as A" (key **P**) at a '
    "prediction, then pick another one: it becomes B."
)
Pinned = tuple[int, Target]
Pick = Callable[[int, Target], None]


def show(
    run: Run,
    pinned: Pinned | None,
    query: int,
    target: Target,
    on_pick: Pick,
    on_inspect: Callable[[int], None],
) -> None:
    """A, what is shared, B; or how to pin, where nothing is pinned yet."""
    if pinned is None:
        st.info(HOW)
        return
    if pinned == (query, target):
        name = as_markdown(answers.query_row(run, query)["id"])
        st.info(f"**{name}** is pinned as A. Pick another prediction in the list or on the map: it becomes B.")
        return
    try:
        first, second = asked.influence(run, *pinned), asked.influence(run, query, target)
    except RunError as error:
        st.warning(as_markdown(error))
        return
    html = compare.comparison(compared(run, (pinned, first), ((query, target), second)))
    scatter.show_tiles(html, run=run.key, key="compare-tiles", on_pick=on_pick, on_inspect=on_inspect)


def compared(run: Run, a: tuple[Pinned, Influence], b: tuple[Pinned, Influence]) -> compare.Comparison:
    """Both answers and what they share, strongest first: by the sum of an example's shares in the two answers."""
    (first, one), (second, other) = a, b
    on_a, on_b = likeness.influences(one.top), likeness.influences(other.top)

    def weight(row: int) -> float:
        return abs(on_a[row]) / (one.top.total or 1.0) + abs(on_b[row]) / (other.top.total or 1.0)

    both = sorted(on_a.keys() & on_b.keys(), key=lambda row: (-weight(row), row))
    agree = sum(on_a[row] * on_b[row] > 0 for row in both)
    shown = items.training(run, both[:SHARED])
    return compare.Comparison(
        a=_side(run, "A", first, on_a, set(both)),
        b=_side(run, "B", second, on_b, set(both)),
        shared=tuple(compare.Shared(item, on_a[item.row], on_b[item.row]) for item in shown),
        agree=agree,
        opposite=len(both) - agree,
        spearman=likeness.spearman(one.row.values, other.row.values),
        train=load.meta(run).train,
        unit=_unit(run, first[1], second[1]),
    )


def _side(run: Run, name: str, at: Pinned, values: dict[int, float], both: set[int]) -> compare.Side:
    query, target = at
    only = sorted(values.keys() - both, key=lambda row: (-abs(values[row]), row))
    shown = items.training(run, only[:ONLY])
    return compare.Side(
        name=name,
        query=answers.query(run, query, target),
        row=query,
        point=load.meta(run).train + query,
        only=tuple((item, values[item.row]) for item in shown),
        only_total=len(only),
        listed=len(values),
    )


def _unit(run: Run, first: Target, second: Target) -> str:
    units = answers.unit(run, first), answers.unit(run, second)
    return f"influence in {units[0]}" if units[0] == units[1] else f"A in {units[0]}, B in {units[1]}"
