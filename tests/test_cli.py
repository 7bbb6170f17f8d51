"""What a person types: every command, every mistake as a sentence with exit code 2, and never a stack trace."""

import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from explorer.cli import main
from explorer.contracts import FORMAT_VERSION
from explorer.influence import METHODS
from explorer.jobs.pipeline import STAGES
from explorer.jobs.query import rank_from_run
from explorer.store import Run, write_json


def explorer(*words: object) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(main, [str(word) for word in words])


def refused(result: Result, words: str) -> None:
    """The command ended with exit code 2 and a sentence, not with a trace."""
    assert result.exit_code == 2, result.output
    assert words in result.output
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


def arrays(path: Path, **changes: object) -> Path:
    """A small array file with some arrays replaced (None = left out)."""
    rng = np.random.default_rng(0)
    content = {
        "x_train": rng.normal(size=(12, 3)).astype(np.float32),
        "y_train": np.arange(12) % 2,
        "x_test": rng.normal(size=(4, 3)).astype(np.float32),
        "y_test": np.arange(4) % 2,
    }
    np.savez(path, **{name: value for name, value in (content | changes).items() if value is not None})
    return path


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom explorer.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'streamlit', 'pandas', 'sklearn', 'umap', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for command in (
        "demo",
        "run",
        "check",
        "memorized",
        "act",
        "clean",
        "teach",
        "world",
        "methods",
        "open",
        "runs",
        "cancel",
        "resume",
        "query",
        "export",
    ):
        assert f"  {command} " in done.stdout
    assert "work" not in done.stdout.split("Commands:")[1].split()
    assert done.stdout.strip().endswith("['numpy']")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y_test": None}, "y_test"),
        pytest.param({"y_train": np.arange(11) % 2}, "12 rows in x_train and 11 in y_train", marks=pytest.mark.slow),
        pytest.param({"y_train": np.r_[np.arange(11) % 2, -1]}, "found -1 in row 11", marks=pytest.mark.slow),
        pytest.param({"x_test": np.ones((4, 5), dtype=np.float32)}, "one shape", marks=pytest.mark.slow),
        pytest.param(
            {"x_train": np.r_[np.full((1, 3), np.nan), np.ones((11, 3))].astype(np.float32)},
            "NaN",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"classes": np.array(["no", "yes"]), "y_train": np.arange(12) % 3},
            "found 2 in row 2",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_wrong_data_is_said_and_the_run_is_not_lost(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    path = arrays(tmp_path / "d.npz", **changes)
    refused(explorer("run", "--data", path, "--runs", tmp_path / "runs"), words)
    listed = explorer("runs", "--runs", tmp_path / "runs")
    assert listed.exit_code == 0
    assert "failed" in listed.output
    assert words in listed.output


def test_a_missing_file_an_unknown_source_and_bad_numbers(tmp_path: Path) -> None:
    refused(explorer("run", "--data", tmp_path / "absent.npz"), "absent.npz")
    refused(explorer("run", "--data", "cifar"), "Expected data to be one of")
    refused(explorer("run", "--data", "wine", "--epochs", 0), "Expected epochs >= 1; found 0")
    refused(explorer("run", "--data", "wine", "--damping", -1), "Expected damping >= 0")
    refused(explorer("run", "--data", "wine", "--seed", -1), "Expected seed in 0..2^32 - 1; found -1")
    refused(explorer("run", "--data", "wine", "--rate", "inf"), "Expected rate > 0 and finite; found inf")
    (tmp_path / "x.npz").write_bytes(b"not a zip")
    refused(explorer("run", "--data", tmp_path / "x.npz"), "x.npz")
    refused(explorer("run"), "Missing option '--data'")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "damping=much"], "Expected damping to be a number or auto; found 'much'"),
        (["--set", "damping"], "Expected a setting as key=value; found 'damping'"),
        (["--set", "damping=1", "--set", "damping=2"], "Expected the setting damping once"),
        (
            ["--set", "damping=1", "--damping", 2],
            "Expected damping once; found --damping 2.0 beside the setting damping=1",
        ),
        (["--set", "depth=1"], "Expected settings of last-layer out of damping; found depth"),
        (["--layers", "head"], "Expected settings of last-layer out of damping; found --layers"),
        (
            ["--method", "gradient-dot", "--damping", 1],
            "Expected settings of gradient-dot out of none; found --damping, which is for last-layer",
        ),
        (["--method", "magic"], "Expected a method out of last-layer"),
        (["--json"], "Expected --json with --estimate or --background"),
        (["--estimate", "--damping", -1], "Expected damping >= 0"),
    ],
)
def test_wrong_settings_start_nothing(tmp_path: Path, words: list[object], said: str) -> None:
    refused(explorer("run", "--data", "wine", "--runs", tmp_path, *words), said)
    assert list(tmp_path.iterdir()) == []


def test_settings_reach_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Run] = []
    monkeypatch.setattr("explorer.jobs.start", started.append)
    words = ("run", "--data", "wine", "--set", "damping=0.25", "--background", "--runs", tmp_path)
    assert "goes on in the background" in explorer(*words).output
    told = json.loads(explorer(*words, "--json").output)
    assert told == {"run": started[0].key, "path": str(started[0].path)}
    assert [run.spec["method"] for run in started] == [{"name": "last-layer", "settings": {"damping": 0.25}}] * 2


def test_methods_are_listed_with_their_settings() -> None:
    listed = explorer("methods").output
    told = json.loads(explorer("methods", "--json").output)
    assert [one["name"] for one in told] == list(METHODS)
    assert [one["name"] for one in told if one["python_only"]] == ["two-stage"]
    assert "two-stage\n  From Python only" in listed
    for one in told:
        assert f"\n{one['name']}\n" in f"\n{listed}"
        assert one["question"] in " ".join(listed.split())
        for setting in one["settings"]:
            assert f"--set {setting['name']}={setting['default']}" in " ".join(listed.split())


def test_an_estimate_says_what_it_would_cost_and_starts_nothing(tmp_path: Path) -> None:
    words = ("run", "--data", "wine", "--estimate", "--epochs", 2, "--queries", 5, "--runs", tmp_path)
    told = json.loads(explorer(*words, "--json").output)
    assert told["seconds"].keys() == told["basis"].keys() == set(STAGES)
    assert told["queries"] == 5
    assert told["disk"] == sum(told["parts"].values())
    said = explorer(*words).output
    for word in (*STAGES, "memory", "disk", "MB free", "5 queries"):
        assert word in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_weights_with_nan_are_said(tmp_path: Path) -> None:
    import torch

    bad = {"1.weight": torch.full((3, 13), float("nan")), "1.bias": torch.zeros(3)}
    torch.save(bad, tmp_path / "w.pt")
    words = ("run", "--data", "wine", "--model", "linear", "--weights", tmp_path / "w.pt", "--runs", tmp_path / "runs")
    refused(explorer(*words), "1.weight")


def test_an_unknown_run(tmp_path: Path) -> None:
    for command in (["open", "zzz"], ["export", "zzz", "--query", "x"], ["cancel", "zzz"], ["resume", "zzz"]):
        refused(explorer(*command, "--runs", tmp_path), "Expected a run named 'zzz'")


def test_an_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(explorer("run", "--data", "wine", "--runs", tmp_path / "file"), "Expected a folder that can be written")


def test_a_run_of_another_version_is_listed_and_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "old" / "spec.json", {"format_version": FORMAT_VERSION - 1})
    listed = explorer("runs", "--runs", tmp_path)
    assert listed.exit_code == 0
    assert "old  unreadable" in listed.output
    refused(explorer("open", "old", "--runs", tmp_path), f"found version {FORMAT_VERSION - 1}")


def test_a_busy_port(wine: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = ("open", wine.key, "--runs", wine.path.parent, "--port", port, "--no-browser")
        refused(explorer(*words), f"found that port {port} is in use. Choose another with --port")


def test_no_runs_says_how_to_make_one(tmp_path: Path) -> None:
    result = explorer("runs", "--runs", tmp_path / "none")
    assert result.exit_code == 0
    assert "explorer demo" in result.output


def test_cancel_of_a_finished_run_says_so(wine: Run) -> None:
    result = explorer("cancel", wine.key, "--runs", wine.path.parent)
    assert result.exit_code == 0
    assert "is done: nothing to cancel" in result.output
    assert not (wine.path / "cancel").exists()


@pytest.mark.parametrize("kind", ["csv", "parquet", "json"])
def test_export_in_every_format(wine: Run, tmp_path: Path, kind: str) -> None:
    query = wine.table("queries")["id"][0]
    output = tmp_path / f"out.{kind}"
    words = ("export", wine.key, "--runs", wine.path.parent, "--query", query, "--format", kind)
    result = explorer(*words, "--output", output)
    assert result.exit_code == 0, result.output
    readers = {
        "csv": pd.read_csv,
        "parquet": pd.read_parquet,
        "json": lambda path: pd.DataFrame(json.loads(path.read_text())),
    }
    table = readers[kind](output)
    assert len(table) == wine.meta().train
    assert table["influence"].is_monotonic_decreasing
    assert set(table["query"]) == {query}


def test_export_of_an_unknown_query(wine: Run) -> None:
    refused(explorer("export", wine.key, "--runs", wine.path.parent, "--query", "nobody"), "found 'nobody'")


def test_why_one_class_rather_than_another(wine: Run) -> None:
    """What the shell says of a contrast is what Python says, in both forms and as an export."""
    query, place = wine.table("queries")["id"][0], ("--runs", wine.path.parent)
    asked = ("--why", "class_2", "--rather", "class_0")
    expected = rank_from_run(wine, query, "contrast", ("class_2", "class_0"))
    result = explorer("query", wine.key, query, *asked, "--top", 3, *place)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == f"{query}: why class_2 rather than class_0?"
    assert lines[1] == f"{wine.meta().train} training examples by last-layer; influence in nats of log-odds."
    assert [line for line in lines if line.startswith("Towards")] == [
        "Towards class_2, away from class_0",
        "Towards class_0, away from class_2",
    ]
    listed = [line.split() for line in lines if line.startswith("  ")]
    strongest = [*expected.head(3).to_dict("records"), *expected.tail(3)[::-1].to_dict("records")]
    assert [words[2] for words in listed] == [row["id"] for row in strongest]
    assert [float(words[0]) for words in listed] == pytest.approx([row["influence"] for row in strongest], rel=1e-3)
    told = json.loads(explorer("query", wine.key, query, *asked, "--json", *place).output)
    assert (told["target"], told["classes"], told["unit"]) == ("contrast", ["class_2", "class_0"], "nats of log-odds")
    assert [row["id"] for row in told["towards"]] == expected["id"].head(5).tolist()
    assert [row["id"] for row in told["away"]] == expected["id"].tail(5).tolist()[::-1]
    exported = explorer("export", wine.key, "--query", query, *asked, "--output", "-", *place)
    assert pd.read_csv(io.StringIO(exported.output))["id"].tolist() == expected["id"].tolist()


def test_other_questions_of_the_shell(wine: Run) -> None:
    query, place = wine.table("queries")["id"][0], ("--runs", wine.path.parent)
    for words, said in (
        ((), "why the given label?"),
        (("--target", "prediction"), "why the model's own answer?"),
        (("--margin", "1"), "why class_1 rather than any other class?"),
    ):
        result = explorer("query", wine.key, query, *words, *place)
        assert result.exit_code == 0, result.output
        assert result.output.startswith(f"{query}: {said}\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--why", "class_1"], "Expected one question: --target, --why with --rather, or --margin; found --why."),
        (["--rather", "class_1"], "found --rather."),
        (["--margin", "class_1", "--target", "label"], "found --target and --margin."),
        (["--why", "class_1", "--rather", "1"], "two different classes for a contrast; found class_1 twice"),
        (["--why", "class_1", "--rather", "class_7"], "found 'class_7'. Choose one of these"),
        (["--margin", "3"], "or its number in 0..2; found 3"),
    ],
)
def test_questions_that_do_not_fit(wine: Run, words: list[str], said: str) -> None:
    query, place = wine.table("queries")["id"][0], ("--runs", wine.path.parent)
    for result in (
        explorer("query", wine.key, query, *words, *place),
        explorer("export", wine.key, "--query", query, *words, "--output", "-", *place),
    ):
        assert result.exit_code == 2
        assert said in " ".join(result.output.split())
    refused(explorer("query", wine.key, "nobody", *place), "found 'nobody'")


def test_what_no_run_stores_is_exported_exactly_or_not(wine: Run) -> None:
    query = wine.table("queries")["id"][0]
    words = ("--query", query, "--margin", "class_1", "--rows", "strongest", "--runs", wine.path.parent)
    refused(explorer("export", wine.key, *words), "Expected --rows all with --why and --margin")


def test_run_end_to_end_with_bars_and_a_summary(tmp_path: Path) -> None:
    command = ["run", "--data", "wine", "--epochs", "3", "--queries", "5", "--runs", str(tmp_path)]
    environment = {**os.environ, "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "explorer", *command], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "is done in" in done.stdout
    assert "test accuracy" in done.stdout
    assert "map (UMAP) 100% |" in done.stderr
    again = explorer(*command)
    assert again.exit_code == 0
    assert "is done in" in again.output
