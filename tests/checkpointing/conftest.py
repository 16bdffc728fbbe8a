"""Fixtures of the tests that make orbax fail."""

import gc
import sys

import pytest


@pytest.fixture
def orbax_fails(monkeypatch):
    """For tests in which orbax fails to read or write.

    What it does beside leaves broken coroutines behind. They are collected only once
    the test's frame has gone; later they would count as the failures of another test.
    """
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    yield
    gc.collect()
