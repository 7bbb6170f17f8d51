"""The page's frame: configuration and navigation, nothing else."""

from pathlib import Path

import streamlit as st

from explorer.ui import frame

# Not named `pages`: Streamlit would run such a folder's files by itself, without this frame.
PAGES = Path(__file__).parent / "screens"
ICON = Path(__file__).with_name("icon.png")  # a file of our own: a named icon would be fetched from the outside

st.set_page_config(page_title="Influence Explorer", page_icon=ICON, layout="wide")
page = st.navigation(
    [
        st.Page(PAGES / "explore.py", title="Explore", icon=":material/travel_explore:", default=True),
        st.Page(PAGES / "memorized.py", title="Memorized", icon=":material/psychology:"),
        st.Page(PAGES / "laboratory.py", title="Laboratory", icon=":material/science:"),
        st.Page(PAGES / "runs.py", title="Runs", icon=":material/list_alt:"),
    ],
    position="top",
)
frame.style()
page.run()
