"""Settings for all tests and doctests, made before jax or attent_jax is imported."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import jax
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

from tests.array_annotations import checked

install_import_hook("attent_jax", f"{checked.__module__}.{checked.__name__}")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

settings.register_profile(
    "repeatable", deadline=None, derandomize=True, max_examples=30
)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _float64_for_theory(request):
    """Run the tests and examples of theory/ in float64, as its users should."""
    if "theory" in request.path.relative_to(request.config.rootpath).parts[:2]:
        with jax.enable_x64(True):
            yield
    else:
        yield


@pytest.fixture
def compile_fast():
    """Skip XLA's optimisations, which take half of the compile time."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(autouse=True)
def _compile_fast_for_examples(request):
    if isinstance(request.node, pytest.DoctestItem):
        request.getfixturevalue("compile_fast")
