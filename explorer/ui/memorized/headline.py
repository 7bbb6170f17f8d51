"""How many examples are suspect, whom do they help, and is the flag right? The headline's numbers, from a run's summary."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from explorer import memorization
from explorer.store import Run
from explorer.ui import answers, load
from explorer.ui.memorized import thresholds
from explorer.ui.views import memorization as views

BEYOND = 0.05
"""Share of examples without any effect that lie outside the 95 % noise band."""
SCORES = {
    "csl": "training log (CSL)",
    "mean loss and neighbors": "training log and nearest inputs",
    "self-influence": "self-influence",
}
"""What the suspect score is called, by its basis."""


def show(run: Run) -> None:
    """The answer in words, and beside it the check against planted flips where there are some."""
    table, numbers = load.train_table(run), load.summary(run) or {}
    if "flips_planted" not in numbers:
        st.html(views.headline(facts(run, table, numbers)))
        return
    left, right = st.columns([1.15, 1], gap="medium")
    left.html(views.headline(facts(run, table, numbers)))
    right.html(views.check(check(run, numbers)))


def facts(run: Run, table: pd.DataFrame, numbers: dict[str, Any]) -> views.Headline:
    """The headline's numbers."""
    counts, stats, basis = table["quadrant"].value_counts(), load.evidence(run), str(numbers["basis"])
    high, flagged = table["self_influence_z"] > memorization.FLAG_Z, table["memorized"]
    epochs = len(list((run.path / "training").glob("epoch-*.safetensors"))) if basis != "self-influence" else 0
    meta = load.meta(run)
    return views.Headline(
        flagged=int(numbers["memorized"]),
        total=len(table),
        epochs=epochs,
        group="the median of its class" if meta.has_classes else "the median of all examples",
        high=int(high.sum()),
        useful=int(counts.get(memorization.USEFUL, 0)),
        harmful=int(counts.get(memorization.HARMFUL, 0)),
        both=int((high & flagged).sum()),
        chance=round(BEYOND * int(high.sum())),
        method=str(run.spec["method"]["name"]),
        damping=float(stats["damping"]) if "damping" in stats else None,
        damping_rule=str(stats.get("damping_rule", "")),
        own_by=str(numbers.get("self_influence_by", "")),
        neighbors=basis == "mean loss and neighbors",
        refused=int((flagged & table["wrong"]).sum()) if meta.has_outcomes else None,
        asked=answers.label_called(meta),
    )


def check(run: Run, numbers: dict[str, Any]) -> views.Check:
    """The planted flips, the flag's score first, and which score found them better on this run."""
    own = views.Finding("self-influence", **numbers["flips_self_influence"])
    findings: tuple[views.Finding, ...] = (own,)
    if numbers["basis"] == "self-influence":
        verdict = "A training log finds flips better than influence does; this run has none, its weights were given."
    else:
        log = views.Finding(SCORES[str(numbers["basis"])], **numbers["flips_score"])
        findings = (log, own)
        verdict = (
            "The training log finds flips better than influence does, and costs nothing: look for wrong labels with it, "
            "and ask influence why a prediction was made."
            if (log.precision, log.auc) > (own.precision, own.auc)
            else "On this run self-influence finds flips as well as the training log does."
        )
    truth = thresholds.flipped(run)
    fitted = None if truth is None else int((~load.train_table(run)["wrong"].to_numpy(bool) & truth).sum())
    return views.Check(
        int(numbers["flips_planted"]),
        int(numbers["flips_flagged"]),
        int(numbers["memorized"]),
        findings,
        verdict,
        fitted,
    )
