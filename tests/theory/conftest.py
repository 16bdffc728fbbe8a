"""Set-up of the theory's tests."""

import jax
import pytest

# It runs on the jax that wrote the values, and nowhere else.
collect_ignore = ["golden_antk.py"]


@pytest.fixture(autouse=True)
def _compile_fast():
    """Kernels here are tiny, so compiling is the time: half of it is optimisation."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
