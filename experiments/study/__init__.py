"""The machinery that every training experiment shares."""
