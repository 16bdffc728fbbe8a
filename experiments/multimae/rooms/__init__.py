"""Procedural rooms: RGB, exact depth, exact semantics and a room type, by id.

A room is drawn from a seed and its id alone, so any part of an endless data set can be
made anywhere. `RoomDistribution` sets what is common and what is rare.
"""

from experiments.multimae.rooms.furniture import CLASSES
from experiments.multimae.rooms.rendering import (
    GROUP_NAMES,
    LABELS,
    Groups,
    Rooms,
    group_numbers,
    make_pool,
    render,
)
from experiments.multimae.rooms.sampling import RoomDistribution

__all__ = [
    "CLASSES",
    "GROUP_NAMES",
    "LABELS",
    "Groups",
    "RoomDistribution",
    "Rooms",
    "group_numbers",
    "make_pool",
    "render",
]
