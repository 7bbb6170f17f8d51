"""What do these numbers mean? The panel's part that says so for the run on screen."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

import streamlit as st

from explorer.contracts import Target
from explorer.memorization.subsets import MEMORIZED_ABOVE
from explorer.shown.again import again
from explorer.store import Meta, Run
from explorer.ui import answers, load
from explorer.ui.parts import repeated
from explorer.ui.views import evidence
from explorer.ui.views.words import as_markdown

ENOUGH = 12
"""Retrainings that chose a damping within .01 of the best in 44 of 45 trials (`python -m tests.bench.damping --draws 3`)."""
SCORES = {
    "csl": "its loss summed over training",
    "mean loss and neighbors": "its loss over training and the labels of its nearest inputs",
    "self-influence": "its self-influence (there is no training log)",
}
"""What the flag rests on, by its basis."""
DAMPINGS = ("damping", "relative_damping")
"""Settings that evidence chooses where they are left out."""


def show(run: Run, target: Target) -> None:
    """The meaning of every number of the page, with the run's own settings."""
    meta, stats = load.meta(run), load.evidence(run)
    left = f"; the solve leaves a residual of {stats['residual']:.1e}" if "residual" in stats else ""
    damping = (
        f"- **Damping** λ = {stats['damping']:.3g} ({stats['damping_rule']}), weight decay {stats['weight_decay']:.3g}{left}.\n"
        if "damping" in stats
        else ""
    )
    _checked(run)
    repeated.show(run)
    st.markdown(
        f"""
- **Influence** of a training example: how much of what is explained here, in {answers.unit(run, target)}, this prediction owes to
  the example being in the training set. ▲ towards: without it the answer would be worse; ▼ away: better.
- It is a first-order estimate through {reach(stats)}. A deep model trained again differs by more than this.
{damping}{solved(stats)}- **Share**: |influence| over its sum over all {meta.train:,} training examples.
- **Rank agreement**: Spearman correlation with a second method ({_second(run)}).
- **Noise**: how much this prediction still moved per epoch at the end of training.
{_flags(run)}{_own(run)}{_read(meta)}- **Near-duplicate**: another training example lies nearer, in the features the last layer sees, than a tenth of the usual
  distance to a nearest neighbor. A twin hides memorization: removing one of two copies changes little.
- **On the map** colors are in 127 steps to each side of the legend's limits and clipped there; tiles and the strongest rows
  of tables are exact.
"""
    )


def reach(stats: Mapping[str, Any]) -> str:
    """What of the model, or of its training, the scores see, from a fitted method's stats; as Markdown."""
    if stats.get("whole_model"):
        return "the whole model"
    if "layer" in stats:
        return f"the last layer (called {as_markdown(stats['layer'])}) on fixed features; what the layers below would do is not in it"
    if "layers" in stats:
        names = as_markdown(", ".join(stats["layers"]))
        out = as_markdown(", ".join(f"{name} ({why})" for name, why in stats.get("left_out", {}).items()))
        return f"the layers {names}" + (f"; not through {out}" if out else "")
    if "steps" in stats:
        return f"the {stats['steps']:,} steps of the training that was made, and of no other"
    return "the method's own parameters"


def solved(stats: Mapping[str, Any]) -> str:
    """Whether the systems of an iterative method were solved, and what to set where they were not; nothing for others."""
    if "converged" not in stats or "tolerance" not in stats:
        return ""
    left = f"{stats['residual_max']:.2g} after at most {stats['iterations']:,} steps"
    tried, asked = f"{stats['solved']} training examples", f"{stats['tolerance']:g}"
    if stats["converged"] == 1:
        return (
            f"- **Solved**: the systems of {tried} tried were left with a residual of {left} ({asked} was asked for).\n"
        )
    wanted, name = stats.get("depth_wanted"), "iterations" if "iterations_limit" in stats else "depth"
    steps = f"some {wanted:,}" if wanted is not None and wanted > stats["iterations"] else "more"
    return (
        f"- **Not solved**: of the systems of {tried} tried, {stats['converged']:.0%} reached the residual of {asked} that was asked "
        f"for; the worst is left with {left}. It would take {steps} (`{name}`), or a larger damping.\n"
    )


def _second(run: Run) -> str:
    plain = run.spec["method"]["name"] == "last-layer" or load.meta(run).task == "sequence"
    return "plain gradient products, no curvature" if plain else "the last layer alone, exactly"


def _read(meta: Meta) -> str:
    """How texts are answered, where there are some."""
    if meta.task != "sequence":
        return ""
    return (
        "- **What the model says** of a text is its own first choice at each place of the continuation, after the given words before it. "
        "Underlined words differ from those given. **Confidence** is the probability of all of its choices together; an answer is right "
        "when every one of them is.\n"
    )


def _flags(run: Run) -> str:
    """What suspect and memorized mean, and whether the latter is measured here."""
    basis = SCORES.get(str((load.summary(run) or {}).get("basis", "")), "what the run knows of it")
    flagged = load.retrained(run)
    measured = "not measured in this run" if flagged is None else f"{int(flagged.sum()):,} examples here"
    return (
        f"- **Suspect**: the example looks memorized or mislabeled: by {basis} it lies more than three robust deviations above its class. That is "
        "a guess, which costs no training.\n"
        "- **Memorized**: models trained with the example are right on it more often than models trained without it, by more than "
        f"{MEMORIZED_ABOVE:g} and more than two standard errors ({measured}; *Measure by retraining* on the page Memorized).\n"
    )


def _own(run: Run) -> str:
    """Whose self-influence it is, where it is not the run's own method's."""
    other = (load.summary(run) or {}).get("self_influence_by")
    if other is None:
        return ""
    name = run.spec["method"]["name"]
    return f"- **Self-influence** is that of {other}: by {name} every example would cost a way back through the training.\n"


def _checked(run: Run) -> None:
    """What retrainings say of the scores, or how to have them asked."""
    found = answers.checked(run)
    if found is not None:
        evidence.show(found, key="evidence")
    elif "weights" in run.spec["model"] or run.spec["model"].get("kind") == "memory":
        st.markdown("Not checked by retraining: the weights were given, so there is no training to repeat.")
    else:
        too = ", and the damping chosen by it" if "damping" in load.evidence(run) else ""
        st.markdown(f"Not checked by retraining. To have it checked{too}, run in a terminal:")
        st.code(line(run), language="bash", wrap_lines=True)


def line(run: Run) -> str:
    """The command that computes the run again with evidence; its damping is then chosen, whatever it was."""
    method = run.spec["method"]
    settings = [
        f"--set {shlex.quote(f'{name}={_typed(value)}')}"
        for name, value in method["settings"].items()
        if name not in DAMPINGS
    ]
    again_ = again(run, str(method["name"])) or "explorer run ..."
    return " ".join([again_, *settings, f"--evidence {ENOUGH}"])


def _typed(value: Any) -> str:
    """A setting of a spec as one would type it."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)
