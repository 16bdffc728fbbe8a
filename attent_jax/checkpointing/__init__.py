"""Checkpoints: all that a run needs to go on as if it had never stopped."""

from attent_jax.checkpointing._checkpointer import Checkpoint, Checkpointer
from attent_jax.checkpointing._errors import CheckpointError

__all__ = ["Checkpoint", "CheckpointError", "Checkpointer"]
