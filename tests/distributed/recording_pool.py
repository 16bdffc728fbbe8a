"""A pool that remembers which ids were asked for."""

from typing import Any

import numpy as np

from attent_jax.data import ArrayPool


class RecordingPool(ArrayPool):
    def __init__(self, arrays: Any):
        super().__init__(arrays)
        self.taken: list[list[int]] = []

    def take(self, ids: np.ndarray) -> Any:
        self.taken.append(ids.tolist())
        return super().take(ids)
