"""What was memorized, and what helps against it? `memorized`, `act` and `clean`: ask a run, wait, and say what came out.

Reads options and writes lines; the work is done by the run's job.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from explorer.cli_run import left_alone, rows_of, runs_option
from explorer.errors import SettingsError

if TYPE_CHECKING:
    from explorer.jobs import cleaning, remedies
    from explorer.store import Run

TOP = 10
"""Suspects that are listed."""
background_option = click.option("--background", is_flag=True, help="Start the job and return at once.")
json_option = click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")


@click.command("memorized")
@click.argument("name", default="latest")
@click.option("--models", type=int, help="Train models on random subsets until there are this many, 20 or more.")
@click.option("--minutes", type=float, help="Train as many as fit into this time, at least 20.")
@click.option("--top", type=click.IntRange(0), default=TOP, show_default=True, help="Suspects to list.")
@background_option
@json_option
@runs_option
def memorized_command(
    name: str, models: int | None, minutes: float | None, top: int, background: bool, as_json: bool, folder: str | None
) -> None:
    """What did the model of run NAME memorize? Without --models or --minutes: what is known already; nothing is started."""
    from explorer.jobs import further, signs, subsets

    if models is not None and minutes is not None:
        raise click.UsageError("Expected --models or --minutes; found both. Leave out one.")
    run = _find(folder, name)
    if models is not None or minutes is not None:
        request = subsets.SubsetRequest(models, None if minutes is None else 60 * minutes)
        subsets.ask(run, request)
        signs.ask(run)
        if left_alone(run, lambda: bool(further.pending(run)), background, as_json):
            return
    told = known(run, top)
    click.echo(json.dumps(told, ensure_ascii=False) if as_json else _in_words(run, told))


@click.command("act")
@click.argument("name")
@click.argument("action", type=click.Choice(["relabel", "drop", "downweight"]))
@click.option("--ids", metavar="IDS|FILE", help="Training examples: ids with commas, or a file with one id a line.")
@click.option("--suspects", type=click.IntRange(1), metavar="K", help="The K most suspect training examples.")
@click.option("--to", metavar="CLASS", help="With relabel: the new label of all [default: one suggested for each].")
@click.option("--weight", type=float, default=0.1, show_default=True, help="With downweight: what their loss counts.")
@click.option("--seeds", type=int, default=10, show_default=True, help="Trainings of each of the three kinds.")
@background_option
@json_option
@runs_option
def act_command(
    name: str,
    action: Any,
    ids: str | None,
    suspects: int | None,
    to: str | None,
    weight: float,
    seeds: int,
    background: bool,
    as_json: bool,
    folder: str | None,
) -> None:
    """Retrain run NAME with some training examples relabeled, dropped or downweighted, and without as many random others."""
    from explorer.jobs import remedies

    if (ids is None) == (suspects is None):
        raise click.UsageError(
            f"Expected --ids or --suspects; found {'neither' if ids is None else 'both'}. Name the examples one way."
        )
    if to is not None and action != "relabel":
        raise click.UsageError(f"Expected --to with relabel; found it with {action}. Leave it out.")
    run = _find(folder, name)
    _check_measured(run)
    rows = remedies.suspects(run, suspects) if suspects is not None else rows_of(run, "train", str(ids))
    labels: tuple[float, ...] | None = None
    named = len(rows)
    if action == "relabel":
        chosen = _labels(run, rows, to)
        rows, labels = tuple(row for row, _ in chosen), tuple(label for _, label in chosen)
    key = remedies.ask(run, remedies.Remedy(action, rows, labels, weight, seeds=seeds))
    if left_alone(run, lambda: not _remedy(run, key).complete, background, as_json):
        return
    asked = _remedy(run, key)
    click.echo(_remedy_as_json(asked) if as_json else _remedy_in_words(run, asked, named - len(rows)))


@click.command("clean")
@click.argument("name", default="latest")
@click.option(
    "--share", type=float, default=0.02, show_default=True, help="Share of the training set to remove a round."
)
@click.option("--rounds", type=int, default=10, show_default=True, help="Rounds at most.")
@click.option("--patience", type=int, default=2, show_default=True, help="Rounds without a lower loss before it stops.")
@click.option(
    "--seeds", type=int, default=5, show_default=True, help="Trainings a round, and as many without random ones."
)
@background_option
@json_option
@runs_option
def clean_command(
    name: str,
    share: float,
    rounds: int,
    patience: int,
    seeds: int,
    background: bool,
    as_json: bool,
    folder: str | None,
) -> None:
    """Take the most suspect examples out of run NAME, a few at a time, for as long as the held-out loss falls."""
    from explorer.jobs import cleaning

    run = _find(folder, name)
    key = cleaning.ask(run, cleaning.Cleaning(share, rounds, patience, seeds))
    if left_alone(run, lambda: not _cleaning(run, key).complete, background, as_json):
        return
    asked = _cleaning(run, key)
    click.echo(_cleaning_as_json(asked) if as_json else _cleaning_in_words(run, asked))


def known(run: Run, top: int = TOP) -> dict[str, Any]:
    """What the run knows of memorization, JSON-ready: flags, subset models, every score's rank correlation with them (with
    the suspect score where there are none) or why it is missing, and the most suspect examples."""
    from explorer.jobs import signs, subsets
    from explorer.store import read_json

    _check_measured(run)
    table, read, found = run.table("memorization"), signs.read(run), subsets.found(run)
    against = "memorization" if found is not None else "score"
    truth = read.table["memorization"].to_numpy() if found is not None else table["score"].to_numpy()
    agreement = {
        name: _spearman(read.table[name].to_numpy(), truth)
        for name in signs.SIGNS
        if name in read.table and name != against
    }
    identity = run.table("train")
    return {
        "run": run.key,
        "basis": read_json(run.path / "summary.json")["basis"],
        "flagged": int(table["memorized"].sum()),
        "train": len(table),
        "models": 0 if found is None else found.estimate.models,
        "planned": 0 if found is None else found.planned,
        "complete": found is not None and found.complete,
        "memorized": None if found is None else int(found.estimate.flagged.sum()),
        "left_out": subsets.left_out(run),
        "against": against,
        "spearman": agreement,
        "missing": read.missing,
        "suspects": [
            {
                "id": str(identity["id"].iloc[row]),
                "z": float(table["z"].iloc[row]),
                "memorized": bool(table["memorized"].iloc[row]),
                **_estimated(read.table, row),
            }
            for row in _suspects(run, top)
        ],
    }


def _spearman(score: NDArray[np.float64], truth: NDArray[np.float64]) -> float | None:
    """Rank correlation over the examples where both are known; None where one of them does not vary."""
    from scipy.stats import spearmanr

    both = np.isfinite(score) & np.isfinite(truth)
    if both.sum() < 2 or np.ptp(score[both]) == 0 or np.ptp(truth[both]) == 0:
        return None
    return float(spearmanr(score[both], truth[both]).statistic)


def _estimated(table: Any, row: int) -> dict[str, float | None]:
    """Memorization of a row and its standard error, where subset models were trained; None for NaN."""
    names = [name for name in ("memorization", "memorization_se") if name in table]
    values = {name: float(table[name].iloc[row]) for name in names}
    return {name: value if value == value else None for name, value in values.items()}


def _in_words(run: Run, told: dict[str, Any]) -> str:
    from explorer.jobs.signs import SIGNS

    lines = [
        f"Run {told['run']}: {told['flagged']:,} of {told['train']:,} training examples are flagged as suspect by "
        f"{told['basis']} (robust z > 3)."
    ]
    if told["models"]:
        rest = "" if told["complete"] else f" of {told['planned']:,} planned"
        lines.append(
            f"By {told['models']:,} models{rest}, each trained on a random 70 %, {told['memorized']:,} are memorized: having them "
            "makes the right answer likelier by more than .25, and by more than two standard errors."
        )
    elif told["left_out"]:
        lines.append(f"Memorization by retraining is not known: {told['left_out']}")
    what = "memorization by retraining" if told["against"] == "memorization" else "the suspect score"
    lines += ["", f"Rank correlation of every score with {what}:"]
    width = max(len(words) for words, _ in SIGNS.values())
    lines += [f"  {SIGNS[name][0]:<{width}}  {_number(value)}" for name, value in told["spearman"].items()]
    lines += [f"  {SIGNS[name][0]:<{width}}  {reason}" for name, reason in told["missing"].items()]
    if told["suspects"]:
        lines += ["", "Most suspect first:"]
    lines += [f"  {one['id']}  z {one['z']:.1f}{_memorization(one)}" for one in told["suspects"]]
    if not told["models"] and not told["left_out"]:
        lines += ["", f"Measure it by retraining: explorer memorized {run.key} --minutes 2"]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "does not vary" if value is None else f"{value:+.2f}"


def _memorization(one: dict[str, Any]) -> str:
    value = one.get("memorization")
    return "" if value is None else f"  memorization {value:.2f} ± {2 * (one['memorization_se'] or 0):.2f}"


def _remedy_as_json(asked: remedies.Asked) -> str:
    told = {"key": asked.key, "complete": asked.complete, "left_out": asked.left_out, "folder": str(asked.folder)}
    return json.dumps(told | {"outcome": asked.outcome}, ensure_ascii=False)


def _remedy_in_words(run: Run, asked: remedies.Asked, left_out: int) -> str:
    if asked.outcome is None:
        return asked.left_out or f"Run {run.key} was stopped before a training was done."
    found, count = asked.outcome["effects"], len(asked.remedy.rows)
    lines = [
        f"{asked.remedy.action} {count:,} training examples, {len(asked.outcome['seeds'])} seeds of {asked.remedy.seeds}:"
    ]
    hurt = f"log-probability of the {len(asked.outcome['queries'])} test labels that they hurt most"
    names = {"accuracy": "test accuracy", "loss": "test loss", "asked": hurt}
    for of, words in names.items():
        for against, beside in (("before", "before"), ("random", f"without {count:,} random others")):
            effect = found[against][of]
            if effect["mean"] is not None:
                lines.append(f"  {words}: {_interval(effect)} against {beside}")
    if left_out:
        lines.append(f"{left_out:,} kept their label: neither the model nor their neighbors say another.")
    lines.append(
        f"The cleaned data: {asked.folder / 'cleaned.npz'} (for --data); the changes: {asked.folder / 'changes.csv'}"
    )
    return "\n".join(lines)


def _interval(effect: dict[str, float | None]) -> str:
    mean, low, high = effect["mean"], effect["low"], effect["high"]
    return f"{mean:+.4f}" + ("" if low is None or high is None else f" ({low:+.4f} to {high:+.4f})")


def _cleaning_as_json(asked: cleaning.Asked) -> str:
    told = {"key": asked.key, "complete": asked.complete, "left_out": asked.left_out, "folder": str(asked.folder)}
    return json.dumps(told | {"rounds": asked.rounds, "summary": asked.summary}, ensure_ascii=False)


def _cleaning_in_words(run: Run, asked: cleaning.Asked) -> str:
    if not asked.rounds:
        return asked.left_out or f"Run {run.key} was stopped before a round was done."
    lines = ["  round    kept  loss (stops)  loss (reported)  without random ones"]
    for one in asked.rounds:
        kept = " <- kept" if one["number"] == asked.stopped_at else ""
        means = [one[name]["mean"] for name in ("stop_loss", "report_loss", "random_report_loss")]
        lines.append(
            f"  {one['number']:>5}  {one['kept']:>6,}  {means[0]:>12.4f}  {means[1]:>15.4f}  {means[2]:>19.4f}{kept}"
        )
    if asked.left_out:
        lines.append(asked.left_out)
    elif not asked.complete:
        lines.append(f"The loop was stopped; `explorer resume {run.key}` goes on.")
    elif asked.summary["removed"]:
        lines.append(
            f"Taken out: {asked.summary['removed']:,}. The cleaned data: {asked.folder / 'cleaned.npz'} (for --data); the "
            f"changes: {asked.folder / 'changes.csv'}"
        )
    else:
        lines.append("Taking out the most suspect examples does not lower the held-out loss: keep them all.")
    return "\n".join(lines)


def _find(folder: str | None, name: str) -> Run:
    from explorer.store import find, runs_root

    return find(runs_root(folder), name)


def _check_measured(run: Run) -> None:
    from explorer.errors import RunError
    from explorer.jobs import read_state

    if not (run.has("memorization.parquet") and run.has("summary.json")):
        raise RunError(
            f"Expected a run whose memorization was measured; found {run.key}, which is {read_state(run.path).state}. "
            f"Finish it: explorer resume {run.key}"
        )


def _suspects(run: Run, count: int) -> tuple[int, ...]:
    from explorer.jobs import remedies

    return remedies.suspects(run, count)


def _labels(run: Run, rows: tuple[int, ...], to: str | None) -> list[tuple[int, float]]:
    """The rows that get another label, each with it."""
    from explorer.jobs import remedies

    given = run.table("train")["label"].to_numpy()
    new = remedies.suggested(run, rows) if to is None else (_class(run, to),) * len(rows)
    chosen = [(row, label) for row, label in zip(rows, new, strict=True) if label is not None and label != given[row]]
    if not chosen:
        raise SettingsError(
            "Expected examples that get another label; found none: all bear the one that is suggested. Name one with --to."
        )
    return chosen


def _class(run: Run, text: str) -> float:
    meta = run.meta()
    if text in meta.classes:
        return meta.classes.index(text)
    try:
        return float(text) if meta.task == "regression" else int(text)
    except ValueError:
        raise SettingsError(
            f"Expected {'a number' if meta.task == 'regression' else 'a class out of ' + ', '.join(meta.classes)}; found "
            f"{text!r}. Choose one of these."
        ) from None


def _remedy(run: Run, key: str) -> remedies.Asked:
    from explorer.jobs import remedies

    return next(asked for asked in remedies.listed(run) if asked.key == key)


def _cleaning(run: Run, key: str) -> cleaning.Asked:
    from explorer.jobs import cleaning

    return next(asked for asked in cleaning.listed(run) if asked.key == key)
