"""Set-up of the theory's tests."""

import pytest

# It runs on the jax that wrote the values, and nowhere else.
collect_ignore = ["golden_antk.py"]


@pytest.fixture(autouse=True)
def _compile_fast(compile_fast):
    """Kernels here are tiny."""
