"""Pieces of a page: plain data in, the user's choice out; they know no runs, jobs or methods."""
