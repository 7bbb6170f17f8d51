"""Which experiment shall be done? The form of the laboratory: whom to teach, whom to ask, and how; then it is asked for.

The request is that of `explorer.jobs.laboratory`, and a worker of the run does it; nothing is computed in this process.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import streamlit as st
from safetensors import safe_open

from explorer.errors import RunError
from explorer.jobs import laboratory
from explorer.jobs.laboratory import Asked
from explorer.jobs.requests import check_files
from explorer.store import Run
from explorer.ui import begin, load
from explorer.ui.views.words import as_markdown

ITSELF, TEST = "the same samples", "test examples"
MOST = 500
"""Samples, and probes, that the form offers; the command line takes more."""
FEWEST = 2


def show(run: Run) -> None:
    """The form; where nothing can be taught, or a job is at work, it says so."""
    try:
        check_files(run)
    except RunError as error:
        st.info(as_markdown(error))
        return
    meta = load.meta(run)
    classes = len(meta.classes) if meta.has_classes else 1
    first, second, third, fourth = st.columns([1, 1.3, 1, 1], vertical_alignment="bottom")
    each = "Samples a class" if classes > 1 else "Samples"
    samples = first.number_input(
        each, 1 if classes > 1 else FEWEST, max(FEWEST, MOST // classes), max(FEWEST, 100 // classes), key="lab-samples"
    )
    asked = second.segmented_control("Asked", (ITSELF, TEST), default=ITSELF, key="lab-asked", required=True)
    optimizer: Any = third.segmented_control(
        "Optimizer",
        ("sgd", "adam"),
        default="sgd",
        key="lab-optimizer",
        required=True,
        format_func=lambda name: {"sgd": "SGD", "adam": "Adam"}[name],
        help="Adam’s first step is the sign of the gradient: its matrix compares optimizers rather than data.",
    )
    steps = fourth.number_input("Steps on each sample", 1, 1000, 1, key="lab-steps")
    rate, layers, epoch, noise = _more(run)
    if load.state(run).active:
        st.caption("A job is at work on this run; the next experiment can be started when it is done.")
        return
    if st.button("Teach each of them once", key="lab-start"):
        count = int(samples) * classes
        probes = count if asked == TEST else 0
        how = {
            "optimizer": optimizer,
            "steps": int(steps),
            "rate": rate,
            "layers": layers,
            "epoch": epoch,
            "noise": noise,
        }
        begin.start(run, lambda: laboratory.ask(run, wanted(run, count, probes, **how)))


def wanted(run: Run, samples: int, probes: int, **how: Any) -> Asked:
    """An experiment on so many training examples, evenly over classes, and as many test examples (0: the same samples).

    Raises:
        SettingsError: what is out of range.
    """
    return Asked(
        laboratory.evenly(run, "train", samples), laboratory.evenly(run, "test", probes) if probes else None, **how
    )


def _more(run: Run) -> tuple[float | None, tuple[str, ...] | None, int | None, bool]:
    """Rate, layers, stage of the training, and whether to teach with noise as well; what most people leave as it is."""
    with st.expander("Rate, layers, stage of training, noise"):
        left, middle, right = st.columns([1, 1.6, 1.4], vertical_alignment="bottom")
        rate = left.number_input(
            "Rate",
            min_value=0.0,
            value=None,
            format="%g",
            key="lab-rate",
            placeholder="searched",
            help="Left empty, one is searched at which a sample's own loss falls by a thousandth to a tenth of the median loss.",
        )
        layers = middle.multiselect("Layers that move", layers_of(str(run.path)), key="lab-layers", placeholder="all")
        known = laboratory.stages(run)
        epoch: int | None = None
        if known:
            stages = [None, *range(known)]
            epoch = right.selectbox(
                "Weights of which stage",
                stages,
                key="lab-epoch",
                format_func=lambda at: "the trained ones" if at is None else f"after epoch {at} of {known}",
            )
        noise = st.checkbox(
            "Teach every sample with noise as well (five times the work), for noise invariance",
            value=True,
            key="lab-noise",
        )
    return float(rate) if rate else None, tuple(layers) or None, epoch, noise


@lru_cache(maxsize=32)
def layers_of(path: str) -> list[str]:
    """Names of the modules with weights of the run at a path, as its model file has them."""
    file = Path(path) / "model.safetensors"
    if not file.exists():
        return []
    with safe_open(file, framework="numpy") as stored:
        return list(dict.fromkeys(name.rpartition(".")[0] for name in sorted(stored.keys()) if "." in name))
