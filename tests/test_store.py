"""Run directories: whole files, names from content, finding a run, and reading what a block holds."""

import errno
import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from explorer.contracts import FORMAT_VERSION, TARGETS, ImagePreview, RunSpec, TablePreview, Target
from explorer.errors import RunError, SettingsError, StorageError
from explorer.store import (
    Run,
    bundle,
    create,
    find,
    key_of,
    list_runs,
    read_json,
    runs_root,
    write_array,
    write_bundle,
    write_bytes,
    write_json,
    write_table,
)
from explorer.store.export import encode
from explorer.store.files import clear_leftovers
from explorer.store.run import BLOCK, block_name, rows_name

SPEC = RunSpec(
    source={"kind": "digits"}, model={"kind": "mlp"}, recipe={}, method={"name": "last-layer", "settings": {}}
)


META = {"name": "x", "task": "classification", "classes": ["a"], "train": 5, "test": 300, "preview": "image"} | {
    "features": [],
    "notes": [],
    "flipped": 0,
    "copies": 0,
}


def test_arrays_bundles_and_tables_come_back_as_they_went(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    write_array(tmp_path / "a.npy", values[:, ::2])
    assert np.array_equal(np.load(tmp_path / "a.npy"), values[:, ::2])
    write_bundle(tmp_path / "b.safetensors", {"x": values.T, "y": np.array([True, False])})
    back = bundle(tmp_path / "b.safetensors")
    assert np.array_equal(back["x"], values.T)
    assert back["y"].tolist() == [True, False]
    table = pd.DataFrame({"id": ["ä", "b"], "value": [0.5, np.nan]})
    write_table(tmp_path / "t.parquet", table)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), table)


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_bundle(tmp_path / name / "b.safetensors", {"x": np.eye(3), "a": np.ones(2)})
        write_table(tmp_path / name / "t.parquet", pd.DataFrame({"x": [1, 2]}))
        write_json(tmp_path / name / "j.json", {"b": 1, "a": [1.5]})
    for file in ("b.safetensors", "t.parquet", "j.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_full_disk_leaves_the_old_file_whole_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes(tmp_path / "x", b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"found it full.*Free some space"):
        write_bytes(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_what_killed_writers_left_is_cleared_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(_: int) -> None:
        monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
        raise OSError(errno.EIO, "killed here")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", killed)
        with pytest.raises(StorageError):
            write_bytes(tmp_path / "sub" / "x.npy", b"half")
        monkeypatch.undo()
    (left,) = (tmp_path / "sub").iterdir()
    write_bytes(tmp_path / "sub" / "y.npy", b"whole")
    (tmp_path / ".hidden.part").write_bytes(b"a user's own")
    clear_leftovers(tmp_path, lambda pid: pid == os.getpid())
    assert left.exists()  # its writer may still be at it
    clear_leftovers(tmp_path, lambda pid: pid != os.getpid())
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [".hidden.part", "y.npy"]


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_bytes(path, b"0" * 1_000_000)
    stop = threading.Event()

    def rewrite() -> None:
        while not stop.is_set():
            write_bytes(path, b"1" * 1_000_000)
            write_bytes(path, b"0" * 1_000_000)

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        seen = [path.read_bytes() for _ in range(50)]
    finally:
        stop.set()
        writer.join()
    assert all(len(data) == 1_000_000 and len(set(data)) == 1 for data in seen)


def test_an_unwritable_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match=r"Expected a folder that can be written.*--runs"):
        create(tmp_path / "file" / "runs", SPEC)


def test_json_refuses_what_other_readers_refuse(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "x.json", {"x": float("nan")})
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(RunError, match=r"Expected a readable broken\.json"):
        read_json(tmp_path / "broken.json")


def test_the_name_of_a_run_depends_on_settings_not_on_order_or_paths() -> None:
    assert key_of(SPEC) == key_of(replace(SPEC, source=dict(reversed(list({"kind": "digits"}.items())))))
    there = replace(SPEC, source={"kind": "npz", "path": "/a/x.npz", "sha256": "1"})
    assert key_of(there) == key_of(replace(SPEC, source={"kind": "npz", "path": "/b/y.npz", "sha256": "1"}))
    assert key_of(there) != key_of(replace(SPEC, source={"kind": "npz", "path": "/a/x.npz", "sha256": "2"}))
    assert key_of(SPEC) != key_of(replace(SPEC, seed=1))


def test_create_twice_is_one_directory_and_never_overwrites(tmp_path: Path) -> None:
    run = create(tmp_path, SPEC)
    before = (run.path / "spec.json").stat().st_mtime_ns
    assert create(tmp_path, SPEC) == run
    assert (run.path / "spec.json").stat().st_mtime_ns == before
    assert list_runs(tmp_path) == [run.path]


def test_find_by_name_beginning_path_and_latest(tmp_path: Path) -> None:
    first = create(tmp_path, SPEC)
    second = create(tmp_path, replace(SPEC, seed=1))
    os.utime(first.path / "spec.json", (1, 1))
    assert find(tmp_path, first.key) == first
    assert find(tmp_path, first.key[:5]) == first
    assert find(tmp_path, str(first.path)) == first
    assert find(tmp_path, "latest") == second
    (tmp_path / "something else").mkdir()
    assert list_runs(tmp_path) == [second.path, first.path]


def test_unknown_and_ambiguous_names_are_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"found no runs at all.*explorer demo"):
        find(tmp_path, "abc")
    for name in ("aa1", "aa2"):
        write_json(tmp_path / name / "spec.json", {"format_version": FORMAT_VERSION})
    with pytest.raises(RunError, match=r"begins with 'aa'; found 2: .*Type more"):
        find(tmp_path, "aa")
    with pytest.raises(RunError, match="Expected a run named 'zz'"):
        find(tmp_path, "zz")
    with pytest.raises(RunError, match="Expected a run named ''"):
        find(tmp_path, "")


@pytest.mark.parametrize("content", [{"format_version": FORMAT_VERSION + 1}, {}, [1]])
def test_another_format_version_is_refused(tmp_path: Path, content: object) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "spec.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=rf"Expected a run of format version {FORMAT_VERSION}.*Open it with"):
        find(tmp_path, "r")


def test_runs_root_prefers_the_argument_then_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPLORER_RUNS", str(tmp_path / "env"))
    assert runs_root(tmp_path / "arg") == tmp_path / "arg"
    assert runs_root() == tmp_path / "env"
    monkeypatch.delenv("EXPLORER_RUNS")
    monkeypatch.chdir(tmp_path)
    assert runs_root() == tmp_path / "runs"


@pytest.fixture
def scored(tmp_path: Path) -> Run:
    """A run of 300 planned queries over 5 training examples whose second block is missing."""
    run = create(tmp_path, SPEC)
    write_array(run.path / "plan-label.npy", np.arange(300)[::-1].copy())
    write_array(run.path / "plan-prediction.npy", np.array([7, 9]))
    for target, count, sign in (("label", BLOCK, 1), ("prediction", 2, -1)):
        levels = sign * np.tile(np.arange(5, dtype=np.int8), (count, 1)) * np.arange(count)[:, None].astype(np.int8)
        write_array(run.path / rows_name(target, 0), levels.astype(np.int8))
        ones = np.ones((count, 2), dtype=np.float32)
        write_bundle(
            run.path / block_name(target, 0),
            {
                "towards": np.tile(np.array([4, -1], dtype=np.int32), (count, 1)),
                "towards_influence": ones * np.arange(count)[:, None],
                "away": np.tile(np.array([0, 1], dtype=np.int32), (count, 1)),
                "away_influence": -ones,
                "total": np.full(count, 10.0, dtype=np.float32),
                "agreement": np.full(count, 0.5, dtype=np.float32),
                "overlap": np.full(count, 0.25, dtype=np.float32),
                "scale": np.arange(count, dtype=np.float32),
            },
        )
    return run


def test_a_query_is_found_in_its_block(scored: Run) -> None:
    row = scored.row(295, "label")  # position 4 of the plan
    assert row is not None
    assert row.values.tolist() == [0, 4, 8, 12, 16]
    assert row.scale == 4
    top = scored.top(295, "label")
    assert top is not None
    assert (top.towards.tolist(), top.towards_influence.tolist(), top.total) == ([4, -1], [4.0, 4.0], 10.0)
    assert (top.agreement, top.overlap) == (0.5, 0.25)


def test_a_right_prediction_is_answered_by_its_label_and_a_wrong_one_is_not(scored: Run) -> None:
    assert scored.resolve(295, "prediction") == ("label", 4)
    assert scored.resolve(9, "prediction") == ("prediction", 1)
    row = scored.row(9, "prediction")
    assert row is not None
    assert row.values.tolist() == [0, -1, -2, -3, -4]


def test_what_is_not_computed_or_not_planned_is_none(scored: Run) -> None:
    assert scored.resolve(3, "label") == ("label", 296)
    assert scored.row(3, "label") is None
    assert scored.top(3, "label") is None
    assert scored.top(1000, "label") is None
    assert scored.ready().tolist() == list(range(299, 299 - BLOCK, -1))


@pytest.mark.parametrize("target", ["label", "prediction"])
def test_a_column_is_what_the_rows_say_of_one_training_example(scored: Run, target: Target) -> None:
    write_json(scored.path / "data.json", META)
    rows, influence = scored.column(3, target)
    assert sorted(rows) == sorted(scored.ready().tolist() + ([7, 9] if target == "prediction" else []))
    for query, value in zip(rows.tolist(), influence.tolist(), strict=True):
        row = scored.row(query, target)
        assert row is not None
        assert value == pytest.approx(row.values[3] / 127 * row.scale, rel=1e-6)
    assert influence.dtype == np.float32
    with pytest.raises(IndexError, match=r"training row in 0\.\.4; found 5"):
        scored.column(5, target)


def test_a_column_reads_little_of_its_files(scored: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(scored.path / "data.json", META)
    read: list[int] = []
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda file, count, at: read.append(count) or real(file, count, at))
    scored.column(0, "label")
    assert sum(read) == BLOCK


def test_nothing_is_computed_yet(scored: Run) -> None:
    write_json(scored.path / "data.json", META)
    (scored.path / block_name("label", 0)).unlink()
    rows, influence = scored.column(0, "label")
    assert (len(rows), len(influence)) == (0, 0)
    assert scored.neighbors("train", 0) is None
    assert scored.near_duplicates() is None


def test_neighbors_of_both_splits_end_where_there_are_no_more(scored: Run) -> None:
    write_json(scored.path / "data.json", META)
    rows = np.tile(np.array([1, 0, -1], dtype=np.int32), (7, 1)) + np.arange(7, dtype=np.int32)[:, None] * [1, 1, 0]
    distances = np.arange(21, dtype=np.float32).reshape(7, 3)
    write_array(scored.path / "neighbors-rows.npy", rows.astype(np.int32))
    write_array(scored.path / "neighbors-distances.npy", distances)
    write_json(scored.path / "neighbors.json", {"exact": True, "near_duplicate_distance": 3.0, "near_duplicates": 2})
    train, test = scored.neighbors("train", 2), scored.neighbors("test", 1)
    assert train is not None
    assert test is not None
    assert (train.rows.tolist(), train.distances.tolist()) == ([3, 2], [6, 7])
    assert (test.rows.tolist(), test.distances.tolist()) == ([7, 6], [18, 19])
    near = scored.near_duplicates()
    assert near is not None
    assert near.tolist() == [True, True, False, False, False]


def test_sizes_count_every_file_once(scored: Run) -> None:
    write_json(scored.path / "data.json", META)
    write_bytes(scored.path / "log", b"words")
    parts = scored.sizes()
    assert sum(part.bytes for part in parts) == sum(f.stat().st_size for f in scored.path.rglob("*") if f.is_file())
    assert [part.bytes for part in parts] == sorted((part.bytes for part in parts), reverse=True)
    found = {part.files: part.bytes for part in parts}
    blocks = [scored.path / rows_name(target, 0) for target in TARGETS]
    assert found["scores/*/*.npy"] == sum(block.stat().st_size for block in blocks)


def test_previews_by_kind(tmp_path: Path) -> None:
    run = create(tmp_path, SPEC)
    data = {"name": "x", "task": "classification", "classes": ["a", "b"], "train": 2, "test": 1, "preview": "table"}
    write_json(run.path / "data.json", {**data, "features": ["f", "g"], "notes": [], "flipped": 0, "copies": 0})
    write_array(run.path / "preview-test.npy", np.zeros((1, 2, 2), dtype=np.uint8))
    assert isinstance(run.preview("test", 0), ImagePreview)
    write_array(run.path / "preview-train.npy", np.array([[1, 2], [3, 4]], dtype=np.float32))
    write_array(run.path / "unusual-train.npy", np.array([[0, 0], [0, -2.5]], dtype=np.float32))
    shown = run.preview("train", 1)
    assert isinstance(shown, TablePreview)
    assert (shown.names, shown.values.tolist(), shown.unusual.tolist()) == (("f", "g"), [3, 4], [0, -2.5])


def test_exports_hold_exactly_the_rows(tmp_path: Path) -> None:
    table = pd.DataFrame({"id": ["a,b", "c"], "influence": [0.25, -1e-9]})
    (tmp_path / "t.csv").write_bytes(encode(table, "csv"))
    (tmp_path / "t.parquet").write_bytes(encode(table, "parquet"))
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "t.csv"), table)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), table)
    assert [record["id"] for record in json.loads(encode(table, "json"))] == ["a,b", "c"]
    with pytest.raises(SettingsError, match="csv, parquet, json"):
        encode(table, "xlsx")
