"""What did the user ask for, as a spec? Checks names, numbers and files before any worker is started.

Loads no data and trains nothing; what only the data can tell is said by the job.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from explorer import models, sources, transformer
from explorer.contracts import Recipe, RunSpec, Task
from explorer.errors import ModelError, RunError, SettingsError
from explorer.evidence import FEWEST
from explorer.influence.trak import TRAK
from explorer.jobs import settings as method_settings
from explorer.jobs.subject import FromSpec, file_hash
from explorer.sources.planted import Planted
from explorer.store import Run

AUTO = "auto"
METHODS: dict[Task, str] = {"classification": "last-layer", "regression": "last-layer", "sequence": "ekfac"}
"""The method for a task where none is named."""
OF_ONE_ANSWER = (TRAK.name,)
"""Methods that do not take sequences."""
SEQUENCE_RATE, SEQUENCE_BATCH = 0.2, 16
"""Of the recipe for sequences: the reference transformer then fits 300 short lines in 30 epochs as well as with Adam; at .05 and
64 it is still far from it."""


@dataclass(frozen=True)
class Request:
    """A run in the user's words.

    `data` is a source's name or an `.npz` or `.jsonl` path; `flip` and `duplicate` are shares of planted faults; `model` is
    "auto", a reference network, or "FILE.py:FUNCTION" / "MODULE:FUNCTION"; `weights` is a file of trained weights;
    `method` and `recipe` are those of the task where they are None (`METHODS`, `recipe_for`);
    `settings` are the method's, as values or as typed words; `damping` and `layers` are short for settings of these names;
    `queries` is how many test predictions to explain, worst first; `query_ids` instead names them: ids separated by
    commas, or a file with one id a line; `evidence` is how many models are trained again on random halves (0 = none).
    """

    data: str
    flip: float = 0.0
    duplicate: float = 0.0
    model: str = AUTO
    weights: str | None = None
    method: str | None = None
    damping: float | None = None
    recipe: Recipe | None = None
    queries: int | None = None
    query_ids: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    layers: str | None = None
    evidence: int = 0


def plan(request: Request) -> RunSpec:
    """The spec of a request.

    Raises:
        ExplorerError: an unknown name, a number out of range, or a missing file, in words.
    """
    if request.queries is not None and request.queries < 1:
        raise SettingsError(f"Expected at least one query; found {request.queries}. Leave it out for all of them.")
    if request.queries is not None and request.query_ids is not None:
        raise SettingsError(
            f"Expected how many queries or their ids; found both ({request.queries}, {request.query_ids!r}). Leave out one."
        )
    if request.evidence != 0 and request.evidence < FEWEST:
        raise SettingsError(
            f"Expected 0 retrainings for evidence, or {FEWEST} and more; found {request.evidence}. Ask for 12."
        )
    source = sources.from_name(request.data)
    task = sources.task_hint(source)
    recipe = request.recipe or recipe_for(task)
    method = request.method or METHODS[task]
    _check_task(task, request, method)
    if request.flip or request.duplicate:
        source = Planted(source, flip=request.flip, duplicate=request.duplicate, seed=recipe.seed)
    shortcuts = {"damping": request.damping, "layers": request.layers}
    given = method_settings.with_shortcuts(method, request.settings, shortcuts)
    _, settings = method_settings.checked(method, given)
    method_settings.check_of_one_training(method, settings)
    return RunSpec(
        source=source.spec(),
        model=_model_spec(request.model, request.weights),
        recipe=asdict(recipe),
        method={"name": method, "settings": settings},
        queries=request.queries if request.query_ids is None else read_ids(request.query_ids),
        seed=recipe.seed,
        evidence=request.evidence,
    )


def _check_task(task: Task, request: Request, method: str) -> None:
    """Raises an ExplorerError for what the data cannot be asked for, before a job loads them."""
    sequences = task == "sequence"
    if sequences and request.flip:
        raise SettingsError(
            f"Expected flip = 0 for sequences, which have no classes; found flip = {request.flip}. Plant duplicates only."
        )
    if ":" not in request.model and request.model != AUTO and sequences != (request.model == transformer.KIND):
        what = "sequences of tokens" if sequences else "examples with one target each"
        raise ModelError(
            f"Expected a model for {what}; found {request.model!r}. Leave it to {AUTO}, or bring a network of your own."
        )
    if sequences and method in OF_ONE_ANSWER:
        raise SettingsError(
            f"Expected a method for sequences, which have an answer at every position; found {method!r}, which takes one "
            "answer an example. Choose ekfac or logra."
        )


def recipe_for(task: Task, **given: Any) -> Recipe:
    """The project's recipe for a task, with the settings that were given."""
    return Recipe(**({"rate": SEQUENCE_RATE, "batch_size": SEQUENCE_BATCH} if task == "sequence" else {}) | given)


def recipe_of(data: str, **given: Any) -> Recipe:
    """The recipe for data as it is named on a command line.

    Raises:
        ExplorerError: there is no such data, or a setting is out of range.
    """
    return recipe_for(sources.task_hint(sources.from_name(data)), **given)


def read_ids(text: str) -> tuple[str, ...]:
    """Sorted ids, each once, from a file with one id a line or a list separated by commas.

    Raises:
        SettingsError: no id is left, or the file is no text.
    """
    file = Path(text).expanduser()
    try:
        is_file = file.is_file()
    except OSError:  # a long list is no name of a file
        is_file = False
    try:
        names = file.read_text(encoding="utf-8").splitlines() if is_file else text.split(",")
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"Expected a text file with one id a line in {file}; found: {error}. Save it as UTF-8, or list the ids."
        ) from error
    found = tuple(sorted({name.strip() for name in names} - {""}))
    if not found:
        raise SettingsError(
            f"Expected ids of test examples, separated by commas or one a line in a file; found none in {text!r}. "
            "Leave it out to explain all of them."
        )
    return found


def ingredients_of(run: Run) -> FromSpec:
    """What a worker needs to begin a run again from its directory.

    Raises:
        RunError: the run was made from objects of another process, which no file can bring back.
    """
    if run.spec["source"]["kind"] == "memory":
        raise RunError(
            f"Expected a run that can be rebuilt from files; found {run.key}, made by explorer.show from objects of a "
            "Python process. Call explorer.show (to go on) or explorer.explain (for a table) there again."
        )
    return FromSpec(run.spec["source"], run.spec["model"], int(run.spec["seed"]))


def _model_spec(model: str, weights: str | None) -> dict[str, Any]:
    spec: dict[str, Any]
    if ":" in model:
        place, _, function = model.rpartition(":")
        file = Path(place).expanduser()
        if place.endswith(".py"):
            if not file.is_file():
                raise ModelError(f"Expected a Python file at {file}; found none. Check the path before the colon.")
            factory = f"{file.absolute()}:{function}"
            spec = {"factory": {"path": factory, "function": function, "sha256": file_hash(file)}}
        else:
            spec = {"factory": {"path": model, "function": model}}
    elif model in (AUTO, *models.MODELS, transformer.KIND):
        spec = {"kind": model}
    else:
        raise SettingsError(
            f"Expected a model out of {AUTO}, {', '.join(models.MODELS)}, {transformer.KIND}, or FILE.py:FUNCTION; found {model!r}. "
            "Choose one of these."
        )
    if weights is not None:
        path = Path(weights).expanduser().absolute()
        if not path.is_file():
            raise ModelError(f"Expected a weights file (.safetensors, .pt) at {path}; found none. Check the path.")
        spec["weights"] = {"path": str(path), "sha256": file_hash(path)}
    return spec
