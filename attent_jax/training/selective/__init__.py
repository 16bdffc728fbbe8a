"""Gradients of a selected part of the batch, and the proof that rows stay apart."""

from attent_jax.training.selective._selective_gradient import (
    SelectiveInfo,
    selective_value_and_grad,
)
from attent_jax.training.selective._selective_train_step import (
    SelectiveTrainInfo,
    make_selective_train_step,
)
from attent_jax.training.selective._token_selective_loss import token_selective_loss

__all__ = [
    "SelectiveInfo",
    "SelectiveTrainInfo",
    "make_selective_train_step",
    "selective_value_and_grad",
    "token_selective_loss",
]
