"""Checkpoints: all that a run needs to continue as if it had never stopped."""

from attent_jax.checkpointing._checkpointer import Checkpoint, Checkpointer
from attent_jax.checkpointing._files import CheckpointError
from attent_jax.checkpointing._leaves import checksum

__all__ = ["Checkpoint", "CheckpointError", "Checkpointer", "checksum"]
