"""The floor's page: an empty fragment, a button, a number."""

import streamlit as st


def count() -> None:
    st.session_state["count"] = st.session_state.get("count", 0) + 1


@st.fragment(key="floor")
def floor() -> None:
    st.button("Again", on_click=count)
    st.html(f'<p class="count">{st.session_state.get("count", 0)}</p>')


floor()
