"""What the server's routes answer: to whom, how long it may be kept, and what comes where nothing was computed."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from starlette.requests import Request
from starlette.responses import Response

from explorer.contracts import ImagePreview
from explorer.errors import RunError
from explorer.jobs import asking
from explorer.store import Run, TopList
from explorer.ui import load, server, tokens, wire
from tests.shown.counted import shares
from tests.ui.conftest import LATE, Copier, Finished, working
from tests.ui.test_views import Tags

BLOCK = "scores/label/00000.safetensors"


def asked(route: Any, run: str, token: str | None = None, version: str = "", **path: Any) -> Response:
    """What a route answers to a session that this server knows (or to `token`)."""
    known = tokens.issue() if token is None else token
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "headers": [],
        "query_string": f"token={known}&version={version}".encode(),
        "path_params": {"run": run, **path},
    }
    answer: Response = server._guarded(route)(Request(scope))
    return answer


def answer(run: Run, query: int, target: str = "label", **more: Any) -> tuple[Response, dict[str, Any]]:
    response = asked(server.answer, run.key, query=query, target=target, **more)
    return response, json.loads(bytes(response.body))


def shown_ids(galleries: str) -> list[str]:
    return [found["title"] or "" for found in Tags(galleries).named("span") if found.get("class") == "ix-label"]


def strongest(run: Run, query: int) -> list[str]:
    """Ids of the ten strongest of each sign, from the run's files."""
    top = run.top(query, "label")
    assert top is not None
    ids = run.table("train")["id"]
    return [str(ids[row]) for rows in (top.towards, top.away) for row in rows[:10] if row >= 0]


class TestAnswer:
    def test_it_holds_the_strongest_examples_in_their_order(self, finished: Finished, copied: Copier) -> None:
        run = copied(finished.digits)
        for query in run.ready()[:3]:
            response, said = answer(run, int(query))
            assert response.status_code == 200
            assert said["ready"] is True
            assert said["id"] == run.table("test")["id"][query]
            assert shown_ids(said["galleries"]) == strongest(run, int(query))
            inspects = [
                found["data-inspect"] for found in Tags(said["galleries"]).named("div") if "data-inspect" in found
            ]
            assert [run.table("train")["id"][int(row or -1)] for row in inspects] == strongest(run, int(query))

    @pytest.mark.parametrize("name", ["digits", "hostile", "regression", "given"])
    @pytest.mark.parametrize("target", ["label", "prediction"])
    def test_every_kind_of_run_has_answers(self, name: str, target: str, finished: Finished, copied: Copier) -> None:
        run = copied(getattr(finished, name))
        _, said = answer(run, int(run.ready()[0]), target)
        for part in ("card", "trust", "galleries"):
            assert not [
                tag for tag in Tags(said[part]).named("img") if not str(tag["src"]).startswith("data:image/png")
            ]
        assert len(shown_ids(said["galleries"])) == 20

    def test_only_sessions_of_this_server_are_answered(self, finished: Finished, copied: Copier) -> None:
        run = copied(finished.digits)
        for route in (server.answer, server.influence):
            refused = asked(route, run.key, token="guess", query=int(run.ready()[0]), target="label")
            assert refused.status_code == 403
            assert b"galleries" not in bytes(refused.body)

    def test_a_browser_keeps_it_only_for_the_run_as_it_is_now(self, finished: Finished, copied: Copier) -> None:
        run = copied(finished.digits)
        query = int(run.ready()[0])
        kept, _ = answer(run, query, version=load.seen(run))
        passing, _ = answer(run, query, version="older")
        assert kept.headers["cache-control"] == "private, max-age=3600"
        assert passing.headers["cache-control"] == "private, no-store"
        assert kept.headers["content-encoding"] == "identity"

    def test_a_run_that_grows_gives_no_old_answers(self, finished: Finished, copied: Copier) -> None:
        run = copied(finished.digits, without=LATE)
        late = {name: (finished.digits / name).read_bytes() for name in LATE}
        before = {int(query): answer(run, int(query))[1]["galleries"] for query in run.ready()}
        for name, data in late.items():
            (run.path / name).write_bytes(data)
        suspect = run.table("memorization")["memorized"].to_numpy()
        flagged = 0
        for query, galleries in before.items():
            assert ">suspect<" not in galleries
            top = run.top(query, "label")
            assert top is not None
            rows = [row for rows in (top.towards, top.away) for row in rows[:10] if row >= 0]
            expected = int(suspect[rows].sum())
            assert answer(run, query)[1]["galleries"].count(">suspect<") == expected
            flagged += expected
        assert flagged > 0

    def test_what_retraining_shows_is_in_the_next_answer(self, finished: Finished, copied: Copier) -> None:
        run = copied(finished.digits)
        query = int(run.ready()[0])
        before, version = answer(run, query)[1]["galleries"], load.seen(run)
        assert ">memorized<" not in before
        known = shares(run)
        assert load.seen(run) != version
        top = run.top(query, "label")
        assert top is not None
        rows = [row for rows in (top.towards, top.away) for row in rows[:10] if row >= 0]
        assert answer(run, query)[1]["galleries"].count(">memorized<") == int(known[rows].sum()) > 0
        assert answer(run, query)[1]["galleries"].count(">suspect<") == before.count(">suspect<")

    @pytest.mark.parametrize(("query", "target"), [(10**6, "label"), (0, "other")])
    def test_what_is_not_in_the_run_is_refused_in_words(
        self, query: int, target: str, finished: Finished, copied: Copier
    ) -> None:
        run = copied(finished.digits)
        for route in (server.answer, server.influence):
            response = asked(route, run.key, query=query, target=target)
            assert response.status_code == 404
            assert re.search(r"a test row in 0..\d+; found", json.loads(bytes(response.body))["error"])

    def test_an_unknown_run_is_refused_in_words(self, finished: Finished, copied: Copier) -> None:
        copied(finished.digits)
        response = asked(server.answer, "nothing", query=0, target="label")
        assert response.status_code == 404
        assert "Expected" in json.loads(bytes(response.body))["error"]


class TestNotComputed:
    def test_a_planned_answer_of_a_running_job_comes_soon(
        self, finished: Finished, copied: Copier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = copied(finished.digits, without=(*LATE, BLOCK), **working())
        monkeypatch.setattr(asking, "ask", never)
        query = int(run.plan("label")[0])
        response, said = answer(run, query)
        assert response.status_code == 404
        assert response.headers["cache-control"] == "private, no-store"
        assert (said["ready"], said["soon"]) == (False, True)
        assert run.table("test")["id"][query] in said["card"]
        assert asked(server.influence, run.key, query=query, target="label").status_code == 404
        (run.path / BLOCK).write_bytes((finished.digits / BLOCK).read_bytes())
        assert answer(run, query)[1]["ready"] is True

    def test_what_no_job_will_compute_is_asked_of_the_worker(
        self, finished: Finished, copied: Copier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = copied(finished.digits)
        planned = int(run.ready()[0])
        other = unplanned(run)
        questions: list[tuple[int, str]] = []

        def ask(run: Run, query: int, target: Any) -> asking.Answer:
            questions.append((query, target))
            top, row = run.top(planned, "label"), run.row(planned, "label")
            assert top is not None
            assert row is not None
            preview = ImagePreview(np.zeros((8, 8), np.uint8))
            return asking.Answer(top, row, 1, 1, 0.5, 0.7, False, None, preview, target, 0.1)

        monkeypatch.setattr(asking, "ask", ask)
        _, said = answer(run, other)
        assert said["id"] == run.table("test")["id"][other]
        assert shown_ids(said["galleries"]) == strongest(run, planned)
        sent = bytes(asked(server.influence, run.key, query=other, target="label").body)
        stored = bytes(asked(server.influence, run.key, query=planned, target="label").body)
        assert sent == stored
        assert set(questions) == {(other, "label")}

    def test_why_the_worker_cannot_answer_is_said_beside_the_card(
        self, finished: Finished, copied: Copier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = copied(finished.digits)
        monkeypatch.setattr(asking, "ask", refusing)
        other = unplanned(run)
        response, said = answer(run, other)
        assert response.status_code == 404
        assert (said["ready"], said["soon"]) == (False, False)
        assert said["error"] == "Expected a reason; found one."
        assert run.table("test")["id"][other] in said["card"]


def never(*question: Any) -> asking.Answer:
    raise AssertionError("the worker was asked for what the job computes")


def refusing(*question: Any) -> asking.Answer:
    raise RunError("Expected a reason; found one.")


def unplanned(run: Run) -> int:
    """A test row that is not planned for either target."""
    planned = set(run.plan("label").tolist()) | set(run.plan("prediction").tolist())
    return next(row for row in range(run.meta().test) if row not in planned)


class TestBytes:
    def test_an_influence_row_is_as_it_is_documented(self) -> None:
        top = TopList(
            np.array([2, 0, -1]), np.ones(3, np.float32), np.array([1, -1, -1]), np.ones(3, np.float32), 1.0, 0.5, 0.5
        )
        row = load.Row(np.array([127, -127, 3, 0], np.int8), 0.25)
        raw = wire.influence(top, row)
        assert np.frombuffer(raw, "<u4", 3).tolist() == [4, 2, 1]
        assert np.frombuffer(raw, "<f4", 1, 12).tolist() == [0.25]
        assert np.frombuffer(raw, "<i4", 3, 16).tolist() == [2, 0, 1]
        assert np.frombuffer(raw, "i1", 4, 28).tolist() == [127, -127, 3, 0]
        assert len(raw) == 32
