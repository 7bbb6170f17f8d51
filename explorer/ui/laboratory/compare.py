"""Several scorecards side by side: models, optimizers, layers and stages of training, pictures and language.

Gathers what was measured in all runs and worlds of this folder; measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st

from explorer.errors import ExplorerError
from explorer.jobs import laboratory, worlds
from explorer.store import Run, runs_root
from explorer.ui import load
from explorer.ui.laboratory import experiments, found, link
from explorer.ui.laboratory.worlds import title as world_title
from explorer.ui.views import lab_score
from explorer.ui.views.lab_score import Score

RUNS = 50
"""Runs that are looked through, newest first."""
FIRST = 4
"""Scorecards chosen to begin with."""


@dataclass(frozen=True)
class Card:
    """A scorecard: what it is called, and the file's content."""

    name: str
    found: Mapping[str, Any]


def show(run: Run) -> None:
    """The picker and the table, the run's own experiments first."""
    link.write(run, "Compare")
    cards = gathered(run)
    if not cards:
        st.info(
            "There is no scorecard yet. Do an experiment first; a second one, with another optimizer, makes a comparison."
        )
        return
    chosen = st.multiselect(
        "Scorecards",
        list(cards),
        default=list(cards)[:FIRST],
        format_func=lambda key: cards[key].name,
        key=f"lab-compare-{run.key}",
    )
    if not chosen:
        st.caption("Choose scorecards to compare.")
        return
    st.html(f'<div class="ix-scroll">{lab_score.compared([one for key in chosen for one in told(cards[key])])}</div>')
    st.caption(
        "Intervals are over samples within one experiment, at 95 %; another training or another draw of samples may differ by more. "
        "Rates, samples and probes may differ between experiments: see their settings."
    )
    table = laboratory.compare([cards[key].found for key in chosen])
    with st.expander("The same as a table"):
        st.dataframe(table, hide_index=True)
        st.download_button(
            "CSV", table.to_csv(index=False), "scorecards.csv", "text/csv", key="lab-compare-csv", on_click="ignore"
        )


def told(card: Card) -> list[tuple[str, list[Score]]]:
    """The wishes of a card under its name; those of a world under two, by how the model was told."""
    ways = dict.fromkeys(str(one.get("by", "")) for one in card.found.get("desiderata", ()))
    return [(f"{card.name} · in the {way}" if way else card.name, found.scores(card.found, way)) for way in ways]


def gathered(run: Run) -> dict[str, Card]:
    """Every scorecard by a key: the run's own, those of the other runs, and those of worlds."""
    names = [run.key, *(name for name in load.run_names()[:RUNS] if name != run.key)]
    cards = {}
    for name in names:
        try:
            other = load.open_run(name)
            there = [one for one in laboratory.listed(other) if one.found is not None]
        except ExplorerError:
            continue  # the page of runs says what is wrong with it
        data = load.meta(other).name if there else ""
        for one in there:
            cards[f"{name}/{one.key}"] = Card(f"{data} · {experiments.title(one)}", one.found or {})
    for world in worlds.listed(runs_root()):
        if world.found is not None:
            cards[f"worlds/{world.key}"] = Card(world_title(world), world.found)
    return cards
