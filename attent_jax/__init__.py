"""Online example selection for training attention networks, in JAX.

scores      how much is there to learn from this example?
selectors   which examples next?
schedules   ratio and interval over time
teachers    when to score, when to select again, what is being taught; the plan
training    train steps, selective gradients, scoring passes
data        pools with stable ids; a selection turned into an epoch of batches
distributed meshes, shardings, start-up on several hosts
checkpointing a run's whole state, saved and restored
models      Flax attention learners
typing      the vocabulary: what each of these callables takes and returns
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from attent_jax import (
    data,
    distributed,
    schedules,
    scores,
    selectors,
    teachers,
    training,
    typing,
)

if TYPE_CHECKING:
    from attent_jax import checkpointing, models

__version__ = version("attent-jax")
__all__ = [
    "checkpointing",
    "data",
    "distributed",
    "models",
    "schedules",
    "scores",
    "selectors",
    "teachers",
    "training",
    "typing",
]


def __getattr__(name: str) -> Any:
    # These load flax and orbax, which take as long as all else: when first used.
    if name in ("checkpointing", "models"):
        return import_module(f"attent_jax.{name}")
    raise AttributeError(f"module 'attent_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name[:2] == "__")})
