"""Do memorized examples come in groups? Flagged examples that are each other's neighbors, and each group's place on the map.

Joins what the run stores of neighbors; measures no distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import ConvexHull, QhullError

from explorer.contracts import Layout
from explorer.shown import Filter, Selection
from explorer.shown.selection import MOST, in_map_units
from explorer.store import Run
from explorer.ui import columns, load, scatter, wire
from explorer.ui.memorized import example
from explorer.ui.parts import facts, items
from explorer.ui.views.tiles import grid, tile
from explorer.ui.views.words import as_markdown

FEWEST = 3
"""Examples of the smallest group."""
LARGEST, SHARE = 25, 0.1
"""A group of more examples than this, and than this share of all flagged, is a chain rather than a group: links are then made of
fewer neighbors."""
SHOWN, TILES = 8, 10
"""Groups shown, largest first, and examples of each."""
TYPICAL, NAMED = 0.25, 4
"""A word is typical of a group of texts whose share that has it is larger by this; so many are named."""
MARGIN = 0.008
"""Map units around the outermost points of a group."""


@dataclass(frozen=True)
class Group:
    """Flagged training rows that hang together, most suspect first, and where they are on the map.

    `held` counts all flagged examples inside the selection, those of the group among them.
    """

    rows: NDArray[np.int64]
    selection: Selection
    held: int


@dataclass(frozen=True)
class Groups:
    """`count` groups that hold `grouped` of the `flagged` examples, linked by `links` neighbors; the largest of them, `shown`."""

    count: int
    grouped: int
    flagged: int
    links: int
    shown: tuple[Group, ...]


def show(run: Run) -> None:
    """The groups with their examples, each with a link that shows it on the map."""
    found = groups(run)
    if found is None:
        st.info(
            "Groups are found from nearest neighbors, which this run does not hold (yet): they are the job's last stage."
        )
        return
    if not found.count:
        st.markdown(
            f"None of the {found.flagged:,} flagged examples form a group of {FEWEST} or more that are each other’s nearest neighbors."
        )
        return
    st.markdown(
        f"**{found.grouped:,} of the {found.flagged:,} flagged examples lie in {found.count:,} groups** of {FEWEST} or more: linked where two "
        f"are among each other’s {found.links} nearest training examples. The others stand alone. :small[The {len(found.shown)} largest groups are "
        "shown; flags are the run’s own.]"
    )
    for number, group in enumerate(found.shown, start=1):
        _group(run, number, group)


def _group(run: Run, number: int, group: Group) -> None:
    with st.container(border=True, key=f"group-{number}"):
        left, right = st.columns([3, 1.2], vertical_alignment="center")
        left.markdown(f"**Group {number}: {len(group.rows):,} examples.** {as_markdown(described(run, group))}")
        right.page_link(
            "screens/explore.py",
            label=f"Group {number} on the map",
            icon=":material/map:",
            query_params=link(run, group),
        )
        beside = group.held - len(group.rows)
        if beside:
            right.caption(f"{beside:,} other flagged ones lie between them there.")
        shown = [tile(item) for item in items.training(run, group.rows[:TILES])]
        scatter.show_tiles(
            grid(shown, f"Group {number}", "None."),
            run=run.key,
            key=f"group-tiles-{number}",
            on_pick=lambda *_: None,
            on_inspect=_opened,
        )


def _opened(row: int) -> None:
    example.open_row(row)
    st.rerun("quadrants")


def described(run: Run, group: Group) -> str:
    """Labels of the group and what the model says, most frequent first."""
    meta, known = load.meta(run), load.train_columns(run)
    if meta.task == "regression":
        values = known.labels[group.rows]
        return f"True values {float(values.min()):.3g} to {float(values.max()):.3g}."
    if not meta.has_classes:
        wrong = int((known.flags[group.rows] & columns.WRONG > 0).sum())
        words = ", ".join(f"{word} ({count:,})" for word, count in typical(run, group.rows))
        return (
            f"{f'Typical words: {words}. ' if words else ''}The model says something else than was given of {wrong:,}."
        )
    told = [_most(wire.names(values[group.rows], meta)) for values in (known.labels, known.predictions)]
    return f"Labeled {told[0]}; the model says {told[1]}."


def typical(run: Run, rows: NDArray[np.int64]) -> list[tuple[str, int]]:
    """Words of texts that these examples have more often than all do, and how many of them have each.

    The most typical come first: by how much more, over the square root of the share of all, so that rare words count for more.
    """
    found = []
    for fact in facts.looks(str(run.path), "train").categories.values():
        has = fact.codes == 0
        share = float(has.mean())
        more = float(has[rows].mean()) - share
        if more > TYPICAL:
            found.append((more / share**0.5, fact.names[0], int(has[rows].sum())))
    return [(word, count) for _, word, count in sorted(found, key=lambda one: (-one[0], one[1]))[:NAMED]]


def _most(names: list[str], count: int = 3) -> str:
    found, sizes = np.unique(names, return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    said = ", ".join(f"{found[k]} ({sizes[k]:,})" for k in order[:count])
    return said + (" and others" if len(found) > count else "")


def link(run: Run, group: Group) -> dict[str, str]:
    """The address of the group on the map: only suspect examples shown, these selected."""
    layouts = run.layouts()
    place = {} if group.selection.layout == layouts[-1] else {"map": group.selection.layout}
    return {
        "run": run.key,
        "filter": Filter(suspect=True).text(),
        "select": group.selection.text(),
        "part": "Selection",
        **place,
    }


def groups(run: Run) -> Groups | None:
    """Groups of flagged examples; None while neighbors are not computed."""
    return _groups(str(run.path), load.stamp(run)) if run.has("neighbors.json") else None


@lru_cache(maxsize=4)
def _groups(path: str, stamp: str) -> Groups:  # noqa: ARG001 - part of the cache's key
    run = load.open_at(path)
    table, train = load.train_table(run), load.meta(run).train
    flagged = np.flatnonzero(table["memorized"].to_numpy(np.bool_)).astype(np.int64)
    found, links = close(flagged, np.asarray(run.array("neighbors-rows")[flagged], dtype=np.int64))
    layout: Layout = run.layouts()[-1]
    places, score = in_map_units(np.asarray(run.array(f"coordinates-{layout}")))[:train], table["z"].to_numpy()
    shown = []
    for rows in found[:SHOWN]:
        selection = around(layout, places[rows])
        inside = int(selection.inside(places[flagged]).sum())
        shown.append(Group(rows[np.argsort(-score[rows], kind="stable")], selection, inside))
    return Groups(len(found), sum(len(rows) for rows in found), len(flagged), links, tuple(shown))


def close(flagged: NDArray[np.int64], neighbors: NDArray[np.int64]) -> tuple[list[NDArray[np.int64]], int]:
    """The components of `connected` with as many of the neighbors `[k, m]` as leave no chain, and how many those are.

    Where fewer would leave no group at all, the chain stays.
    """
    most = max(LARGEST, round(SHARE * len(flagged)))
    links = neighbors.shape[1]
    found = connected(flagged, neighbors)
    while links > 1 and found and len(found[0]) > most:
        fewer = connected(flagged, neighbors[:, : links - 1])
        if not fewer:
            break
        found, links = fewer, links - 1
    return found, links


def connected(flagged: NDArray[np.int64], neighbors: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Rows of each connected component of `FEWEST` or more, largest first, equal ones by their first row.

    `flagged` `[k]` are rows in rising order, `neighbors` `[k, m]` the nearest training rows of each (negative: none). Two are
    linked where each is among the other's neighbors.
    """
    if not len(flagged):
        return []
    at = np.searchsorted(flagged, neighbors).clip(max=len(flagged) - 1)
    there = flagged[at] == neighbors
    source = np.repeat(np.arange(len(flagged)), neighbors.shape[1])[there.ravel()]
    links: csr_matrix = coo_matrix(
        (np.ones(len(source), dtype=np.int8), (source, at[there])), shape=(len(flagged),) * 2
    ).tocsr()
    _, member = connected_components(links.multiply(links.T), directed=False)
    order = np.argsort(member, kind="stable")
    parts = np.split(flagged[order], np.flatnonzero(np.diff(member[order])) + 1)
    return sorted((part for part in parts if len(part) >= FEWEST), key=lambda part: (-len(part), int(part[0])))


def around(layout: Layout, places: NDArray[np.float32]) -> Selection:
    """A polygon with a small margin around points `[k, 2]` in map units: their convex hull, or a box where it has too many corners."""
    points = places.astype(np.float64)
    spread = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]]) * MARGIN
    fat = (points[:, None] + spread).reshape(-1, 2)
    try:
        corners = fat[ConvexHull(fat).vertices]
    except QhullError:
        corners = np.zeros((0, 2))
    if not 3 <= len(corners) <= MOST:
        (left, low), (right, high) = fat.min(axis=0), fat.max(axis=0)
        corners = np.array([[left, low], [right, low], [right, high], [left, high]])
    return Selection(layout, tuple((float(u), float(v)) for u, v in corners))
