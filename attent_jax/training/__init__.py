"""Train steps, selective gradients and scoring passes."""

from attent_jax._trainable import merge_params, partition_params
from attent_jax.training._score_pool import score_pool
from attent_jax.training._train_step import (
    TrainInfo,
    TrainState,
    init_train_state,
    make_train_step,
)
from attent_jax.training.selective import (
    SelectiveInfo,
    SelectiveTrainInfo,
    make_selective_train_step,
    selective_value_and_grad,
    token_selective_loss,
)

__all__ = [
    "SelectiveInfo",
    "SelectiveTrainInfo",
    "TrainInfo",
    "TrainState",
    "init_train_state",
    "make_selective_train_step",
    "make_train_step",
    "merge_params",
    "partition_params",
    "score_pool",
    "selective_value_and_grad",
    "token_selective_loss",
]
