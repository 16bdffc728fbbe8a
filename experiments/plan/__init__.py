"""Compile an experiment for devices that need not be there, and say what it needs."""
