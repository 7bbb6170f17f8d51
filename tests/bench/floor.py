"""What is the least that a click can cost? A Streamlit app whose only fragment says how often its button was pressed."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

app = st.App(Path(__file__).with_name("floor_page.py"))
