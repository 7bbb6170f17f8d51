"""What a person types about the laboratory: teaching samples of a run, worlds of facts, comparisons; mistakes as sentences."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from explorer.jobs import laboratory, worlds
from explorer.jobs.process import launch
from explorer.jobs.state import JobState
from explorer.jobs.world_stage import run_as_worker
from explorer.laboratory import tiny
from explorer.laboratory.world import generated, parse, rendered
from explorer.store import Run
from tests.jobs.asking import copied, work
from tests.jobs.test_worlds import SMALL
from tests.test_cli import explorer, refused


@pytest.fixture(scope="module")
def run(wine: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The small run, to be taught."""
    return copied(wine, tmp_path_factory.mktemp("typed"))


def at_once(root: Path, key: str) -> JobState:
    threads = torch.get_num_threads()
    try:
        return run_as_worker(root / worlds.FOLDER / key)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _here() -> Iterator[None]:
    """The jobs are done in this process: what workers of their own do is tested with the jobs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("explorer.jobs.start", work)
        patch.setattr("explorer.jobs.worlds.start", at_once)
        patch.setattr(tiny, "Tiny", SMALL)
        yield


def test_samples_are_taught_and_the_scorecard_is_said(run: Run) -> None:
    place = ("--runs", run.path.parent)
    said = explorer("teach", run.key, "--samples", 9, *place)
    assert said.exit_code == 0, said.output
    experiment = laboratory.listed(run)[0]
    card = experiment.found
    assert card is not None
    assert experiment.asked == laboratory.Asked(laboratory.evenly(run, count=9))
    assert f"9 training examples of run {run.key}, each taught alone and asked about each other: {card['words']}." in (
        said.output
    )
    assert card["linear"]["sentence"] in said.output
    for one in card["desiderata"]:
        assert one["sentence"] in said.output
    assert str(experiment.folder) in said.output
    told = json.loads(explorer("teach", run.key, "--samples", 9, "--json", *place).stdout)
    assert (told["key"], told["complete"], told["scorecard"]) == (experiment.key, True, card)
    assert len(laboratory.listed(run)) == 1


def test_samples_and_probes_by_their_ids_and_every_setting(run: Run, tmp_path: Path) -> None:
    place, train, test = ("--runs", run.path.parent), run.table("train")["id"], run.table("test")["id"]
    file = tmp_path / "probes.txt"
    file.write_text("\n".join(test.iloc[[3, 1]]) + "\n")
    words = (
        "teach",
        run.key,
        "--ids",
        ",".join(train.iloc[[8, 2]]),
        "--probes",
        file,
        "--optimizer",
        "adam",
        "--steps",
        2,
    )
    more = ("--rate", 0.001, "--layers", "5, 3", "--dtype", "float32", "--epoch", 2, "--no-noise", "--seed", 4)
    said = explorer(*words, *more, *place)
    assert said.exit_code == 0, said.output
    asked = laboratory.Asked((2, 8), (1, 3), "adam", 2, 0.001, ("5", "3"), None, "float32", 2, noise=False, seed=4)
    assert laboratory.listed(run)[0].asked == asked
    assert "2 steps of Adam on 5, 3, rate 0.001, after epoch 2" in said.output
    assert "No noise invariance: It was not asked for." in said.output
    said = explorer("teach", run.key, "--samples", 3, "--test", 6, "--rank", 2, "--no-noise", *place)
    assert said.exit_code == 0, said.output
    assert laboratory.listed(run)[0].asked.probes == laboratory.evenly(run, "test", 6)
    assert "low rank 2" in said.output


def test_experiments_are_compared(run: Run, wine: Run, tmp_path: Path) -> None:
    explorer("teach", run.key, "--samples", 5, "--no-noise", "--runs", run.path.parent)
    before = len(laboratory.listed(run))
    said = explorer("teach", run.key, "--compare", "--runs", run.path.parent)
    assert said.exit_code == 0, said.output
    assert said.output.count("1 step of SGD on all layers") >= 2
    records = json.loads(explorer("teach", run.key, "--compare", "--json", "--runs", run.path.parent).stdout)
    keys = {one.key: one.found for one in laboratory.listed(run)}
    for record in records:
        found = next(one for one in keys[record["key"]]["desiderata"] if one["name"] == record["name"])  # type: ignore[index]
        assert record["value"] == pytest.approx(found["value"])
    assert len(laboratory.listed(run)) == before
    other = copied(wine, tmp_path)
    assert "No experiment so far." in explorer("teach", other.key, "--compare", "--runs", tmp_path).output


def test_mistakes_about_samples_are_sentences(run: Run) -> None:
    place = ("--runs", run.path.parent)
    for words, said in (
        (("--samples", 3, "--ids", "a"), "Expected --samples or --ids; found both"),
        (("--test", 3, "--probes", "a"), "Expected --probes or --test; found both"),
        (("--ids", "nobody"), "Expected ids of training examples"),
        (("--samples", 2, "--probes", "nobody"), "Expected ids of test examples"),
        (("--samples", 2, "--rate", -1), "Expected rate > 0"),
        (("--samples", 2, "--epoch", 99), "Expected a stage of the run's own training"),
    ):
        refused(explorer("teach", run.key, *words, *place), said)
    said = explorer("teach", run.key, "--samples", 2, "--layers", "nowhere", *place)
    assert said.exit_code == 0
    assert "found 'nowhere'" in said.output


def test_a_world_is_written_edited_and_taught(tmp_path: Path) -> None:
    file, place = tmp_path / "w.txt", ("--runs", tmp_path)
    said = explorer("world", "--write-default", file, *place)
    assert said.exit_code == 0, said.output
    assert parse(file.read_text()) == generated()
    refused(explorer("world", "--write-default", file, *place), "Expected a new file")
    file.write_text(rendered(generated(kinds=6, categories=3, new=3, names=4, seed=1)))
    said = explorer("world", file, *place)
    assert said.exit_code == 0, said.output
    experiment = worlds.listed(tmp_path)[0]
    card = experiment.found
    assert card is not None
    assert f"World {experiment.key}, 6 new facts and rules: {card['words']}." in said.output
    for one in card["desiderata"]:
        assert one["sentence"] in said.output
    assert "Transitive causality in the prompt" in said.output
    told = json.loads(explorer("world", file, "--json", *place).stdout)
    assert (told["world"], told["state"], told["scorecard"]) == (experiment.key, "done", card)
    compared = explorer("world", "--compare", *place)
    assert "Transitive causality, weights" in compared.output
    assert compared.output.count("tiny transformer") == len(card["desiderata"])


def test_mistakes_about_worlds_are_sentences(tmp_path: Path) -> None:
    place = ("--runs", tmp_path)
    (tmp_path / "w.txt").write_text("known:\nwugs are nice\n")
    refused(explorer("world", tmp_path / "w.txt", *place), "In line 2 of w.txt")
    refused(explorer("world", tmp_path / "none.txt", *place), "Expected a world as a text file")
    refused(explorer("world", "--model", tmp_path, *place), "with a config.json; found none")
    refused(explorer("world", "--cancel", "nothing", *place), "Expected the name of a world")
    (tmp_path / "w.txt").write_text("new:\na wug is a blicket\n")
    refused(explorer("world", tmp_path / "w.txt", *place), "Write them below 'known:'")
    assert "is failed" in explorer("world", "--compare", *place).output


def test_a_world_goes_on_in_the_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    class Process:
        pid = 0

        def __init__(self, words: list[str], **_: object) -> None:
            started.append(words)

        def poll(self) -> None:
            return None

    monkeypatch.setattr("explorer.jobs.process.subprocess.Popen", Process)
    monkeypatch.setattr("explorer.jobs.worlds.start", lambda root, key: launch(root / "worlds" / key, worlds.COMMAND))
    told = json.loads(explorer("world", "--background", "--json", "--runs", tmp_path).stdout)
    assert started[0][-2:] == ["work-world", told["folder"]]
    assert Path(told["folder"]).name == told["world"] == worlds.listed(tmp_path)[0].key
