"""The side drawer of a training example: what it is, what it did here, whom it helps and hurts, and what lies near it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import streamlit as st
from numpy.typing import NDArray

from explorer import memorization
from explorer.contracts import Target
from explorer.errors import RunError
from explorer.store import Run, read_json
from explorer.store.run import Split
from explorer.ui import answers, load, scatter
from explorer.ui.parts import asked, items, likeness, reverse, taught
from explorer.ui.views import drawer as views
from explorer.ui.views import neighbors as near
from explorer.ui.views.tiles import Item
from explorer.ui.views.words import as_markdown

if TYPE_CHECKING:
    from streamlit.components.v2.types import ComponentRenderer

SHOWN = 10
"""Test predictions shown of each sign."""
OF_THIS, OF_QUERY = "this example", "the prediction"
Pick = Callable[[int, Target], None]


def show(
    run: Run,
    train_row: int,
    query: int,
    target: Target,
    on_pick: Pick,
    on_inspect: Callable[[int], None],
    on_close: Callable[[], None],
    on_teach: Callable[[int | None], None] | None = None,
) -> None:
    """The drawer, open on a training example; `query` and `target` are what is selected now.

    `on_teach(row)` colors the map by a lesson, `on_teach(None)` by influence again; without it nothing can be taught here.
    """
    facts = known(run, train_row)
    with st.container(key="ix-drawer"):
        _named()(key="drawer-name", data={"name": f"Training example {facts.item.id}"}, height=0)
        st.button("Close", key="drawer-close", on_click=on_close, shortcut="Escape", type="tertiary")
        if on_teach is not None:
            taught.show(run, train_row, on_pick, on_inspect, on_teach)
        html = [views.known(facts)]
        try:
            html += [views.here(_here(run, train_row, query, target))]
        except RunError as error:
            st.warning(as_markdown(error))
        html += [views.reverse(helped_and_hurt(run, train_row, target))]
        scatter.show_tiles("".join(html), run=run.key, key="drawer-tiles", on_pick=on_pick, on_inspect=on_inspect)
        _neighbors(run, train_row, query, on_pick, on_inspect)


def known(run: Run, train_row: int) -> views.Known:
    """The example and what is known of its memorization, as far as it is measured."""
    item = items.training(run, [train_row])[0]
    if not run.has("memorization.parquet"):
        return views.Known(item)
    table = pq.read_table(run.path / "memorization.parquet", columns=["self_influence", "quadrant"])
    own, quadrant = table["self_influence"].to_numpy(), str(table["quadrant"][train_row])
    return views.Known(
        item=item,
        quadrant=memorization.NAMES[quadrant],
        meaning=memorization.QUADRANTS[quadrant],
        self_influence=float(own[train_row]),
        percentile=100 * float((own < own[train_row]).mean()),
    )


def _here(run: Run, train_row: int, query: int, target: Target) -> views.Here:
    found = asked.influence(run, query, target)
    level = int(found.row.values[train_row])
    listed = likeness.influences(found.top)
    value = listed.get(train_row, level / 127 * found.row.scale)
    return views.Here(
        query=str(answers.query_row(run, query)["id"]),
        influence=value,
        share=abs(value) / found.top.total if found.top.total > 0 else 0.0,
        unit=answers.unit(run, target),
        clipped=abs(level) == 127 and train_row not in listed,
    )


def helped_and_hurt(run: Run, train_row: int, target: Target) -> views.Reverse:
    """The reverse question: the test predictions that the example helps and hurts most, of those that are computed."""
    found = reverse.effects(run, train_row, target)
    helped, hurt = (_effects(run, found, reverse.strongest(found, SHOWN, sign)) for sign in (1, -1))
    return views.Reverse(
        helped=helped,
        hurt=hurt,
        helps=int((found.influence > 0).sum()),
        hurts=int((found.influence < 0).sum()),
        computed=len(found.rows),
        total=load.meta(run).test,
        mean=float(found.influence.mean()) if len(found.rows) else 0.0,
        unit=answers.unit(run, target),
    )


def _effects(run: Run, found: reverse.Effects, at: NDArray[np.int64]) -> tuple[tuple[Item, float, bool], ...]:
    shown = items.predictions(run, found.rows[at])
    return tuple(
        (item, float(value), bool(clipped))
        for (item, _), value, clipped in zip(shown, found.influence[at], found.clipped[at], strict=True)
    )


def _neighbors(run: Run, train_row: int, query: int, on_pick: Pick, on_inspect: Callable[[int], None]) -> None:
    of = st.segmented_control(
        "Nearest training examples of", (OF_THIS, OF_QUERY), default=OF_THIS, key="drawer-neighbors", required=True
    )
    split: Split = "test" if of == OF_QUERY else "train"
    row = query if split == "test" else train_row
    found = nearest(run, split, row)
    if found is None:
        st.info(_missing(run))
        return
    name = str(answers.query_row(run, row)["id"] if split == "test" else items.training(run, [row])[0].id)
    html = near.neighbors(found, name, trained=split == "train")
    scatter.show_tiles(html, run=run.key, key="drawer-neighbor-tiles", on_pick=on_pick, on_inspect=on_inspect)


def nearest(run: Run, split: Split, row: int) -> tuple[near.Neighbor, ...] | None:
    """The nearest training examples of an example, nearest first; None where the run has no such file."""
    found = run.neighbors(split, row)
    if found is None:
        return None
    shown = items.training(run, found.rows)
    limit = np.float32(read_json(run.path / "neighbors.json")["near_duplicate_distance"])
    return tuple(
        near.Neighbor(item, float(distance), twin=bool(distance <= limit))
        for item, distance in zip(shown, found.distances, strict=True)
    )


def _missing(run: Run) -> str:
    if load.state(run).active:
        return "The nearest training examples are found in the job's last stage; they appear here when it is done."
    return (
        f"This run holds no nearest neighbors: it was computed before they were part of a run, or its job stopped early. "
        f"Move the folder {run.key} away and compute the run again, or resume its job."
    )


@cache
def _named() -> ComponentRenderer:
    script = Path(__file__).with_name("drawer.js").read_text(encoding="utf-8")
    return st.components.v2.component("influence_drawer", html="<span hidden></span>", js=script, isolate_styles=False)
