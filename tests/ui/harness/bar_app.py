"""The stage for the tests of the filter bar: the routes of app.py under a page with bar and list."""

from __future__ import annotations

from pathlib import Path

import streamlit as st
import synthetic
from app import queries, thumbnail
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


def session(request: Request) -> Response:
    return Response(status_code=204 if request.query_params.get("token") == synthetic.TOKEN else 403)


app = st.App(
    str(Path(__file__).parent / "bar_page.py"),
    routes=[
        Route("/api/session", session),
        Route("/api/runs/{run}/queries.json", queries),
        Route("/api/runs/{name}/thumb/{split}/{row:int}.png", thumbnail),
    ],
)
