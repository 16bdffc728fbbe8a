"""Which signal each seed fits."""

from collections.abc import Sequence

from experiments.inr import clips, pictures, shapes
from experiments.inr.signals import Signal
from experiments.inr.sounds import check_rate
from experiments.study.options import OptionError

KINDS = ("picture", "sound", "shape")
FIRST_TUNING_SEED, FIRST_REPORTED_SEED = 100, 200


def signal_of_seed(kind: str, seed: int, size: int, *, rate: int = 8_000) -> Signal:
    """The signal of a seed.

    Seeds 200, 201, … are the reported signals in their order, seeds 100, 101, … the
    tuning ones. When the signals are used up, they come again with another crop,
    performance or rotation, which depends on the seed alone. Seeds below 100 are such
    variants of tuning signals too. Pictures too small for the size are left out.

    Args:
      kind: one of `KINDS`.
      seed: 0 or more.
      size: points along each axis: pixels, samples or the shape's resolution.
      rate: samples per second, of sounds.

    Returns:
      The signal.

    Raises:
      OptionError: no such kind, seed or size.

    Example:
      >>> signal_of_seed("picture", 200, 32).name, signal_of_seed("shape", 101, 8).name
      ('astronaut', 'cheese')
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise OptionError(f"the seed is {seed!r}. Give an integer, 0 or more.")
    check_rate(rate)
    is_reported = seed >= FIRST_REPORTED_SEED
    names = names_of(kind, size, reported=is_reported)
    number = seed - (FIRST_REPORTED_SEED if is_reported else FIRST_TUNING_SEED)
    name = names[number % len(names)]
    variant = None if 0 <= number < len(names) else seed
    if kind == "picture":
        return pictures.shipped_picture(name, size, crop_seed=variant)
    if kind == "sound":
        return clips.make_clip(name, size / rate, rate, seed=seed)
    return shapes.make_shape(name, size, rotation_seed=variant)


def names_of(kind: str, size: int, *, reported: bool) -> Sequence[str]:
    """Names of the signals that seeds go through.

    Args:
      kind: one of `KINDS`.
      size: as in `signal_of_seed`. Pictures too small for it are left out.
      reported: whether results are reported on them; else those for tuning.

    Returns:
      The names, in the seeds' order.

    Raises:
      OptionError: no such kind, or no picture is large enough.

    Example:
      >>> len(names_of("picture", 128, reported=True))
      13
      >>> len(names_of("picture", 512, reported=True))
      10
    """
    if kind not in KINDS:
        raise OptionError(f"the kind is {kind!r}. Choose one of {', '.join(KINDS)}.")
    modules = {"picture": pictures, "sound": clips, "shape": shapes}
    module = modules[kind]
    names = list(module.REPORTED if reported else module.TUNING)
    if kind == "picture":
        names = [name for name in names if pictures.is_large_enough(name, size)]
        if not names:
            raise OptionError(
                f"no shipped picture is large enough for {size} pixels. Give a smaller "
                "size, or a file of your own."
            )
    return names
