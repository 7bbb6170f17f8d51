"""How does a table leave the program? Comma-separated, Parquet or JSON bytes of exactly the rows given."""

from __future__ import annotations

import io

import pandas as pd

from explorer.errors import SettingsError


def encode(table: pd.DataFrame, kind: str) -> bytes:
    """The table as the bytes of a file of that kind; JSON is a list of records.

    Raises:
        SettingsError: an unknown kind.
    """
    if kind == "csv":
        return table.to_csv(index=False).encode()
    if kind == "json":
        return (table.to_json(orient="records") or "[]").encode()
    if kind == "parquet":
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        return buffer.getvalue()
    raise SettingsError(f"Expected a format out of csv, parquet, json; found {kind!r}. Choose one of these.")
