"""What a figure consists of: a measurement, an image, and verdicts on claims."""

from typing import Any, NamedTuple, Protocol

import numpy as np
from matplotlib.figure import Figure
from rich.progress import Progress

from experiments.study.claims import Finding


class Scale(NamedTuple):
    """The size of the study."""

    num_pool: int
    """N, the number of sequences to train on."""
    num_probe: int
    """Number of held-out sequences on which kernels are recorded."""
    num_tokens: int
    num_steps: int
    """Steps of the longest trainings."""
    num_seeds: int
    """Transformers per point if seeds are compared; at least 3."""
    networks: tuple[tuple[int, int, int], ...]
    """(width, layers, heads) of the networks whose drift is recorded."""
    widths: tuple[int, ...]
    """Widths of the sweep from rich to lazy."""
    limit_widths: tuple[int, ...]
    """Widths of the networks compared with the infinite one."""
    layer_seeds: int
    """Seeds of single attention layers, which train quickly."""


class FigureModule(Protocol):
    """A module of this package: one figure, its measurement and its verdicts."""

    __doc__: str | None

    def measure(self, scale: Scale, progress: Progress) -> Any:
        """Measure what the figure shows; a NamedTuple or a list of them."""
        ...

    def draw(self, data: Any) -> Figure:
        """The picture."""
        ...

    def judge(self, data: Any) -> list[Finding]:
        """The claims, compared with the data."""
        ...


def slope(x: Any, y: Any) -> float:
    """Slope of log y against log x, by least squares."""
    return float(np.polyfit(np.log(np.asarray(x)), np.log(np.asarray(y)), 1)[0])
