"""What a person types: every command, every mistake as a sentence with exit code 2, and never a stack trace."""

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
    for command in ("demo", "run", "open", "runs", "cancel", "resume", "export"):
        assert f"  {command} " in done.stdout
    assert "work" not in done.stdout.split("Commands:")[1].split()
    assert done.stdout.strip().endswith("['numpy']")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y_test": None}, "y_test"),
        ({"y_train": np.arange(11) % 2}, "12 rows in x_train and 11 in y_train"),
        ({"y_train": np.r_[np.arange(11) % 2, -1]}, "found -1 in row 11"),
        ({"x_test": np.ones((4, 5), dtype=np.float32)}, "one shape"),
        ({"x_train": np.r_[np.full((1, 3), np.nan), np.ones((11, 3))].astype(np.float32)}, "NaN"),
        ({"classes": np.array(["no", "yes"]), "y_train": np.arange(12) % 3}, "found 2 in row 2"),
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
