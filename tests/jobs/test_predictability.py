"""Can anybody know what a small removal does? Real retrainings by a smooth and a rough recipe, asked of finished runs."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.stats import spearmanr

from explorer.cli import main
from explorer.contracts import Recipe, silent
from explorer.errors import Cancelled, RunError, SettingsError
from explorer.jobs import checks, evidence, predictability, process
from explorer.jobs.pipeline import STAGES, run_pipeline
from explorer.jobs.planning import Request, ingredients_of
from explorer.jobs.predictability import NUDGE, nudged, planned
from explorer.jobs.process import run_as_worker
from explorer.jobs.state import JobState, process_born, read_state
from explorer.jobs.subject import FromSpec, make_subject, subject_of
from explorer.retraining import random_masks
from explorer.store import Run, read_json, write_json
from explorer.training import train_epochs
from tests.conftest import compute
from tests.jobs.test_pipeline import contents

ASKED = checks.Removals(share=0.02, count=5)
ROUGH = """
from torch import nn
def make():
    return nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
"""
ROUNDING = 2e-3
"""Of agreements: float32 sums in another order may swap two of five outcomes that are equal but for rounding, in some queries."""


def check(run: Run, removals: checks.Removals) -> JobState:
    """Asked and done here, as a worker would."""
    checks.ask(run, removals)
    threads = torch.get_num_threads()
    state = run_as_worker(run, len(STAGES), lambda writer: run_pipeline(run, ingredients_of(run), writer))
    torch.set_num_threads(threads)
    return state


@pytest.fixture(scope="module")
def smooth(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small run by the usual recipe, checked."""
    run = compute(tmp_path_factory.mktemp("smooth"), Request("wine", recipe=Recipe(epochs=10), queries=20))
    assert check(run, ASKED).state == "done"
    return run


def test_it_is_the_agreement_of_models_trained_alone_without_each_removal(smooth: Run) -> None:
    ingredients, said = ingredients_of(smooth), checks.found(smooth)
    assert said is not None
    data, subject = subject_of(smooth, ingredients)
    rows = planned(smooth, data).rows
    assert (said.removed, said.queries, said.count) == (3, len(rows), 5)
    outcomes = []
    for nudge in (False, True):
        for mask in random_masks(len(data.train), 5, 0.98, 0):
            model = ingredients.model(data)
            model = nudged(model, 0) if nudge else model
            kept = np.flatnonzero(mask)
            # a batch of the whole loses what is removed, as in a real training on one order
            for _ in train_epochs(model, subject.objective, data.train, data.test, Recipe(epochs=10), rows=kept):
                pass
            outputs = model(data.test.batch(rows)).detach().double().log_softmax(1)
            outcomes.append(outputs[torch.arange(len(rows)), torch.tensor(data.test.labels)[rows]].numpy())
    first, second = np.stack(outcomes[:5]), np.stack(outcomes[5:])
    each = [spearmanr(a, b).statistic for a, b in zip(first.T, second.T, strict=True)]
    assert said.agreement == pytest.approx(np.mean(each), abs=ROUNDING + 0.2 / len(rows))
    assert said.low <= said.agreement <= said.high


def test_the_nudge_is_small_and_the_same_twice_and_leaves_alone_what_is_not_trained() -> None:
    def fresh() -> torch.nn.Module:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(50, 50), torch.nn.Linear(50, 2))
        model[1].requires_grad_(False)
        return model

    before, one, two = fresh().state_dict(), nudged(fresh(), 3).state_dict(), nudged(fresh(), 3).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert all(torch.equal(before[name], one[name]) for name in one if name.startswith("1."))
    moved = (one["0.weight"] - before["0.weight"]).square().mean().sqrt() / before["0.weight"].square().mean().sqrt()
    assert float(moved) == pytest.approx(NUDGE, rel=0.1)  # 2,500 draws


@pytest.mark.slow
def test_smooth_and_rough_recipes_come_out_on_their_sides(smooth: Run, tmp_path: Path) -> None:
    said = checks.found(smooth)
    assert said is not None
    assert said.agreement > checks.MOSTLY
    assert not said.rough
    assert said.sentence.endswith("small removals are predictable under this recipe.")
    # a network with corners, large steps in small batches, and labels that must be learned by heart
    run = Run(tmp_path, {**smooth.spec, "recipe": asdict(Recipe(epochs=40, rate=0.2, batch_size=16))})
    shutil.copy(smooth.path / "plan-label.npy", tmp_path)
    (tmp_path / "rough.py").write_text(ROUGH)
    write_json(tmp_path / checks.ASKED, asdict(ASKED))
    source = {"kind": "planted", "source": {"kind": "wine"}, "flip": 0.2, "duplicate": 0.0, "seed": 0}
    ingredients = FromSpec(source, {"factory": {"path": f"{tmp_path / 'rough.py'}:make"}}, 0)
    data = ingredients.dataset()
    subject = make_subject(ingredients.model(data), data, 5e-4)
    predictability.write_predictability(run, ingredients, data, subject, silent)
    said = checks.found(run)
    assert said is not None
    assert said.agreement < checks.HALF
    assert said.rough
    assert said.sentence.endswith(
        "nobody can know what removing single examples does; trust groups, not single examples."
    )


def test_stopped_it_goes_on_to_the_same_bytes_and_a_finished_run_keeps_its_own(smooth: Run, tmp_path: Path) -> None:
    copy = tmp_path / smooth.key
    shutil.copytree(smooth.path, copy)
    run, seconds = Run.at(copy), read_state(smooth.path).timings
    (copy / checks.FOUND).unlink()
    before = contents(copy)
    heard: list[str] = []
    ingredients = ingredients_of(run)
    data, subject = subject_of(run, ingredients)

    def cancel(done: int, total: int, note: str) -> None:
        assert 0 <= done <= total
        heard.append(note)
        if "start 2 of 2" in note:
            raise Cancelled

    with pytest.raises(Cancelled):
        predictability.write_predictability(run, ingredients, data, subject, cancel)
    assert heard[0].startswith("5 removals, start 1 of 2, epoch 1 of 10")
    assert not run.has(checks.FOUND)
    assert len(list(copy.glob("predictability-0.02-5-*.npy"))) == 1
    told = read_json(copy / "state.json")
    write_json(copy / "state.json", {**told, "pid": 1})  # by another worker, and this one just launched
    launch = JobState("queued", pid=os.getpid(), born=process_born(os.getpid()) or 0.0)
    write_json(copy / "launch.json", asdict(launch))
    assert check(run, ASKED).state == "done"
    assert (copy / checks.FOUND).read_bytes() == (smooth.path / checks.FOUND).read_bytes()
    after = contents(copy)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {checks.FOUND}
    timed = read_state(copy).timings
    assert {name: timed[name] for name in STAGES} == {name: seconds[name] for name in STAGES}


def test_another_question_is_answered_anew_and_the_same_one_starts_nothing(
    smooth: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / smooth.key
    shutil.copytree(smooth.path, copy)
    run = Run.at(copy)
    started: list[list[str]] = []
    monkeypatch.setattr(process.subprocess, "Popen", lambda words, **_: started.append(words))
    checks.ask(run, ASKED)
    assert not checks.pending(run)
    assert process.start(run).state == "done"
    assert started == []
    checks.ask(run, replace(ASKED, count=6))
    assert checks.pending(run)
    monkeypatch.undo()
    assert check(run, replace(ASKED, count=6)).state == "done"
    said = checks.found(run)
    assert said is not None
    assert said.count == 6


def test_what_cannot_be_measured_is_said_in_words(smooth: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / smooth.key
    shutil.copytree(smooth.path, copy)
    run = Run.at(copy)
    assert check(run, checks.Removals(share=0.001)).state == "done"
    said = checks.found(run)
    assert said is not None
    assert said.left_out == "0.001 of 142 training examples is not one. Remove a larger share."
    assert (said.rough, said.short) == (False, "")
    assert said.sentence == f"How repeatable small removals are is not known: {said.left_out}"
    monkeypatch.setattr(evidence, "MOST_OPERATIONS", 1000)
    assert check(run, checks.Removals()).state == "done"
    said = checks.found(run)
    assert said is not None
    assert "40 retrainings take about" in said.left_out


def test_what_has_no_training_to_repeat_is_refused(smooth: Run, tmp_path: Path) -> None:
    for name, changes, error, words in (
        ("memory", {"source": {"kind": "memory"}}, RunError, "made from objects of a Python process"),
        ("weights", {"model": {"weights": {}}}, SettingsError, "whose weights were given"),
        ("unfinished", {}, RunError, "Expected a run that is done; found unfinished, which is interrupted"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "spec.json").write_text(json.dumps({**smooth.spec, **changes}))
        with pytest.raises(error, match=words):
            checks.ask(Run.at(tmp_path / name), ASKED)
        assert not (tmp_path / name / checks.ASKED).exists()
    with pytest.raises(SettingsError, match=r"above 0 and up to 0\.5; found 0\.6"):
        checks.Removals(share=0.6)
    with pytest.raises(SettingsError, match="5 removals or more; found 4"):
        checks.Removals(count=4)


def test_the_sentence_has_three_ends() -> None:
    said = checks.Predictability(14, 0.01, 20, 300, 0.01, 0.83, 0.7, 0.9)
    assert said.sentence == (
        "Removing 1 % twice with different luck (14 examples; the second start nudged by 1 % of its size) gives effects that "
        "agree at 0.83 (0.70 to 0.90) over 20 removals: small removals are predictable under this recipe."
    )
    ends = [replace(said, agreement=value).sentence.split(": ")[1] for value in (0.8, 0.79, 0.5, 0.49)]
    assert [end.split(" ")[0] for end in ends] == ["small", "under", "under", "under"]
    assert [("in part" in end, "nobody can know" in end) for end in ends] == [
        (False, False), (True, False), (True, False), (False, True),
    ]  # fmt: skip


def test_it_is_asked_for_in_a_terminal(smooth: Run) -> None:
    words = ["check", str(smooth.path), "--share", "0.02", "--removals", "5"]
    said = checks.found(smooth)
    assert said is not None
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0
    assert done.output.strip().endswith(said.sentence)
    wrong = CliRunner().invoke(main, [*words[:-1], "2"])
    assert wrong.exit_code == 2
    assert "Expected 5 removals or more; found 2" in wrong.output
    assert read_json(smooth.path / checks.ASKED) == {"share": 0.02, "count": 5}
