"""What a figure is: a measurement, its picture, and what became of the claims."""

from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from matplotlib.figure import Figure
from rich.progress import Progress

Verdict = Literal["holds", "fails", "inconclusive"]


class Finding(NamedTuple):
    """A claim, and what was measured of it."""

    claim: str
    measured: str
    verdict: Verdict


class Scale(NamedTuple):
    """How large the study is."""

    num_pool: int
    """N, the sequences trained on."""
    num_probe: int
    """Held-out sequences on which kernels are watched."""
    num_tokens: int
    num_steps: int
    """Of the longest trainings."""
    num_seeds: int
    """Transformers per point, where seeds are compared; at least 3."""
    networks: tuple[tuple[int, int, int], ...]
    """(width, layers, heads) whose drift is followed."""
    widths: tuple[int, ...]
    """Of the sweep from rich to lazy."""
    limit_widths: tuple[int, ...]
    """Of the networks compared with the infinite one."""
    layer_seeds: int
    """Of single attention layers, which are quick."""


class Study(Protocol):
    """A module of this package: one figure, its measurement and its verdicts."""

    __doc__: str | None

    def measure(self, scale: Scale, progress: Progress) -> Any:
        """Run what the figure shows; a NamedTuple or a list of them."""
        ...

    def draw(self, data: Any) -> Figure:
        """The picture."""
        ...

    def judge(self, data: Any) -> list[Finding]:
        """The claims, held against the data."""
        ...


def slope(x: Any, y: Any) -> float:
    """Of log y against log x, by least squares."""
    return float(np.polyfit(np.log(np.asarray(x)), np.log(np.asarray(y)), 1)[0])
