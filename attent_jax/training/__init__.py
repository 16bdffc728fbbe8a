"""Train steps, selective gradients, scoring passes, their cost and their time."""

from attent_jax.training._cost import PlanCost, cost
from attent_jax.training._score_pool import score_pool
from attent_jax.training.selective._token_selective_loss import token_selective_loss
from attent_jax.training.selective._selective_gradient import (
    SelectiveInfo,
    selective_value_and_grad,
)
from attent_jax.training.selective._selective_train_step import (
    SelectiveTrainInfo,
    make_selective_train_step,
)
from experiments.timer import Timer
from attent_jax.training._train_step import (
    TrainInfo,
    TrainState,
    make_train_step,
    init_train_state,
)

__all__ = [
    "PlanCost",
    "SelectiveInfo",
    "SelectiveTrainInfo",
    "Timer",
    "TrainInfo",
    "TrainState",
    "make_selective_train_step",
    "make_train_step",
    "cost",
    "init_train_state",
    "score_pool",
    "token_selective_loss",
    "selective_value_and_grad",
]
