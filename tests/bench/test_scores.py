"""The benchmark of the job says what it promises: both rows of times, and memory that more queries do not raise."""

import json
from pathlib import Path

import pytest

from tests.bench import scores


@pytest.mark.slow
def test_the_small_form_prints_its_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores.main(["--small", "--json", str(tmp_path / "out.json")])
    found = json.loads((tmp_path / "out.json").read_text())
    assert [row["what"] for row in found["times"]] == ["last layer", "last layer and second opinion"]
    assert all(row["ratio"] == pytest.approx(row["ours"] / row["bare"]) for row in found["times"])
    few, many = (row["megabytes"] for row in found["memory"])
    scores_of_many = 3_000 * 20_000 * 4 / scores.MEGABYTE
    assert many < few + scores_of_many / 4
    printed = capsys.readouterr().out
    assert "ratio" in printed
    assert "peak growth MB" in printed
