"""What does the server answer besides the page? Routes for the map, the list and the answers, and a health check.

Started by `explorer open` as `streamlit run server.py`. Every data route asks for a session's token.
"""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import streamlit as st
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from explorer.contracts import TARGETS, Target
from explorer.errors import ExplorerError, RunError
from explorer.store import Run
from explorer.ui import drawn, load, memory, tokens, wire

IDENTITY = {"Content-Encoding": "identity"}
"""Keeps the built-in gzip away: it costs 25 times the transfer of an 8 MB row on one machine."""


TRIM = BackgroundTask(memory.trim)
"""After answers of megabytes."""
HOUR, NEVER = {"Cache-Control": "private, max-age=3600"}, {"Cache-Control": "private, no-store"}
"""For what never changes, and for what changes while a run grows."""


def _guarded(answer: Callable[[Request, Run], Response]) -> Callable[[Request], Response]:
    def handle(request: Request) -> Response:
        if not tokens.is_known(request.query_params.get("token", "")):
            return _refuse(403, "This page's session has ended. Reload the page.")
        try:
            return answer(request, load.open_run(request.path_params["run"]))
        except ExplorerError as error:
            return _refuse(404, str(error))

    return handle


def points(request: Request, run: Run) -> Response:
    """Coordinates, classes and marks of all points of a layout."""
    layout = request.path_params["layout"]
    if layout not in run.layouts():
        return _refuse(404, f"The map {layout!r} is not computed yet.")
    body = wire.points(run, layout)
    return Response(body, media_type="application/octet-stream", headers=IDENTITY, background=TRIM)


def influence(request: Request, run: Run) -> Response:
    """One int8 influence row with its strongest examples."""
    target, query = _asked(request, run)
    body = wire.influence(load.top(run, query, target), load.row(run, query, target))
    return Response(body, media_type="application/octet-stream", headers=IDENTITY | HOUR)


def lesson(request: Request, run: Run) -> Response:
    """What teaching a training example once changes, as an int8 row over all points with the strongest of them."""
    row, size = int(request.path_params["row"]), load.meta(run).train
    if not 0 <= row < size:
        raise RunError(f"Expected a training row in 0..{size - 1}; found {row}. Choose an example on the map.")
    body = wire.lesson(load.lesson(run, row))
    return Response(body, media_type="application/octet-stream", headers=IDENTITY | HOUR)


def answer(request: Request, run: Run) -> Response:
    """What the panel shows of one prediction; kept by the browser only as long as the run is as the page knows it."""
    target, query = _asked(request, run)
    try:
        body = drawn.answer(run, query, target)
    except ExplorerError as error:
        return JSONResponse(drawn.without_answer(run, query, target, error), 404, headers=NEVER)
    known = request.query_params.get("version") == load.seen(run)
    return Response(body, media_type="application/json", headers=IDENTITY | (HOUR if known else NEVER))


def _asked(request: Request, run: Run) -> tuple[Target, int]:
    """Target and test row of an address.

    Raises:
        RunError: there is none such.
    """
    wanted, query = request.path_params["target"], int(request.path_params["query"])
    target = next((name for name in TARGETS if name == wanted), None)
    tests = load.meta(run).test
    if target is None or not 0 <= query < tests:
        raise RunError(
            f"Expected one of {', '.join(TARGETS)} and a test row in 0..{tests - 1}; found {wanted!r} and {query}. "
            "Choose a prediction in the list."
        )
    return target, query


def queries(request: Request, run: Run) -> Response:  # noqa: ARG001 - one signature for all routes
    """The list of test predictions."""
    return Response(wire.queries(run), media_type="application/json", background=TRIM)


def thumbnail(request: Request, run: Run) -> Response:
    """One picture."""
    split = request.path_params["split"]
    body = wire.thumbnail(run, split, int(request.path_params["row"])) if split in ("train", "test") else None
    if body is None:
        return _refuse(404, "There is no picture of this example.")
    return Response(body, media_type="image/png", headers=IDENTITY | HOUR)


def text(request: Request, run: Run) -> Response:
    """What one example of a run of texts says."""
    body = wire.text(run, request.path_params["split"], int(request.path_params["row"]))
    return (
        _refuse(404, "There is no text of this example.")
        if body is None
        else JSONResponse(body, headers=IDENTITY | HOUR)
    )


def health(request: Request) -> Response:  # noqa: ARG001 - the framework passes the request
    """Whether the server answers; needs no token and tells nothing else."""
    return JSONResponse({"status": "ok"})


def session(request: Request) -> Response:
    """204 while this server knows the token's session, 403 once it does not."""
    return Response(status_code=204 if tokens.is_known(request.query_params.get("token", "")) else 403)


@asynccontextmanager
async def lifespan(app: st.App) -> AsyncIterator[None]:  # noqa: ARG001 - the framework passes the app
    """Load what every page needs and take it out of the garbage collector's rounds: they cost on every click."""
    import numpy  # noqa: F401
    import pandas  # noqa: F401
    import plotly.graph_objects  # noqa: F401

    from explorer.ui import explore, laboratory, memorized, runs  # noqa: F401

    memory.give_back_what_is_freed()
    gc.collect()
    gc.freeze()
    yield


def _refuse(status: int, reason: str) -> Response:
    return JSONResponse({"error": reason}, status_code=status)


BASE = "/api/runs/{run}"
app = st.App(
    Path(__file__).with_name("app.py"),
    lifespan=lifespan,
    routes=[
        Route("/api/health", health),
        Route("/api/session", session),
        Route(BASE + "/points/{layout}.bin", _guarded(points)),
        Route(BASE + "/influence/lesson/{row:int}.bin", _guarded(lesson)),
        Route(BASE + "/influence/{target}/{query:int}.bin", _guarded(influence)),
        Route(BASE + "/answer/{target}/{query:int}.json", _guarded(answer)),
        Route(BASE + "/queries.json", _guarded(queries)),
        Route(BASE + "/text/{split}/{row:int}.json", _guarded(text)),
        Route(BASE + "/thumb/{split}/{row:int}.png", _guarded(thumbnail)),
    ],
)
