"""The screen: the only place that imports Streamlit. Pages read runs; they never compute what a job could have written."""
