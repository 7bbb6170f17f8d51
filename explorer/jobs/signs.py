"""What is known of each training example's memorization, by every score there is? Their names, values, and why some are missing.

Reads what a run holds, and asks for the scores that cost passes over the data (`explorer.jobs.signs_stage` makes them).
Loads nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from explorer import memorization
from explorer.jobs import subsets
from explorer.jobs.requests import check_files, check_finished, in_memory, weights_given
from explorer.store import Run, read_json, write_json

STAGE = "signs"
MEMORIZED = "memorization.parquet"
ASKED, TABLE, LEFT_OUT = "signs-asked.json", "signs.parquet", "signs.json"
COSTLY = ("input_curvature", "holdout_retraining")
"""Scores that cost passes over the data; each is a column of `TABLE`, or `LEFT_OUT` says why it is none."""
SIGNS: dict[str, tuple[str, str]] = {
    "memorization": (
        "memorization by retraining",
        "How much likelier models are right on it for having trained on it (Feldman and Zhang): what the others stand in for.",
    ),
    "consistency": (
        "never learned from others",
        "The share of models that are wrong on it when they train without it.",
    ),
    "self_influence": ("self-influence", "What removing it would do to its own loss."),
    "harm": (
        "harm to held-out answers",
        "Its mean influence on all test predictions, turned: high means that it hurts.",
    ),
    "csl": ("loss over training (CSL)", "Its loss summed over all epochs: learned late, or never."),
    "neighbor_loss": (
        "label against its neighbors",
        "−log of the share of its ten nearest by inputs that bear its label.",
    ),
    "final_loss": ("final loss", "Its loss after the last epoch: what the model refuses to fit."),
    "mean_unconfidence": ("unconfidence", "1 − the probability of its label, averaged over epochs."),
    "mean_max_probability": ("unsure answers", "1 − the probability of the model's own answer, averaged over epochs."),
    "entropy": ("entropy", "How spread the model's probabilities were, averaged over epochs."),
    "mean_inaccuracy": ("wrong answers", "The share of epochs that ended with a wrong answer."),
    "forgetting_events": ("forgetting", "How often a right answer turned wrong; never right counts most."),
    "el2n": ("early error (EL2N)", "The length of its error in the first tenth of the epochs."),
    "pre_memorization_error": (
        "wrong before known by heart",
        "The share of wrong answers before its loss first fell below 0.1 nats.",
    ),
    "input_curvature": ("input-loss curvature", "How bent the loss is around its input."),
    "holdout_retraining": (
        "lost in retraining",
        "How much its loss rises when training goes on with held-out examples alone.",
    ),
}
"""Every score by name: in words, and in one sentence; high means "looks memorized"."""
STANDARD_ERROR = "memorization_se"
OF_CLASSES = ("neighbor_loss", "mean_unconfidence", "mean_max_probability", "entropy", "el2n")
"""Scores that a regression has not."""
NOT_OF_SEQUENCES = {
    "neighbor_loss": "needs classes: these are sequences",
    "input_curvature": "needs inputs of real numbers: these are tokens",
}
"""Scores that sequences have not, and why."""


@dataclass(frozen=True)
class Signs:
    """All scores that can be had, a column each in the order of `SIGNS`, and why each of the others cannot, by name."""

    table: pd.DataFrame
    missing: dict[str, str]


def ask(run: Run) -> None:
    """Have the next worker measure what costs passes over the data; nothing changes where it was asked before.

    Raises:
        RunError: the run is not done, or was made from objects in memory.
    """
    check_files(run)
    check_finished(run, "Measure")
    if not run.has(ASKED):
        write_json(run.path / ASKED, {"signs": list(COSTLY)})


def pending(run: Run) -> bool:
    """Whether something was asked that is neither measured nor left out."""
    return run.has(ASKED) and bool(unmeasured(run))


def unmeasured(run: Run) -> tuple[str, ...]:
    """Which of `COSTLY` are neither there nor left out."""
    known = set(_costly(run).columns) | set(left_out(run)) | set(NOT_OF_SEQUENCES if _are_sequences(run) else ())
    return tuple(name for name in COSTLY if name not in known)


def _are_sequences(run: Run) -> bool:
    return run.has("data.json") and run.meta().task == "sequence"


def left_out(run: Run) -> dict[str, str]:
    """Why some of `COSTLY` could not be measured."""
    found: dict[str, str] = read_json(run.path / LEFT_OUT)["left_out"] if run.has(LEFT_OUT) else {}
    return found


def signs(run: Run) -> pd.DataFrame:
    """The table of `read`: a row for each training example, in order. Costs a pass over the training log."""
    return read(run).table


def missing(run: Run) -> dict[str, str]:
    """The reasons of `read`."""
    return read(run).missing


def read(run: Run) -> Signs:
    """Every score that the run can tell now, `memorization_se` beside memorization, and the reasons of the others."""
    known = _of_the_log(run) | _of_the_stage(run) | {str(name): c.to_numpy() for name, c in _costly(run).items()}
    found = subsets.found(run)
    if found is not None:
        known["memorization"], known[STANDARD_ERROR] = found.estimate.memorization, found.estimate.se
        known["consistency"] = memorization.consistency(found.estimate.accuracy_out[None])
    order = [name for name in (*SIGNS, STANDARD_ERROR) if name in known]
    table = pd.DataFrame({name: np.asarray(known[name], dtype=np.float64) for name in order})
    return Signs(table, {name: _reason(run, name) for name in SIGNS if name not in known})


def _of_the_stage(run: Run) -> dict[str, memorization.proxies.Array]:
    if not run.has(MEMORIZED):
        return {}
    table = run.table("memorization")
    known = {"self_influence": table["self_influence"].to_numpy(), "harm": -table["held_out"].to_numpy()}
    more = [name for name in ("csl", "neighbor_loss") if name in table and np.isfinite(table[name]).all()]
    return known | {name: table[name].to_numpy() for name in more}


def _of_the_log(run: Run) -> dict[str, memorization.proxies.Array]:
    fields = {field for needed in memorization.PROXIES.values() for field in needed.split(", ")}
    log = {field: values for field in sorted(fields) if (values := run.training_log(field)) is not None}
    log = {field: values for field, values in log.items() if np.isfinite(values).all()}
    made = {}
    for name, needed in memorization.PROXIES.items():
        columns = needed.split(", ")
        if all(column in log for column in columns):
            made[name] = getattr(memorization, name)(*(log[column] for column in columns))
    return made


def _costly(run: Run) -> pd.DataFrame:
    return pd.read_parquet(run.path / TABLE) if run.has(TABLE) else pd.DataFrame()


def _reason(run: Run, name: str) -> str:
    """Why a score is not there."""
    if name in NOT_OF_SEQUENCES and _are_sequences(run):
        return NOT_OF_SEQUENCES[name]
    if name in ("self_influence", "harm"):
        return "not measured yet: the job measures it after the scores"
    if name in COSTLY:
        return _why_not_measured(run, name)
    if name in ("memorization", "consistency"):
        if weights_given(run):
            return "needs a training to repeat: the weights were given"
        return subsets.left_out(run) or "not measured yet: it trains models on random subsets"
    if run.has("data.json") and name in OF_CLASSES and run.meta().task == "regression":
        return "needs classes: this is a regression"
    if weights_given(run):
        return "needs the training log: the weights were given"
    if not run.has(MEMORIZED):
        return "not measured yet: the job has not come to it"
    return "not in this run, which an older version made: compute it again to have it"


def _why_not_measured(run: Run, name: str) -> str:
    if in_memory(run):
        return "needs data and model in files: this run was made from objects of a Python process"
    if name == "holdout_retraining" and weights_given(run):
        return "needs the recipe of the training: the weights were given"
    return left_out(run).get(name) or "not measured yet: it takes passes over the data"
