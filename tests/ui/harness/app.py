"""A Streamlit app with its own binary routes and made-up runs: the stage for the tests of explorer/ui/scatter."""

from __future__ import annotations

from pathlib import Path

import streamlit as st
import synthetic
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

PLAIN = {"Content-Encoding": "identity"}


def allowed(request: Request) -> bool:
    return request.query_params.get("token") == synthetic.TOKEN


def bytes_of(request: Request, body: bytes, kind: str = "application/octet-stream") -> Response:
    return Response(body, media_type=kind, headers=PLAIN) if allowed(request) else Response(status_code=403)


def points(request: Request) -> Response:
    return bytes_of(request, synthetic.points(request.path_params["run"], request.path_params["layout"]))


def influence(request: Request) -> Response:
    ask = request.path_params
    if ask["query"] == synthetic.NOT_COMPUTED:
        return Response(status_code=404)
    return bytes_of(request, synthetic.influence(ask["run"], ask["target"], ask["query"]))


def queries(request: Request) -> Response:
    return bytes_of(request, synthetic.queries(request.path_params["run"]), "application/json")


def thumbnail(request: Request) -> Response:
    return bytes_of(request, synthetic.thumbnail(**request.path_params), "image/png")


app = st.App(
    str(Path(__file__).parent / "page.py"),
    routes=[
        Route("/api/runs/{run}/points/{layout}.bin", points),
        Route("/api/runs/{run}/influence/{target}/{query:int}.bin", influence),
        Route("/api/runs/{run}/queries.json", queries),
        Route("/api/runs/{name}/thumb/{split}/{row:int}.png", thumbnail),
    ],
)
