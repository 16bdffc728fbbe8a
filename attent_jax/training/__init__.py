"""Train steps, scoring passes, what they cost and how long they take."""

from attent_jax.training._cost import PlanCost, cost
from attent_jax.training._score_pool import score_pool
from attent_jax.training._timer import Timer
from attent_jax.training._train_step import (
    TrainInfo,
    TrainState,
    build_train_step,
    init_train_state,
)

__all__ = [
    "PlanCost",
    "Timer",
    "TrainInfo",
    "TrainState",
    "build_train_step",
    "cost",
    "init_train_state",
    "score_pool",
]
