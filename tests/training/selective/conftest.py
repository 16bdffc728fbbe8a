"""Fixtures for losses written as users write them."""

import jax
import pytest


@pytest.fixture
def standard_promotion():
    """Types promote as by default: Flax and losses rely on it."""
    with jax.numpy_dtype_promotion("standard"):
        yield
