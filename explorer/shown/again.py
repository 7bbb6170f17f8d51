"""How is a run made again with another method? The line for a terminal, from what the run's spec says.

Checks nothing against the disk and starts nothing; says None where no line can name the data or the model.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from explorer.contracts import Recipe
from explorer.store import Run

TYPED = ("epochs", "rate", "weight_decay", "batch_size", "seed")
"""Settings of the recipe that have an option; the others are always as they are by default."""
OF_THE_TASK = ("rate", "batch_size")
"""Those whose default depends on the task."""
LONGEST = 400
"""Characters of a list of ids that are still repeated; a longer one is left out, and all predictions are explained."""


def again(run: Run, method: str) -> str | None:
    """The command that explains the subject of `run` by `method`, into the same folder, with the method's own defaults.

    None where no command can: the run was made from objects in memory, or with settings that have no option.
    """
    spec = run.spec
    data, model, recipe = (
        _data(spec),
        _model(spec["model"]),
        _recipe(spec, OF_THE_TASK if _may_be_sequences(run) else ()),
    )
    if data is None or model is None or recipe is None:
        return None
    options = {**data, **model, "--method": method, **recipe, **_queries(spec.get("queries"))}
    options["--runs"] = str(run.path.parent)
    return "explorer run " + " ".join(f"{name} {shlex.quote(str(value))}" for name, value in options.items())


def _data(spec: Mapping[str, Any]) -> dict[str, Any] | None:
    """`--data` and the planted faults."""
    source, faults = spec["source"], {}
    if source.get("kind") == "planted":
        if source["seed"] != spec["recipe"].get("seed"):
            return None
        faults = {f"--{name}": source[name] for name in ("flip", "duplicate") if source[name]}
        source = source["source"]
    if source.get("kind") == "memory" or set(source) - {"kind", "path", "sha256"}:
        return None
    return {"--data": source.get("path", source["kind"]), **faults}


def _model(model: Mapping[str, Any]) -> dict[str, Any] | None:
    """`--model` and `--weights`."""
    if model.get("kind") == "memory":
        return None
    name = model["factory"]["path"] if "factory" in model else model.get("kind", "auto")
    weights = {"--weights": model["weights"]["path"]} if "weights" in model else {}
    return ({} if name == "auto" else {"--model": name}) | weights


def _may_be_sequences(run: Run) -> bool:
    """Whether the run may be one of sequences, whose defaults are others: known for sure once its data are written."""
    if run.has("data.json"):
        return run.meta().task == "sequence"
    return str(run.spec["source"].get("path", "")).endswith((".npz", ".jsonl"))


def _recipe(spec: Mapping[str, Any], always: Sequence[str]) -> dict[str, Any] | None:
    """Options of the training that are not as by default, and those that are said `always`."""
    usual, said = asdict(Recipe()), spec["recipe"]
    changed = {n: value for n, value in said.items() if n in always or n not in usual or value != usual[n]}
    if set(changed) - set(TYPED) or spec.get("seed") != said.get("seed"):
        return None
    return {f"--{name.replace('_', '-')}": value for name, value in changed.items()}


def _queries(queries: Any) -> dict[str, Any]:
    """`--queries` or `--query-ids`; nothing where all are explained or their ids cannot be listed."""
    if queries is None or isinstance(queries, int):
        return {} if queries is None else {"--queries": queries}
    text = ",".join(queries)
    listed = len(text) <= LONGEST and not any("," in name for name in queries)
    return {"--query-ids": text} if listed else {}
