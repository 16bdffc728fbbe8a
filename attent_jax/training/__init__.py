"""Train steps, selective gradients, scoring passes, their cost and their time."""

from attent_jax.training._cost import PlanCost, cost
from attent_jax.training._score_pool import score_pool
from attent_jax.training._select_tokens import select_tokens
from attent_jax.training._selective_gradient import (
    SelectiveInfo,
    selective_value_and_grad,
)
from attent_jax.training._selective_train_step import (
    SelectiveTrainInfo,
    build_selective_train_step,
)
from attent_jax.training._timer import Timer
from attent_jax.training._train_step import (
    TrainInfo,
    TrainState,
    build_train_step,
    init_train_state,
)

__all__ = [
    "PlanCost",
    "SelectiveInfo",
    "SelectiveTrainInfo",
    "Timer",
    "TrainInfo",
    "TrainState",
    "build_selective_train_step",
    "build_train_step",
    "cost",
    "init_train_state",
    "score_pool",
    "select_tokens",
    "selective_value_and_grad",
]
