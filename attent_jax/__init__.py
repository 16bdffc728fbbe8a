"""Online example selection for training attention networks, in JAX.

scores      how much is there to learn from this example?
selectors   which examples next?
schedules   ratio and interval over time; the teaching plan
teachers    when to score, when to select anew, what is being taught
training    train steps, scoring passes, what they cost and how long they take
data        pools with stable ids; a selection turned into an epoch of batches
distributed meshes, shardings, selection over many devices, several hosts
checkpointing a run's whole state, saved and restored
models      Flax attention learners
typing      the vocabulary: what each of these callables takes and returns
"""

from importlib.metadata import version

from attent_jax import (
    checkpointing,
    data,
    distributed,
    models,
    schedules,
    scores,
    selectors,
    teachers,
    training,
    typing,
)

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
