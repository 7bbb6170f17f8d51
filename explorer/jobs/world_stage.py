"""Each new fact and rule taught alone, and told in the prompt, and what a model concludes: the worker of one world.

Writes block by block, so that a stopped worker goes on with the next; what is measured is `explorer.laboratory`'s.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from explorer.contracts import Progress
from explorer.errors import DataError
from explorer.jobs import worlds
from explorer.jobs.laboratory_stage import AT_ONCE, parts, settled, told_of
from explorer.jobs.process import carry_out, sole_worker, usable_cores
from explorer.jobs.scorecards import Wishes, finite, regime, wish
from explorer.jobs.state import JobState, StateWriter, process_born, read_state
from explorer.jobs.threads import threads, training_threads
from explorer.jobs.worlds import MATRIX, SCORECARD, STAGES, TINY, Experiment
from explorer.laboratory import desiderata, folder, logic, tiny
from explorer.laboratory.language import Sentences, Speaker
from explorer.laboratory.lessons import Taught
from explorer.laboratory.logic import SideBySide
from explorer.laboratory.settings import Teaching
from explorer.laboratory.statements import Statement
from explorer.laboratory.statistics import Array64
from explorer.laboratory.teaching import Bench
from explorer.store import bundle, read_json, write_bundle, write_json
from explorer.store.files import clear_leftovers

WEIGHTS = "tiny.safetensors"
"""The transformer that was trained on the world, so that who goes on does not train it again."""
TOLD_AT_ONCE = 8
"""Facts told in prompts before what they did is written."""
ASKED_AT_MOST = 200
"""Known sentences that a model is asked, to see whether it knows them."""


@dataclass(frozen=True, eq=False)
class Effects:
    """What each new statement does to each, taught and told, and to what else is asked."""

    taught: Taught
    prompt: Array64
    statements: tuple[Statement, ...]

    @property
    def values(self) -> Array64:
        """Taught, `[i, j]` over statements."""
        return self.taught.values[:, : len(self.statements)]

    @property
    def first_order(self) -> Array64:
        """As tiny steps would, `[i, j]` over statements."""
        assert self.taught.first_order is not None
        return self.taught.first_order[:, : len(self.statements)]


def run_as_worker(path: Path) -> JobState:
    """Do the experiment of a folder under its lock and write how it ended."""
    with sole_worker(path) as mine:
        before = read_state(path)
        if not mine or before.state == "done":
            return before
        clear_leftovers(path, lambda pid: pid != os.getpid() and process_born(pid) is not None)
        count = max(1, usable_cores() - 1)
        torch.set_num_threads(count)
        writer = StateWriter(path, os.getpid(), len(STAGES), count)
        carry_out(path, writer, lambda pen: run_world(worlds.read(path), pen), lambda _: "")
    return read_state(path)


def run_world(experiment: Experiment, writer: StateWriter) -> None:
    """Every stage of the experiment that is not done.

    Raises:
        ExplorerError: a model that cannot be read or trained, or words that it does not know.
    """
    asked = experiment.asked
    writer.stage(STAGES[0])
    speaker = _speaker(experiment, writer)
    with threads(training_threads(speaker.network, AT_ONCE)):
        writer.stage(STAGES[1])
        effects = _effects(experiment, speaker, writer)
        knows = _knows(experiment, speaker)
        write_bundle(experiment.folder / MATRIX, _arrays(effects))
        writer.stage(STAGES[2])
        settings = replace(asked.teaching, rate=effects.taught.rate, first_order=False)
        conclusions = _conclusions(experiment, speaker, settings, writer)
    write_json(experiment.folder / SCORECARD, _scorecard(experiment, speaker, effects, conclusions, knows))


def _conclusions(
    experiment: Experiment, speaker: Speaker, settings: Teaching, progress: Progress
) -> dict[str, dict[str, Any]]:
    """What follows from what was taught and told, by the name of the wish; all at the rate of the matrix."""
    world, seed = experiment.asked.world, experiment.asked.seed
    return {
        "transitive causality": _kept(
            experiment.folder / "transitive.json",
            lambda: logic.transitive(speaker, world.chains(), settings, progress, seed),
        ),
        "logical consistency": _kept(
            experiment.folder / "consistent.json",
            lambda: logic.consistent(speaker, world.new, settings, progress, seed),
        ),
    }


def _speaker(experiment: Experiment, progress: Progress) -> Speaker:
    if experiment.asked.model != TINY:
        progress(0, 1, "reading the language model")
        return folder.from_folder(experiment.asked.model)
    world, settings, file = experiment.asked.world, tiny.Tiny(seed=experiment.asked.seed), experiment.folder / WEIGHTS
    if not file.exists():
        with threads(1):  # its steps are too small to share
            write_bundle(file, tiny.weights(tiny.train(world, settings, progress)))
    return tiny.restored(world, bundle(file), settings)


def _effects(experiment: Experiment, speaker: Speaker, progress: Progress) -> Effects:
    """The matrices of both, block by block."""
    asked, world = experiment.asked, experiment.asked.world
    probes = [*(statement.probe for statement in world.new), *world.ask]
    lessons = [(statement.probe,) for statement in world.new]
    sentences = Sentences(speaker, tuple(probes))

    def at(rate: float | None) -> Bench:
        return sentences.bench(lessons, probes, replace(asked.teaching, rate=rate), _half(progress, 0))

    bench = settled(at, asked.rate, experiment.folder)
    taught = bench.join(list(parts(bench, experiment.folder, "part", _half(progress, 0))))
    texts = [statement.text for statement in world.new]
    failed = {i: why.replace(str(taught.lesson_ids[i]), texts[i]) for i, why in taught.failed.items()}
    named = replace(
        taught, lesson_ids=np.array(texts), probe_ids=np.array([probe.text for probe in probes]), failed=failed
    )
    told = []
    for start in range(0, len(lessons), TOLD_AT_ONCE):
        file = experiment.folder / f"told-{start:05d}.safetensors"
        if not file.exists():
            some = lessons[start : start + TOLD_AT_ONCE]
            write_bundle(file, {"values": sentences.told(some, probes, _of(progress, start, len(lessons)))})
        told.append(bundle(file)["values"])
    return Effects(named, np.concatenate(told), world.new)


def _knows(experiment: Experiment, speaker: Speaker) -> dict[str, Any]:
    """Share of the known, and of the new, sentences that the model finds likelier than their negation before any lesson."""
    world, found = experiment.asked.world, {}
    for name, statements in (("known", world.known), ("new", world.new)):
        every = np.unique(np.linspace(0, len(statements) - 1, min(len(statements), ASKED_AT_MOST)).astype(np.int64))
        some = [statements[int(at)] for at in every] if statements else []
        found[name] = {"count": len(some), "share": _likelier(speaker, some)}
    return found


def _likelier(speaker: Speaker, statements: Sequence[Statement]) -> float | None:
    if not statements:
        return None
    said, denied = ([s.probe for s in some] for some in (statements, [s.negation for s in statements]))
    sentences = Sentences(speaker, (*said, *denied))
    return float((sentences.log_probabilities(said) > sentences.log_probabilities(denied)).mean())


def _kept(file: Path, measure: Callable[[], SideBySide]) -> dict[str, Any]:
    """What came out of an experiment, from its file or measured now and written there; the reason where it cannot be."""
    if not file.exists():
        try:
            found = measure()
        except DataError as error:
            write_json(file, {"missing": str(error)})
        else:
            effects = {name: [finite(float(x)) for x in values] for name, values in found.effects.items()}
            told = [wish(found.weights, "weights"), wish(found.prompt, "prompt")]
            write_json(
                file,
                {"desiderata": told, "names": list(found.names), "effects": effects, "failed": list(found.failed)},
            )
    kept: dict[str, Any] = read_json(file)
    return kept


def _arrays(effects: Effects) -> dict[str, NDArray[Any]]:
    n, taught = len(effects.statements), effects.taught
    return {
        "values": effects.values,
        "prompt": effects.prompt[:, :n],
        "first_order": effects.first_order,
        "asked_values": taught.values[:, n:],
        "asked_prompt": effects.prompt[:, n:],
        "distance": logic.word_distance(effects.statements, effects.statements),
        "own_loss": taught.own_loss,
        "before": taught.before[:n],
    }


def _scorecard(
    experiment: Experiment,
    speaker: Speaker,
    effects: Effects,
    conclusions: dict[str, dict[str, Any]],
    knows: dict[str, Any],
) -> dict[str, Any]:
    asked, world, wishes = experiment.asked, experiment.asked.world, Wishes()
    distance = logic.word_distance(world.new, world.new)
    details = {}
    for name, found in conclusions.items():
        if "missing" in found:
            wishes.missing[name] = found["missing"]
        else:
            wishes.found += found["desiderata"]
            details[name] = {part: found[part] for part in ("names", "effects", "failed")}
    for by, E in (("weights", effects.values), ("prompt", effects.prompt[:, : len(world.new)])):
        _add_of_matrix(wishes, E, distance, by, asked.seed)
    return {
        "left_out": "",
        **_settings(asked.teaching, effects.taught, speaker, asked.rate),
        "seed": asked.seed,
        "known": len(world.known),
        "statements": [statement.text for statement in world.new],
        "asked": [probe.text for probe in world.ask],
        "knows": knows,
        "linear": regime(desiderata.linear_regime(effects.values, effects.first_order)),
        "conclusions": details,
        **told_of(effects.taught),
        **wishes.as_json(),
    }


def _add_of_matrix(wishes: Wishes, E: Array64, distance: Array64, by: str, seed: int) -> None:
    wishes.add("symmetry", lambda: desiderata.symmetry(E, seed), by)
    wishes.add("decay with semantic distance", lambda: desiderata.decay(E, distance, seed=seed), by)
    wishes.add("sparseness", lambda: desiderata.sparseness(E, seed=seed), by)


def _settings(settings: Teaching, taught: Taught, speaker: Speaker, rate: float | None) -> dict[str, Any]:
    searched = " (searched)" if rate is None else ""
    return {
        "words": f"{speaker.name}, {settings.words}, rate {taught.rate:.2g}{searched}",
        "model": speaker.name,
        "optimizer": settings.optimizer,
        "steps": settings.steps,
        "rate": taught.rate,
        "searched": rate is None,
        "layers": None if settings.layers is None else list(settings.layers),
        "rank": settings.rank,
        "dtype": settings.dtype,
    }


def _half(progress: Progress, number: int) -> Progress:
    """Progress of one of two equal parts of a stage."""

    def told(done: int, total: int, note: str) -> None:
        progress(number * total + done, 2 * total, note)

    return told


def _of(progress: Progress, start: int, total: int) -> Progress:
    """Progress of the second half, from a row on."""

    def told(done: int, _: int, note: str) -> None:
        progress(total + start + done, 2 * total, note)

    return told
