"""Settings for all tests and doctests, made before jax or attent_jax is imported."""

import importlib.metadata
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
# Most of a test's time is the compilation of small programs. These settings divide it
# by four. `optimized` undoes the first; the newest line of jax has no such flags.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
if importlib.metadata.version("jax").startswith("0.10."):
    os.environ["XLA_FLAGS"] += (
        " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    )

import jax
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

from tests.array_annotations import checked

install_import_hook("attent_jax", f"{checked.__module__}.{checked.__name__}")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# They hold no examples, and doctest would import the second by the first's name.
collect_ignore_glob = ["*/conftest.py"]

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
def optimized():
    """Compile as users do: for exact arithmetic, and for the work XLA counts."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
