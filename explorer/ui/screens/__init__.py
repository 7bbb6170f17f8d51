"""One file for each question a user has."""
