"""What a run says of its retrainings: the sentence, the curve, and the line for a run that has none."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from explorer import cli_run, jobs
from explorer.contracts import Recipe
from explorer.jobs import checks
from explorer.jobs.planning import Request, plan
from explorer.jobs.settings import from_words
from explorer.store import Run, create, read_json, write_json
from explorer.ui import answers, commands, load
from explorer.ui.parts import about
from explorer.ui.parts.about import ENOUGH
from explorer.ui.views import card, evidence
from explorer.ui.views.evidence import Checked
from tests.conftest import compute

CHOSEN = Checked(
    retrainings=12, queries=300, dampings=[0.0, 0.01, 0.1], lds=[0.2, 0.66, 0.5], low=[0.1, 0.62, 0.4], high=[0.3, 0.7, 0.6],
    used=1, by="evidence", regret=0.0041,
)  # fmt: skip


def about_page(path: str) -> None:
    """The About part alone."""
    from pathlib import Path

    from explorer.store import Run
    from explorer.ui.parts import about

    about.show(Run.at(Path(path)), "label")


def shown(run: Run) -> tuple[str, list[str]]:
    """All text of About, and its lines of code."""
    app = AppTest.from_function(about_page, args=(str(run.path),)).run()
    assert not app.exception
    return "\n".join(part.value for part in app.markdown).replace("\\", ""), [code.value for code in app.code]


def test_the_sentence_says_how_often_how_well_and_what_was_chosen() -> None:
    assert evidence.sentence(CHOSEN) == (
        "Checked by 12 retrainings on random halves: scores predict their outcomes with rank correlation 0.66 (0.62 to 0.70) "
        "over 300 test examples; damping chosen among 3 (another draw of 12 halves would choose one that is worse by 0.004 on "
        "average)."
    )
    assert evidence.short(CHOSEN) == "checked by 12 retrainings on random halves: rank correlation 0.66 (0.62 to 0.70)"
    given = replace(CHOSEN, used=2, by="user")
    assert evidence.sentence(given).endswith(
        "0.50 (0.40 to 0.60) over 300 test examples; the damping is the one given, the best of 3 has 0.66."
    )
    alone = Checked(retrainings=12, queries=300, dampings=[None], lds=[0.6], low=[0.5], high=[0.7])
    assert evidence.sentence(alone).endswith("over 300 test examples.")
    out = Checked(left_out="Too large.")
    assert (evidence.short(out), evidence.sentence(out)) == ("", "Not checked by retraining: Too large.")


def test_the_curve_has_every_damping_that_a_log_scale_can_show() -> None:
    drawn = evidence.figure(CHOSEN)
    low, high, curve, used = drawn.data
    assert list(curve.x) == [0.01, 0.1]
    assert list(curve.y) == [0.66, 0.5]
    assert (list(low.y), list(high.y)) == ([0.62, 0.4], [0.7, 0.6])
    assert (list(used.x), list(used.y)) == ([0.01], [0.66])
    assert drawn.layout.xaxis.type == "log"
    assert len(evidence.figure(replace(CHOSEN, used=0)).data) == 3  # no damping has no place to be marked


def test_about_shows_what_the_run_s_retrainings_said(tmp_path: Path) -> None:
    run = compute(tmp_path, Request("wine", method="ekfac", recipe=Recipe(epochs=2), evidence=4, queries=3))
    told = read_json(run.path / "evidence.json")
    text, lines = shown(run)
    assert f"Checked by 4 retrainings on random halves: scores predict their outcomes with rank correlation {told['lds'][told['used']]:.2f}" in text  # fmt: skip
    assert lines == []
    assert "(chosen by 4 retrainings)" in text
    assert f"through the layers {', '.join(read_json(run.path / 'fitted.json')['layers'])}." in text
    row = int(run.plan("label")[0])
    top = run.top(row, "label")
    assert top is not None
    assert answers.trust(run, row, "label", top).checked.startswith("checked by 4 retrainings on random halves: rank")


def test_a_run_without_evidence_says_how_to_get_it(wine: Run) -> None:
    text, lines = shown(wine)
    assert "Not checked by retraining. To have it checked, and the damping chosen by it, run" in text
    words = shlex.split(lines[0])
    assert words[:2] == ["explorer", "run"]
    context = cli_run.run_command.make_context("run", words[2:])
    options = context.params
    assert options["evidence"] == ENOUGH
    assert (options["data"], options["flip"], options["epochs"]) == ("wine", 0.1, 5)


@pytest.mark.parametrize(("agreement", "rough"), [(0.83, False), (0.12, True)])
def test_about_and_the_trust_line_say_whether_small_removals_repeat(
    wine: Run, tmp_path: Path, agreement: float, rough: bool
) -> None:
    shutil.copytree(wine.path, tmp_path / "run")
    run = Run.at(tmp_path / "run")
    text, _ = shown(run)
    assert "under this recipe is not measured" in text
    said = checks.Predictability(14, 0.01, 20, 300, 0.01, agreement, agreement - 0.1, agreement + 0.1)
    before = load.seen(run)
    write_json(run.path / checks.FOUND, asdict(said))
    assert load.seen(run) != before  # answers that were drawn without it are drawn again
    text, _ = shown(run)
    assert f"**{said.sentence}**" in text
    assert ("nobody can know" in text) is rough
    row = int(run.plan("label")[0])
    top = run.top(row, "label")
    assert top is not None
    trust = answers.trust(run, row, "label", top)
    line = card.trust_line(trust)
    assert f"small removals repeat at {agreement:.2f}" in line
    assert (card.ROUGH in line) is rough
    assert ("≈" in line) is rough
    assert card.trust_line(replace(trust, repeats="", rough=False)).count(" · ") == line.count(" · ") - 1


def test_about_has_it_measured_whether_small_removals_repeat(
    wine: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    monkeypatch.setattr(jobs, "start", lambda run: started.append(run.key))
    shutil.copytree(wine.path, tmp_path / wine.key)
    run = Run.at(tmp_path / wine.key)
    app = AppTest.from_function(about_page, args=(str(run.path),)).run()
    button = app.button(key="repeated-start")
    assert "Trains 40 models, many at once; one took" in button.help
    assert "20 times without a random 1% of the training set" in button.help
    button.click().run()
    assert not app.exception
    assert started == [run.key]
    assert checks.asked(run) == checks.Removals()
    assert "repeated-start" not in [each.key for each in app.button]  # it was asked for; nobody is at it
    assert "What was asked is not done" in app.warning[0].value
    given = with_given_weights(run, tmp_path)
    app = AppTest.from_function(about_page, args=(str(given.path),)).run()
    assert "repeated-start" not in [each.key for each in app.button]


def with_given_weights(run: Run, folder: Path) -> Run:
    """The same run, as if its weights had come from a file: there is no training to repeat."""
    shutil.copytree(run.path, folder / "given")
    (folder / "given" / checks.ASKED).unlink(missing_ok=True)
    spec = read_json(folder / "given" / "spec.json")
    spec["model"]["weights"] = {"path": "w.safetensors", "sha256": "0" * 64}
    write_json(folder / "given" / "spec.json", spec)
    return Run.at(folder / "given")


def test_about_says_whether_systems_were_solved_and_what_it_would_take() -> None:
    stats = {"solved": 8, "converged": 1.0, "residual_max": 0.0912, "iterations": 1410, "tolerance": 0.1}
    assert about.solved(stats) == (
        "- **Solved**: the systems of 8 training examples tried were left with a residual of 0.091 after at most 1,410 steps "
        "(0.1 was asked for).\n"
    )
    short = stats | {"converged": 0.25, "depth_wanted": 9000}
    assert about.solved(short) == (
        "- **Not solved**: of the systems of 8 training examples tried, 25% reached the residual of 0.1 that was asked for; the "
        "worst is left with 0.091 after at most 1,410 steps. It would take some 9,000 (`depth`), or a larger damping.\n"
    )
    assert "more (`iterations`), or" in about.solved(stats | {"converged": 0.25, "iterations_limit": 1410})
    assert "more (`depth`), or" in about.solved(short | {"depth_wanted": 100})  # theory knows no noise
    assert about.solved({"damping": 0.1}) == ""


def test_about_of_an_iterative_run_says_so(tmp_path: Path) -> None:
    asked = Request(
        "wine", method="lissa", recipe=Recipe(epochs=2), queries=2, settings={"depth": 3, "tolerance": 1e-3}
    )
    text, _ = shown(compute(tmp_path, asked))
    assert "Not solved: of the systems of 8 training examples tried, 0% reached the residual of 0.001" in text.replace(
        "*", ""
    )


def test_the_line_keeps_the_settings_but_for_the_damping(tmp_path: Path) -> None:
    given = {"damping": 0.5, "layers": ["0", "2"], "columns": 64}
    run = create(tmp_path, plan(Request("wine", method="gauss-newton", settings=given)))
    words = shlex.split(about.line(run))
    pairs = [value for name, value in pairwise(words) if name == "--set"]
    assert from_words(pairs) == {"layers": "0,2", "columns": "64"}


@pytest.mark.parametrize(
    "model", [{"kind": "memory", "key": "a"}, {"kind": "auto", "weights": {"sha256": "a", "path": "b"}}]
)
def test_given_weights_cannot_be_trained_again(wine: Run, tmp_path: Path, model: dict[str, object]) -> None:
    shutil.copytree(wine.path, tmp_path / "run")
    (tmp_path / "run" / "spec.json").write_text(json.dumps({**wine.spec, "model": model}))
    text, lines = shown(Run.at(tmp_path / "run"))
    assert "the weights were given, so there is no training to repeat" in text
    assert lines == []


@pytest.mark.parametrize(
    ("stats", "words"),
    [
        ({"layer": "fc_2", "whole_model": False}, r"the last layer (called fc\_2) on fixed features"),
        ({"layer": "the whole model", "whole_model": True}, "the whole model"),
        ({"layers": ["a", "b"], "left_out": {"norm": "no linear layer"}}, "the layers a, b; not through norm"),
        ({"steps": 1200}, "the 1,200 steps of the training that was made"),
        ({}, "the method's own parameters"),
    ],
)
def test_what_the_scores_see_is_said_by_method(stats: dict[str, object], words: str) -> None:
    assert words in about.reach(stats)


def test_the_form_asks_for_as_many_retrainings() -> None:
    assert commands.Wish("wine", evidence=" 12 ").words()[-1] == "--evidence=12"
    assert not any("evidence" in word for word in commands.Wish("wine").words())
    with pytest.raises(Exception, match="Expected evidence to be a whole number; found 'some'"):
        commands.Wish("wine", evidence="some").words()
