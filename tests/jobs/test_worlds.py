"""Worlds as jobs of their own: what the laboratory says of them directly, the same bytes after a stop, no run among runs."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from explorer.errors import Cancelled, DataError, ModelError, RunError, SettingsError
from explorer.jobs import laboratory, world_stage, worlds
from explorer.jobs.state import JobState, StateWriter
from explorer.jobs.worlds import Asked, Experiment
from explorer.laboratory import logic, tiny
from explorer.laboratory.language import Sentences, Speaker
from explorer.laboratory.world import World, generated, parse, rendered
from explorer.store import Run, list_runs
from tests.jobs.asking import copied
from tests.jobs.test_pipeline import contents

SMALL = partial(tiny.Tiny, width=16, layers=1, heads=2, stories=40, epochs=4, rate=8e-3, batch_size=8)
SAME = 1e-9
"""Of log-probabilities in float64 by another order of sums."""
PATIENCE = 120


@pytest.fixture(scope="module")
def world() -> World:
    made = generated(kinds=6, categories=3, new=3, names=4, seed=1)
    return replace(made, ask=(made.new[0].negation.probe,))


@pytest.fixture(autouse=True)
def _small_transformer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "Tiny", SMALL)


@pytest.fixture(scope="module")
def root(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with one world that is done."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "Tiny", SMALL)
        state, _ = done(folder, Asked(rendered(world)))
    assert state.state == "done", state.reason
    return folder


def done(root: Path, asked: Asked) -> tuple[JobState, Experiment]:
    """The experiment, done here and now, or as far as it goes."""
    key = worlds.ask(root, asked)
    threads = torch.get_num_threads()
    try:
        state = world_stage.run_as_worker(root / worlds.FOLDER / key)
    finally:
        torch.set_num_threads(threads)
    return state, worlds.find(root, key)


def directly(world: World) -> Speaker:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return tiny.train(world, SMALL(seed=0))
    finally:
        torch.set_num_threads(threads)


def test_the_numbers_are_those_of_the_laboratory(root: Path, world: World) -> None:
    experiment = worlds.listed(root)[0]
    card, arrays = experiment.found, worlds.matrices(experiment)
    assert card is not None
    assert arrays is not None
    assert card["statements"] == [statement.text for statement in world.new]
    assert card["asked"] == [world.new[0].negation.text]
    speaker, probes = directly(world), [s.probe for s in world.new]
    sentences = Sentences(speaker, (*probes, *world.ask))
    lessons = [(probe,) for probe in probes]
    settings = replace(experiment.asked.teaching, rate=card["rate"])
    taught = sentences.teach(lessons, probes, settings)
    np.testing.assert_allclose(arrays["values"], taught.values, atol=SAME)
    np.testing.assert_allclose(arrays["first_order"], taught.first_order, atol=SAME)
    np.testing.assert_allclose(arrays["prompt"], sentences.told(lessons, probes), atol=1e-5)
    np.testing.assert_allclose(arrays["asked_values"], sentences.teach(lessons, world.ask, settings).values, atol=SAME)
    np.testing.assert_allclose(arrays["asked_prompt"], sentences.told(lessons, world.ask), atol=1e-5)
    said = {(one["name"], one["by"]): one for one in card["desiderata"]}
    transitive = logic.transitive(speaker, world.chains(), settings)
    consistent = logic.consistent(speaker, world.new, settings)
    for name, side in (("transitive causality", transitive), ("logical consistency", consistent)):
        assert said[name, "weights"]["value"] == pytest.approx(side.weights.value, abs=1e-6)
        assert said[name, "prompt"]["value"] == pytest.approx(side.prompt.value, abs=1e-4)
        assert card["conclusions"][name]["names"] == list(side.names)
        for of, values in side.effects.items():
            found = [np.nan if x is None else x for x in card["conclusions"][name]["effects"][of]]
            np.testing.assert_allclose(found, values, atol=1e-5)


def test_every_wish_stands_beside_itself_in_the_prompt(root: Path) -> None:
    card = worlds.listed(root)[0].found
    assert card is not None
    names = {
        "transitive causality", "logical consistency", "symmetry", "decay with semantic distance", "sparseness",
    }  # fmt: skip
    assert {(one["name"], one["by"]) for one in card["desiderata"]} == {
        (name, by) for name in names for by in ("weights", "prompt")
    }
    assert card["missing"] == {}
    assert card["linear"]["linear"]
    assert card["knows"]["known"]["count"] == card["known"]
    assert card["knows"]["known"]["share"] > 0.5
    table = laboratory.compare([card])
    assert set(table["by"]) == {"weights", "prompt"}
    assert len(table) == 2 * len(names)


@pytest.mark.parametrize("at", [("language model", "epoch 3"), ("facts", "telling"), ("conclusions", "")])
def test_stopped_it_goes_on_to_the_same_bytes(
    root: Path, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: tuple[str, str]
) -> None:
    speak, stage, train = StateWriter.__call__, StateWriter.stage, tiny.train
    now, trained = [""], []

    def counted(*args: Any) -> Speaker:
        trained.append(True)
        return train(*args)

    monkeypatch.setattr(tiny, "train", counted)

    def begin(self: StateWriter, name: str) -> None:
        now[0] = name
        stage(self, name)

    def told(self: StateWriter, part: int, total: int, note: str) -> None:
        assert 0 <= part <= total
        if now[0] == at[0] and at[1] in note:
            raise Cancelled
        speak(self, part, total, note)

    with monkeypatch.context() as patch:
        patch.setattr(StateWriter, "stage", begin)
        patch.setattr(StateWriter, "__call__", told)
        state, experiment = done(tmp_path, Asked(rendered(world)))
    assert (state.state, experiment.found) == ("cancelled", None)
    state, experiment = done(tmp_path, Asked(rendered(world)))
    assert state.state == "done"
    assert contents(tmp_path) == contents(root)
    assert trained == [True] * (2 if at[0] == "language model" else 1)
    assert done(tmp_path, Asked(rendered(world)))[0] == state  # nothing is done twice


def test_weights_of_another_transformer_are_refused(world: World) -> None:
    speaker = directly(world)
    found = tiny.weights(speaker)
    other = tiny.weights(tiny.restored(world, found, SMALL(seed=0)))
    assert all((other[name] == values).all() for name, values in found.items())
    assert other.keys() == found.keys()
    for wrong in (found | {"head.bias": found["head.bias"][1:]}, {name: found[name] for name in list(found)[1:]}):
        with pytest.raises(ModelError, match=r"Expected the weights of this world's transformer, .* Remove them"):
            tiny.restored(world, wrong, SMALL(seed=0))


def test_a_world_without_chains_says_which_number_is_missing(tmp_path: Path) -> None:
    text = "known:\na wug is a blicket\nall blickets have a tove\nnew:\na dax is a blicket\na fep has a tove\n"
    state, experiment = done(tmp_path, Asked(text, rate=1e-3, optimizer="adam"))
    assert state.state == "done", state.reason
    assert experiment.found is not None
    assert "Expected chains such as" in experiment.found["missing"]["transitive causality"]
    assert "transitive causality" not in {one["name"] for one in experiment.found["desiderata"]}
    assert not experiment.found["searched"]


def test_words_that_the_model_does_not_know_end_it_in_words(tmp_path: Path) -> None:
    text = "new:\na dax is a blicket\n"
    state, experiment = done(tmp_path, Asked(text))
    assert (state.state, experiment.found) == ("failed", None)
    assert "Write them below 'known:'" in state.reason


def test_what_is_asked_is_checked(tmp_path: Path, world: World) -> None:
    for text, error, words in (
        ("known:\na wug is a blicket\n", SettingsError, "found nothing below 'new:'"),
        ("new:\nwugs are nice\n", DataError, "In line 2 of the world"),
    ):
        with pytest.raises(error, match=words):
            Asked(text)
    with pytest.raises(SettingsError, match="Expected steps in"):
        Asked(rendered(world), steps=0)
    with pytest.raises(ModelError, match=r"with a config\.json; found none"):
        worlds.ask(tmp_path, Asked(rendered(world), model=str(tmp_path)))
    for key in ("nothing", "", "../worlds"):
        with pytest.raises(RunError, match="Expected the name of a world"):
            worlds.find(tmp_path, key)
    assert list(tmp_path.iterdir()) == []
    assert parse(worlds.default()) == generated()
    assert worlds.listed(tmp_path) == []


def test_another_model_in_the_same_folder_is_another_experiment(tmp_path: Path, world: World) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    asked = Asked(rendered(world), model=str(folder))
    first = worlds.ask(tmp_path, asked)
    assert worlds.ask(tmp_path, asked) == first
    (folder / "model.safetensors").write_bytes(b"other weights")
    assert worlds.ask(tmp_path, asked) != first
    state, experiment = done(tmp_path, asked)
    assert state.state == "failed"
    assert experiment.found is None
    assert {one.key for one in worlds.listed(tmp_path)} == {first, experiment.key}


def test_runs_do_not_see_worlds(root: Path, wine: Run, tmp_path: Path) -> None:
    assert list_runs(root) == []
    run = copied(wine, tmp_path)
    worlds.ask(tmp_path, Asked(worlds.default()))
    assert list_runs(tmp_path) == [run.path]


def until(root: Path, key: str, reached) -> JobState:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        state = worlds.find(root, key).state
        if reached(state):
            return state
        time.sleep(0.02)
    raise AssertionError(f"the worker stayed {worlds.find(root, key).state}")


@pytest.mark.slow
def test_a_worker_of_its_own_is_killed_cancelled_and_goes_on(world: World, tmp_path: Path) -> None:
    asked = Asked(rendered(world))
    broken, clean = tmp_path / "broken", tmp_path / "clean"
    key = worlds.ask(broken, asked)
    worlds.start(broken, key)
    state = until(broken, key, lambda s: not s.active or (s.stage == "language model" and s.done >= 2))
    assert state.state == "running", state
    os.kill(state.pid, signal.SIGKILL)
    assert until(broken, key, lambda s: not s.active).state == "interrupted"
    worlds.start(broken, key)
    until(broken, key, lambda s: not s.active or (s.stage == "language model" and s.done >= 1))
    worlds.cancel(broken, key)
    assert until(broken, key, lambda s: not s.active).state == "cancelled"
    for root in (broken, clean):
        worlds.ask(root, asked)
        worlds.start(root, key)
        assert until(root, key, lambda s: not s.active).state == "done"
    assert contents(broken) == contents(clean)
    assert worlds.start(broken, key).state == "done"
