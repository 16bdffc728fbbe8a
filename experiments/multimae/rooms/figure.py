"""Pictures of rooms: `python -m experiments.multimae.rooms.figure rooms.png`."""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.image import imsave

from experiments.multimae.rooms.furniture import CLASSES
from experiments.multimae.rooms.rendering import Rooms, render
from experiments.multimae.rooms.sampling import RoomDistribution

_GAP = 2


def montage(rooms: Rooms, *, num_columns: int) -> Float[np.ndarray, "height width 3"]:
    """Rooms as one picture: rows of RGB, depth (bright is near) and semantics.

    Args:
      rooms: RGB from 0 to 1.
      num_columns: rooms side by side.
    """
    near, far = rooms.depth.min(), rooms.depth.max()
    closeness = 1 - (rooms.depth - near) / max(far - near, 1e-6)
    depth = matplotlib.colormaps["magma"](closeness)[..., :3]
    palette = matplotlib.colormaps["tab20"](np.linspace(0, 1, len(CLASSES)))[:, :3]
    kinds = [rooms.rgb, depth, palette[rooms.semantics]]
    white = ((0, 0), (_GAP, _GAP), (_GAP, _GAP), (0, 0))
    kinds = [np.pad(kind, white, constant_values=1.0) for kind in kinds]
    rows = []
    for first in range(0, len(rooms.rgb) - num_columns + 1, num_columns):
        for kind in kinds:
            rows.append(np.concatenate(list(kind[first : first + num_columns]), axis=1))
    return np.concatenate(rows)


def draw(path: Path, *, num_rooms: int, num_columns: int, size: int, seed: int) -> None:
    """Save pictures of rooms, every clutter level as often as any other.

    Args:
      path: of the PNG file.
      num_rooms: how many.
      num_columns: rooms side by side.
      size: height and width of a room in pixels.
      seed: of the data set.
    """
    rooms = RoomDistribution(label_tail=0.3, clutter_shares=(1, 1, 1, 1))
    pictures = render(
        np.arange(num_rooms), (size, size), seed=seed, rooms=rooms, supersample=3
    )
    imsave(path, np.clip(montage(pictures, num_columns=num_columns), 0, 1))


def main() -> None:
    """Save the pictures that the documentation shows."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--rooms", type=int, default=16)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    draw(
        args.path,
        num_rooms=args.rooms,
        num_columns=args.columns,
        size=args.size,
        seed=args.seed,
    )


if __name__ == "__main__":
    main()
