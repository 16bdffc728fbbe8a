"""Which checkpoints are kept."""

from collections.abc import Sequence

from orbax.checkpoint import checkpoint_managers


class LastAndBest:
    """An orbax preservation policy: `keep_last`, and the best of known quality.

    Orbax's own would read each step's metrics at the start, and fail on a damaged one.
    """

    def __init__(self, keep_last: int):
        self._keep_last = keep_last
        self._qualities: dict[int, float] = {}

    def rate(self, step: int, quality: float | None) -> None:
        """Note the quality of a step's checkpoint; None: not known."""
        self._qualities.pop(step, None)
        if quality is not None:
            self._qualities[step] = quality

    def should_preserve(
        self,
        checkpoints: Sequence[checkpoint_managers.PolicyCheckpointInfo],
        *,
        context: checkpoint_managers.PreservationContext,
    ) -> Sequence[bool]:
        """Of each checkpoint: whether it is kept."""
        del context
        steps = sorted(checkpoint.step for checkpoint in checkpoints)
        kept = set(steps[-self._keep_last :])
        if rated := [step for step in steps if step in self._qualities]:
            kept.add(max(rated, key=lambda step: (self._qualities[step], step)))
        return [checkpoint.step in kept for checkpoint in checkpoints]
