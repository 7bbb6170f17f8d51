"""The stage for the tests of the answer: routes of app.py and a made-up answer route, under a page with list and answer."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import streamlit as st
import synthetic
from app import allowed, bytes_of, queries, thumbnail
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


def answer(request: Request) -> Response:
    """Two tiles of training rows that follow from the query, and a button that leads to test row 7."""
    ask = request.path_params
    if not allowed(request):
        return Response(status_code=403)
    run, query = synthetic.made(ask["run"]), ask["query"]
    head = f"test-{query:05d}"
    card = f'<section class="ix-card"><div class="ix-id">{head}</div><div>Explaining: {ask["target"]}</div></section>'
    if query == synthetic.NOT_COMPUTED:
        return JSONResponse(
            {"id": head, "ready": False, "soon": True, "card": card, "error": "It is being computed."}, 404
        )
    picture = base64.b64encode(synthetic.thumbnail(ask["run"], "test", query % run.n_test)).decode()
    tiles = "".join(
        f'<div class="ix-tile" role="button" tabindex="0" data-inspect="{row}" data-point="{row}">'
        f'<img class="ix-picture" src="data:image/png;base64,{picture}" alt="train {row}"><b>{row}</b></div>'
        for row in (query + 1, query + 2)
    )
    made = {
        "id": head,
        "ready": True,
        "card": card,
        "trust": '<p class="ix-trust">trusted<script>window.__pwned = 1</script></p>',
        "galleries": f'<div class="ix-galleries">{tiles}<button data-query="7">the seventh</button></div>',
    }
    return bytes_of(request, json.dumps(made).encode(), "application/json")


app = st.App(
    str(Path(__file__).parent / "answer_page.py"),
    routes=[
        Route("/api/runs/{run}/answer/{target}/{query:int}.json", answer),
        Route("/api/runs/{run}/queries.json", queries),
        Route("/api/runs/{name}/thumb/{split}/{row:int}.png", thumbnail),
    ],
)
