"""What will a run cost, before it is started? Time by stage, memory and disk, from a few seconds of probing.

Loads the data, builds the model and tries the method on samples of it, and how long a file takes to be written; starts no
job and keeps nothing.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from explorer import maps, training
from explorer.contracts import Dataset, Examples, Recipe, RunSpec
from explorer.errors import StorageError
from explorer.jobs import sizes
from explorer.jobs.evidence import asked_of, obstacle
from explorer.jobs.layer_names import method_for
from explorer.jobs.pipeline import EVIDENCE, stages_of
from explorer.jobs.planning import Request, plan
from explorer.jobs.predictions import Reader, reader_of
from explorer.jobs.probe import BUDGET, COMPARED, INPUTS, probe
from explorer.jobs.sizes import Shape
from explorer.jobs.subject import FromSpec, make_subject, outputs_of
from explorer.jobs.timings import Line, Timings
from explorer.store import write_bytes

WRONG_SHARE = 0.1
"""Share of test predictions taken to be wrong where the model is not trained yet: these are explained twice."""
EVALUATED = 512
"""Test examples on which a trained model's share of wrong predictions is looked at."""
PREVIEWS = 200
"""Examples whose previews are made to see how long that takes."""
COMPILING, LOADING = 12.0, 3.0
"""Seconds until UMAP begins: where no process has compiled it before (12 to 15 on the four cores where it was measured), else
to load it (3.5 s in all for 178 rows, same place)."""
LAYOUT_STEP = 3e-6
"""Seconds of UMAP's layout by the row and epoch (2.7 s for 1,619 rows more at 500 epochs, same place)."""
LONG_LAYOUT, SHORT_LAYOUT, SHORT_FROM = 500, 200, 10_000
"""UMAP's own epochs: the longer layout for up to that many rows."""
INDEXING, INDEXING_ROW = 20.0, 3e-4
"""Seconds of neighbors beyond `maps.EXACT_POINTS`: to compile, and by the row."""

BUSY = 1.5
"""Seconds that pass for each that is computed, from which on it is said."""


@dataclass(frozen=True)
class Estimate:
    """What a run will cost.

    `seconds` by stage, in the words and order of a job's own timings; None where nothing could be measured. `basis` says
    where each comes from, `sure` how far to trust them all. `memory` (at the most) and `disk` are bytes, beside what is
    free now; `parts` are the bytes on the disk by what they hold. `queries` are explained for their label, `answers` for
    the model's own answer as well.
    """

    seconds: Mapping[str, float | None]
    basis: Mapping[str, str]
    sure: str
    memory: int
    memory_free: int
    disk: int
    disk_free: int
    parts: Mapping[str, int]
    train: int
    test: int
    queries: int
    answers: int
    parameters: int

    @property
    def total(self) -> float:
        """Seconds of all stages that could be measured."""
        return sum(value for value in self.seconds.values() if value is not None)


def estimate(request: Request, folder: Path, budget: float = BUDGET) -> Estimate:
    """The cost of the run of a request in the folder of runs; takes as long as loading the data and `budget` seconds.

    Every stage but the maps is timed on samples and scaled: by the row (two samples tell what is fixed), scores also by the
    query, neighbors and what is solved for every row by the square of the rows, training by epochs; and each file costs
    what one costs there now. What is scaled are the seconds of computing, times how much longer they last just now: how
    busy the machine is then does not enter with each sample anew.

    Raises:
        ExplorerError: what `plan` raises, or what the run would end with.
    """
    spec = plan(request)
    ingredients = FromSpec(spec.source, spec.model, int(spec.seed))
    began = time.perf_counter()
    data = ingredients.dataset()
    loading = time.perf_counter() - began
    recipe = Recipe(**spec.recipe)
    model = ingredients.model(data)
    method = method_for(data.task, spec.method)
    refused = obstacle(model, data.train, recipe, spec.evidence, trained=ingredients.trained) if spec.evidence else ""
    shape = _shape(spec, data, model, recipe, ingredients.trained)
    shape = replace(shape, checked=0 if refused else shape.checked)
    timings = probe(
        data, model, method, recipe, trained=ingredients.trained, queries=shape.explained,
        retrainings=shape.retrained if shape.checked else 0, checked=shape.checked, budget=budget,
    )  # fmt: skip
    timings.left_out = timings.left_out or refused
    shape = with_fitted(shape, timings)
    a_file = seconds_a_file(folder, shape.weights * sizes.MOMENTS)
    seconds = stages(shape, timings, loading + _previews(data), a_file)
    parts = sizes.disk(shape)
    place = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    return Estimate(
        seconds=seconds,
        basis={stage: _basis(stage, shape, timings) for stage in seconds},
        sure=_sure(shape, timings, ingredients.trained),
        memory=sizes.memory(shape, psutil.Process().memory_info().rss),
        memory_free=int(psutil.virtual_memory().available),
        disk=sum(parts.values()),
        disk_free=shutil.disk_usage(place).free,
        parts=parts,
        train=shape.train,
        test=shape.test,
        queries=shape.queries,
        answers=shape.answers,
        parameters=sum(p.numel() for p in model.parameters()),
    )


def stages(shape: Shape, timings: Timings, loading: float, a_file: float) -> dict[str, float | None]:
    """Seconds by stage: `timings` scaled to the shape, `loading` seconds for the data, `a_file` for each file written."""
    n, files, order = shape.train, sizes.files(shape), stages_of({EVIDENCE: shape.retrained})
    parts = [part for part in order if part != "neighbors"]
    by_row = {part: cost for part in parts if (cost := timings.seconds(part, n)) is not None}
    found: dict[str, float | None] = dict.fromkeys(order) | by_row
    found["data"] = loading
    found["training"] = by_row.get("training", 0.0) * shape.epochs
    if EVIDENCE in order:
        found[EVIDENCE] = by_row.get(EVIDENCE, 0.0) * shape.epochs
    if "scores" in by_row:
        a_query = by_row["scores"] / timings.queries
        found["scores"] = a_query * shape.explained
        compared = timings.line(COMPARED)  # without it, the method has but one damping, and its scores are asked for
        one = a_query * shape.checked if compared is None else compared.at(n)
        found["curvature"] = by_row["curvature"] + one * timings.candidates * bool(shape.checked)
    for part in by_row:
        found[part] = (found[part] or 0.0) + timings.starting(part)
    nearest = timings.line(INPUTS)
    if nearest is not None and found["memorization"] is not None:
        found["memorization"] += timings.starting(INPUTS) + _searched(nearest, n, timings)
    search = timings.line("neighbors")
    if search is not None:
        exact = shape.points <= maps.EXACT_POINTS
        busy = max(1.0, timings.busy)
        found["neighbors"] = timings.starting("neighbors") + (
            search.at(n * n) if exact else busy * (INDEXING + INDEXING_ROW * shape.points)
        )
        found["map (UMAP)"] = busy * layout(shape.points) + search.each * n * min(n, maps.FITTED_ROWS)
    return {stage: None if found[stage] is None else found[stage] + files.get(stage, 0) * a_file for stage in order}  # type: ignore[operator]


def _searched(nearest: Line, n: int, timings: Timings) -> float:
    """Seconds of the search for neighbors by inputs among n examples."""
    return nearest.at(n * n) if n <= maps.EXACT_POINTS else max(1.0, timings.busy) * (INDEXING + INDEXING_ROW * n)


def layout(points: int) -> float:
    """Seconds of a UMAP layout of that many points: compiling or loading, and epochs of what is fitted."""
    fitted = min(points, maps.FITTED_ROWS)
    return (LOADING if maps.is_compiled() else COMPILING) + LAYOUT_STEP * fitted * (
        LONG_LAYOUT if fitted <= SHORT_FROM else SHORT_LAYOUT
    )


def seconds_a_file(folder: Path, size: int) -> float:
    """Seconds that writing and flushing a file of `size` bytes takes where the run will be; 0 where none can be."""
    place = next((parent for parent in (folder, *folder.parents) if parent.is_dir()), Path.cwd())
    data = bytes(size)
    try:
        with tempfile.TemporaryDirectory(prefix=".probe-", dir=place) as temporary:
            taken = []
            for number in range(3):
                began = time.perf_counter()
                write_bytes(Path(temporary) / str(number), data)
                taken.append(time.perf_counter() - began)
            return float(np.median(taken))
    except (OSError, StorageError):
        return 0.0


def with_fitted(shape: Shape, timings: Timings) -> Shape:
    """The shape with the bytes of the fitted method, as its tensors grew from sample to sample, and its grid of dampings;
    without evidence that is left out."""
    line = timings.line("fitted")
    known = replace(shape, dampings=timings.dampings)
    known = known if line is None else replace(known, fitted=round(line.at(shape.train)))
    return replace(known, checked=0) if timings.left_out else known


def _shape(spec: RunSpec, data: Dataset, model: torch.nn.Module, recipe: Recipe, trained: bool) -> Shape:
    n, tests = len(data.train), len(data.test)
    asked, reader = spec.queries, reader_of(make_subject(model, data, recipe.weight_decay))
    queries = len(asked) if isinstance(asked, tuple | list) else min(tests, asked or tests)
    return Shape(
        train=n,
        test=tests,
        queries=queries,
        answers=_answers(data, reader, queries, named=isinstance(asked, tuple | list), trained=trained),
        outputs=0 if data.task == "sequence" else outputs_of(data),  # theirs are not kept
        features=reader.width,
        weights=sum(t.numel() * t.element_size() for t in model.state_dict().values()),
        epochs=0 if trained else training.resolve_epochs(recipe, n),
        previews=_preview_bytes(data.train),
        fitted=0,
        classes=len(data.classes),
        inputs=0 if trained or data.task != "classification" else data.train.batch(np.arange(1)).numel(),
        retrained=spec.evidence,
        checked=len(asked_of(data, spec.method["name"]).rows) if spec.evidence else 0,
    )


def _answers(data: Dataset, reader: Reader, queries: int, *, named: bool, trained: bool) -> int:
    """How many queries are explained for the model's own answer too: wrong ones, which come first; all of a regression."""
    if data.task == "regression":
        return queries
    share = WRONG_SHARE
    if trained:
        rows = np.random.default_rng(0).permutation(len(data.test))[:EVALUATED].astype(np.int64)
        share = float(reader.read(data.test, rows).outcomes["wrong"].mean())
    return round(share * queries) if named else min(queries, round(share * len(data.test)))


def _preview_bytes(examples: Examples) -> int:
    """Bytes that the preview of an example takes; of texts on average."""
    shown = vars(examples.preview(0)).values()
    if all(isinstance(value, str) for value in shown):
        few = [examples.preview(row) for row in range(min(PREVIEWS, len(examples)))]
        return round(sum(len(text.encode()) for one in few for text in vars(one).values()) / len(few))
    return sum(value.nbytes for value in shown if isinstance(value, np.ndarray))


def _previews(data: Dataset) -> float:
    """Seconds to make every example's preview, from a few."""
    count = min(PREVIEWS, len(data.train))
    began = time.perf_counter()
    for row in range(count):
        data.train.preview(row)
    return (time.perf_counter() - began) / count * (len(data.train) + len(data.test))


def _basis(stage: str, shape: Shape, timings: Timings) -> str:
    if stage == "data":
        return "loaded"
    if stage == "map (UMAP)":
        return "not tried: from figures of another machine"
    if stage == "training" and not shape.epochs:
        return "weights are given"
    if stage == EVIDENCE and timings.left_out:
        return f"left out: {timings.left_out}"
    rows = timings.largest(stage)
    if stage == "neighbors":
        if shape.points > maps.EXACT_POINTS:
            return "not tried: from figures of another machine"
        rows = round(rows**0.5)
    if not rows:
        return "not known" + (f": {timings.given_up}" if timings.given_up else "")
    return "tried on all rows" if rows >= shape.train else f"scaled from {rows:,} of {shape.train:,} rows"


def _sure(shape: Shape, timings: Timings, trained: bool) -> str:
    """How far to trust it, in words: by the size of the sample, and by what the model still has to become."""
    rows = timings.largest("scores")
    if not rows:
        return f"Only a lower bound: {timings.given_up or 'the method could not be tried'}. Choose a cheaper method."
    far = shape.train / rows
    within = "a factor of 2" if far <= 4 else "a factor of 3" if far <= 16 else "a factor of 5"
    if timings.given_up:
        within = "no more than a guess"
    own = "" if trained else " The model is not trained yet; a tenth of its predictions is taken to be wrong."
    if timings.busy >= BUSY:
        own += f" Others are at work: all takes {timings.busy:.1f} times as long as it would alone."
    return (
        f"Time {'within ' if 'factor' in within else 'is '}{within}, on this machine as busy as it is now; disk within a "
        f"tenth; memory at the most.{own}"
    )


def check_room(found: Estimate) -> list[str]:
    """What does not fit, in words; empty where all does."""
    words = (
        ("memory", found.memory, found.memory_free, "Ask for fewer queries, or choose another method."),
        ("room on the disk", found.disk, found.disk_free, "Ask for fewer queries, or free some space."),
    )
    return [
        f"Expected {need / 1e9:,.1f} GB of {what}; found {free / 1e9:,.1f} GB free. {todo}"
        for what, need, free, todo in words
        if need > free
    ]


def as_json(found: Estimate) -> dict[str, Any]:
    """All of it as plain JSON, with the total and what does not fit."""
    plain = {name: dict(value) if isinstance(value, Mapping) else value for name, value in vars(found).items()}
    return plain | {"total": found.total, "warnings": check_room(found)}
