"""What did a remedy or a cleaning say? Its JSON in the plain data of views, and its files to download."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import streamlit as st

from explorer.jobs.remedies import Asked, Remedy
from explorer.store import Run
from explorer.ui import load
from explorer.ui.views.effects import Effect
from explorer.ui.views.remedy import Against, Line, Result, Unit

DOINGS = {"relabel": "Relabeling", "drop": "Dropping", "downweight": "Downweighting"}
FILES = (
    ("cleaned.npz", "Cleaned data", "application/octet-stream"),
    ("changes.csv", "List of changes", "text/csv"),
)
AGAINST: tuple[Against, ...] = ("before", "random")


def title(remedy: Remedy) -> str:
    """The remedy in words."""
    weight = f" to {remedy.weight:g}" if remedy.action == "downweight" else ""
    return f"{DOINGS[remedy.action]} {len(remedy.rows):,} examples{weight}"


def result(run: Run, asked: Asked) -> Result | None:
    """Everything measured so far, the most important first; None before the first training."""
    outcome = asked.outcome
    if outcome is None or not outcome["seeds"]:
        return None
    meta = load.meta(run)
    nats: Unit = "nats" if meta.task == "classification" else "squared error"
    lines = []
    if meta.task == "classification":
        lines.append(_line(outcome, "accuracy", "accuracy", "points"))
    lines.append(_line(outcome, "loss", "loss", nats, turned=True))
    queries = len(outcome["before"]["asked"][0]) if outcome["before"]["asked"] else 0
    if queries:
        lines.append(
            _line(
                outcome,
                "asked",
                f"the {queries:,} predictions they hurt most"
                if asked.remedy.queries is None
                else f"{queries:,} predictions",
                nats,
            )
        )
    if meta.task == "classification":
        lines += [
            line for number, name in enumerate(meta.classes) if (line := _of_class(outcome, number, name)) is not None
        ]
    return Result(title(asked.remedy), len(outcome["seeds"]), asked.remedy.seeds, lines)


def effect(told: Mapping[str, Any], turned: bool = False) -> Effect:
    """An effect of the file; `turned` where less is better."""
    mean, low, high = (math.nan if told[name] is None else float(told[name]) for name in ("mean", "low", "high"))
    return Effect(-mean, -high, -low) if turned else Effect(mean, low, high)


def downloads(folder: Path, key: str, run: str) -> None:
    """The files of a request that are there, to be saved."""
    there = [one for one in FILES if (folder / one[0]).exists()]
    if not there:
        return
    with st.container(horizontal=True):
        for name, words, kind in there:
            st.download_button(
                words, _reader(folder / name), f"{run}-{key}-{name}", kind, key=f"{key}-{name}", on_click="ignore"
            )


def _reader(file: Path) -> Callable[[], bytes]:
    return file.read_bytes


def _line(outcome: Mapping[str, Any], of: str, name: str, unit: Unit, turned: bool = False) -> Line:
    before, after, random = (_mean(outcome[arm][of]) for arm in ("before", "after", "random"))
    changes = {against: effect(outcome["effects"][against][of], turned) for against in AGAINST}
    return Line(name, unit, before, after, random, changes, turned)


def _of_class(outcome: Mapping[str, Any], number: int, name: str) -> Line | None:
    """None for a class without test examples."""
    before, after, random = (
        _mean([seed[number] for seed in outcome[arm]["per_class"]]) for arm in ("before", "after", "random")
    )
    if math.isnan(before):
        return None
    changes = {against: effect(outcome["effects"][against]["per_class"][number]) for against in AGAINST}
    return Line(f"accuracy of {name}", "points", before, after, random, changes)


def _mean(values: Any) -> float:
    """The mean over seeds (and over queries) of nested lists; NaN where one is missing or there is none."""
    flat = [one for value in values for one in (value if isinstance(value, list) else [value])]
    return math.nan if not flat or any(one is None for one in flat) else math.fsum(flat) / len(flat)
