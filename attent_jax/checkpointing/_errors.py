"""What is raised of checkpoints."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used (foreign, damaged), or cannot be written."""


class DamageError(Exception):
    """What is damaged; the `Checkpointer` says of which checkpoint, and what to do."""
