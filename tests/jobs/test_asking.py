"""Questions that no job answered: the worker says what the job wrote, to the bit, and remembers what it was asked."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from shutil import copytree, ignore_patterns

import numpy as np
import psutil
import pytest

from explorer.contracts import ImagePreview, Recipe, TablePreview, Target
from explorer.errors import RunError, SettingsError
from explorer.jobs import asking, helper
from explorer.jobs.asking import Answer, ask
from explorer.jobs.planning import Request, ingredients_of
from explorer.jobs.query import rank_from_run
from explorer.sources.edited import Edit
from explorer.store import Run, TopList, read_json, write_json
from tests.conftest import compute


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Digits with planted faults, 40 queries explained, a second of training."""
    request = Request("digits", flip=0.08, recipe=Recipe(epochs=2), queries=40)
    return compute(tmp_path_factory.mktemp("digits"), request)


@pytest.fixture(scope="module")
def bare_wine(wine: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Wine as its job left it before it scored anything."""
    return without_scores(wine, tmp_path_factory.mktemp("wine"))


@pytest.fixture(scope="module")
def bare_digits(digits: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Digits as their job left them before it scored anything."""
    return without_scores(digits, tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module", autouse=True)
def _no_worker_stays() -> Iterator[None]:
    yield
    asking.stop()
    assert workers() == []


@pytest.fixture
def forgetful() -> None:
    """Nothing is remembered from other tests; their workers stay warm."""
    asking._answers.clear()


def workers(parent: int | None = None, run: Run | None = None) -> list[int]:
    """Living workers of a process (default: this one), of all runs or one."""
    found = []
    for child in psutil.Process(parent).children(recursive=True):
        try:
            command, status = child.cmdline(), child.status()
        except psutil.NoSuchProcess:
            continue
        if "answer" in command and status != psutil.STATUS_ZOMBIE and (run is None or str(run.path) in command):
            found.append(child.pid)
    return found


def without_scores(run: Run, folder: Path) -> Run:
    """The run as its job left it before it scored anything."""
    copytree(run.path, folder / run.key, ignore=ignore_patterns("scores"))
    bare = Run.at(folder / run.key)
    assert bare.top(int(bare.plan("label")[0]), "label") is None
    return bare


def assert_stored(answer: Answer, run: Run, query: int, target: Target) -> None:
    """The answer is what the job of `run` wrote, to the bit."""
    top, row = run.top(query, target), run.row(query, target)
    assert top is not None
    assert row is not None
    for one in fields(TopList):
        np.testing.assert_array_equal(getattr(answer.top, one.name), getattr(top, one.name), err_msg=one.name)
    np.testing.assert_array_equal(answer.row.values, row.values)
    assert answer.row.scale == row.scale
    told = run.table("queries").set_index("row").loc[query]
    for name in ("prediction", "label", "wrong"):
        assert getattr(answer, name) == told[name]
    assert answer.loss == float(told["loss"])
    assert np.array_equal(answer.confidence, float(told["confidence"]), equal_nan=True)


@pytest.mark.parametrize("name", ["wine", pytest.param("digits", marks=pytest.mark.slow)])
def test_an_answer_is_what_the_job_wrote_to_the_bit(name: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(name)
    bare: Run = request.getfixturevalue(f"bare_{name}")
    for target, count in (("label", 12), ("prediction", 4)):
        for query in run.plan(target)[:count]:
            answer = ask(bare, int(query), target)
            assert_stored(answer, run, int(query), target)
            assert (answer.target, answer.seconds > 0) == (target, True)
    shown = run.preview("test", int(query))
    if isinstance(shown, ImagePreview):
        assert isinstance(answer.preview, ImagePreview)
        np.testing.assert_array_equal(answer.preview.pixels, shown.pixels)
    else:
        assert isinstance(answer.preview, TablePreview)
        assert answer.preview.names == shown.names
        np.testing.assert_array_equal(answer.preview.unusual, shown.unusual)
    assert answer.probabilities is not None
    stored = np.asarray(run.array("outputs-test")[query], dtype=np.float64)
    np.testing.assert_allclose(answer.probabilities, np.exp(stored) / np.exp(stored).sum(), rtol=1e-5)


def test_a_query_that_was_not_planned_is_answered(bare_digits: Run) -> None:
    query = int(np.setdiff1d(np.arange(bare_digits.meta().test), bare_digits.plan("label"))[0])
    assert bare_digits.top(query, "label") is None
    answer = ask(bare_digits, query, "label")
    told = bare_digits.table("queries").set_index("row").loc[query]
    assert (answer.prediction, answer.loss) == (told["prediction"], float(told["loss"]))
    best = int(answer.top.towards[0])
    assert answer.row.values[best] == 127  # the strongest is beyond the scale of the row
    assert answer.top.towards_influence[0] >= answer.row.scale


def test_an_edit_changes_the_answer_and_an_identity_does_not(bare_wine: Run) -> None:
    query = int(bare_wine.plan("label")[0])
    plain, same = ask(bare_wine, query, "label"), ask(bare_wine, query, "label", Edit(seed=5))
    assert same.loss == plain.loss
    np.testing.assert_array_equal(same.row.values, plain.row.values)
    raw = bare_wine.preview("test", query)
    assert isinstance(raw, TablePreview)
    name = raw.names[0]
    edit = Edit(values={name: float(raw.values[0]) + 3})
    found = ask(bare_wine, query, "label", edit)
    data = ingredients_of(bare_wine).dataset()
    assert isinstance(found.preview, TablePreview)
    assert found.preview.values[0] == pytest.approx(raw.values[0] + 3)
    assert found.loss != plain.loss
    assert (found.row.values != plain.row.values).mean() > 0.5
    assert found.label == plain.label == data.test.labels[query]


def test_noise_on_an_image_is_asked_as_it_is_shown(bare_digits: Run) -> None:
    query = int(bare_digits.plan("label")[0])
    plain, noisy = ask(bare_digits, query, "label"), ask(bare_digits, query, "label", Edit(noise=0.3, seed=1))
    assert isinstance(plain.preview, ImagePreview)
    assert isinstance(noisy.preview, ImagePreview)
    assert (noisy.preview.pixels != plain.preview.pixels).mean() > 0.5
    assert noisy.probabilities is not None
    assert noisy.probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert noisy.probabilities.argmax() == noisy.prediction
    assert noisy.confidence == pytest.approx(noisy.probabilities.max(), abs=1e-6)
    assert noisy.loss == pytest.approx(-np.log(noisy.probabilities[int(noisy.label)]), rel=1e-4)
    assert not np.array_equal(noisy.row.values, plain.row.values)


def test_asking_twice_is_free_and_shared_answers_cannot_be_changed(
    bare_wine: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = int(bare_wine.plan("label")[1])
    first = ask(bare_wine, query, "label")
    monkeypatch.setattr(helper.Helper, "ask", None)  # a second question to the worker would fail
    assert ask(bare_wine, query, "label") is first
    with pytest.raises(ValueError, match="read-only"):
        first.row.values[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        first.top.towards[0] = 1


def test_memory_of_answers_is_bounded_in_number_and_bytes(
    bare_wine: Run, monkeypatch: pytest.MonkeyPatch, forgetful: None
) -> None:
    queries = [int(query) for query in bare_wine.plan("label")[:4]]
    monkeypatch.setattr(asking, "KEPT", 3)
    first, second, _ = (ask(bare_wine, query, "label") for query in queries[:3])
    assert ask(bare_wine, queries[0], "label") is first
    ask(bare_wine, queries[3], "label")  # the second was used least recently
    assert ask(bare_wine, queries[0], "label") is first
    assert ask(bare_wine, queries[1], "label") is not second
    monkeypatch.setattr(asking, "KEPT_BYTES", asking._size(first))
    last = ask(bare_wine, queries[3], "label", Edit(values={"alcohol": 13.0}))
    assert list(asking._answers._by_key.values()) == [last]


def test_threads_share_one_worker_and_each_gets_its_answer(wine: Run, bare_wine: Run, forgetful: None) -> None:
    queries = [int(query) for query in wine.plan("label")[:6]] * 2
    with ThreadPoolExecutor(len(queries)) as pool:
        answers = list(pool.map(lambda query: ask(bare_wine, query, "label"), queries))
    for query, answer in zip(queries, answers, strict=True):
        assert_stored(answer, wine, query, "label")
    assert all(a is b for a, b in zip(answers[:6], answers[6:], strict=True))
    assert len(workers(run=bare_wine)) == 1


def test_mistakes_in_a_question_are_sentences(bare_wine: Run, bare_digits: Run) -> None:
    rows = bare_wine.meta().test
    with pytest.raises(SettingsError, match=rf"Expected a test row in 0\.\.{rows - 1}; found {rows}"):
        ask(bare_wine, rows, "label")
    with pytest.raises(
        SettingsError, match="Expected target to be one of label, prediction, margin, contrast; found 'moon'"
    ):
        ask(bare_wine, 0, "moon")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"found 'alcoholic'\. Near names: alcohol"):
        ask(bare_wine, 0, "label", Edit(values={"alcoholic": 1.0}))
    with pytest.raises(SettingsError, match="Expected noise, brightness or contrast for an image"):
        ask(bare_digits, 0, "label", Edit(values={"alcohol": 1.0}))
    assert (
        ask(bare_wine, 0, "label").label == ingredients_of(bare_wine).dataset().test.labels[0]
    )  # and the worker goes on


@pytest.mark.slow
def test_a_regression_with_gradient_dot(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 4)).astype(np.float32)
    y = (x @ np.array([1, -2, 0.5, 0]) + 0.1 * rng.normal(size=80)).astype(np.float32)
    np.savez(tmp_path / "r.npz", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    run = compute(tmp_path, Request(str(tmp_path / "r.npz"), model="linear", method="gradient-dot"))
    query = int(run.plan("prediction")[3])
    answer = ask(run, query, "prediction")
    assert_stored(answer, run, query, "prediction")
    assert np.isnan(answer.confidence)
    assert answer.probabilities is None
    assert isinstance(answer.prediction, float)


def test_a_run_of_objects_is_refused_with_the_sentence_of_exports(wine: Run, tmp_path: Path) -> None:
    copytree(wine.path, tmp_path / wine.key, ignore=ignore_patterns("scores"))
    write_json(tmp_path / wine.key / "spec.json", {**read_json(wine.path / "spec.json"), "source": {"kind": "memory"}})
    run = Run.at(tmp_path / wine.key)
    with pytest.raises(RunError) as exported:
        ingredients_of(run)
    with pytest.raises(RunError) as asked:
        ask(run, 0, "label")
    assert str(asked.value) == str(exported.value) == asking.obstacle(run)
    asking.warm(run)
    assert workers(run=run) == []


def test_an_unfinished_run_is_refused(wine: Run, tmp_path: Path) -> None:
    copytree(wine.path, tmp_path / wine.key, ignore=ignore_patterns("fitted.json"))
    with pytest.raises(RunError, match="Expected a run whose model is trained and whose influence is fitted"):
        ask(Run.at(tmp_path / wine.key), 0, "label")


@pytest.mark.slow
def test_data_that_changed_is_said_and_asking_again_starts_anew(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"x_train": rng.normal(size=(20, 3)), "y_train": np.arange(20) % 2}
    arrays |= {"x_test": rng.normal(size=(5, 3)), "y_test": np.arange(5) % 2}
    np.savez(tmp_path / "d.npz", **arrays)
    kept = (tmp_path / "d.npz").read_bytes()
    run = compute(tmp_path, Request(str(tmp_path / "d.npz"), model="linear"))
    np.savez(tmp_path / "d.npz", **{**arrays, "x_test": rng.normal(size=(5, 3))})
    with pytest.raises(Exception, match="changed"):
        ask(run, 0, "label")
    (tmp_path / "d.npz").write_bytes(kept)
    assert_stored(ask(run, 0, "label"), run, 0, "label")


def test_whoever_only_asks_loads_no_torch() -> None:
    code = "import sys; from explorer.jobs import asking; print('torch' in sys.modules, 'streamlit' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]


@pytest.mark.slow
def test_margins_and_contrasts_are_what_the_whole_method_says(wine: Run) -> None:
    """No run stores them: the warm worker against the fitted method in this process."""
    query = int(wine.plan("label")[0])
    name = str(wine.table("queries").set_index("row").loc[query, "id"])
    for target, classes in (("contrast", (2, 0)), ("contrast", (0, 2)), ("margin", (1,)), ("margin", ())):
        answer = ask(wine, query, target, classes=classes)
        ranked = rank_from_run(wine, name, target, classes)
        towards = ranked[ranked["influence"] > 0].head(10)
        np.testing.assert_array_equal(answer.top.towards[: len(towards)], towards["row"])
        np.testing.assert_allclose(answer.top.towards_influence[: len(towards)], towards["influence"], rtol=1e-4)
        assert (answer.target, answer.classes) == (target, classes)
        assert np.isfinite(answer.top.agreement)
    with pytest.raises(SettingsError, match="two different classes for a contrast"):
        ask(wine, query, "contrast", classes=(1, 1))
    with pytest.raises(SettingsError, match=r"in 0\.\.2; found 3"):
        ask(wine, query, "margin", classes=(3,))
    with pytest.raises(SettingsError, match="two classes, P and Q"):
        ask(wine, query, "contrast")
