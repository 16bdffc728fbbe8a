"""A coordinate network that learns one signal: a picture, a sound or a shape."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from attent_jax import models
from attent_jax.data import ArrayPool, Pool
from attent_jax.training import TrainState
from attent_jax.typing import Params
from experiments.inr import catalogue, pictures, quality, sounds
from experiments.inr.rules import CHUNK_SIZE, ITERATIONS, Rule
from experiments.inr.signals import Signal
from experiments.study.options import OptionError
from experiments.study.workload import Objective, Split, Workload, warmup_cosine

Kind = Literal["picture", "sound", "shape"]
DIMS = {"picture": 2, "sound": 1, "shape": 3}
CHANNELS = {"picture": 3, "sound": 1, "shape": 1}
OBJECTIVES = {
    "picture": Objective("psnr", "dB", margin=0.3, reason="the paper's measure"),
    "sound": Objective("psnr", "dB", margin=0.3, reason="as of the pictures"),
    "shape": Objective("iou", "%", margin=0.3, reason="only the surface is drawn"),
}


class Size(NamedTuple):
    """A kind of signal, and the network that learns it."""

    kind: Kind
    length: int
    """Pixels of a picture's side, samples of a sound, points of a shape's side."""
    rate: int = 8_000
    """Samples per second, of a sound."""
    network: Literal["siren", "fourier"] = "siren"
    width: int = 64
    num_layers: int = 3
    """Hidden ones."""
    learning_rate: float = 1e-3
    """The peak."""
    learning_rates: tuple[tuple[str, float], ...] = ()
    is_decayed: bool = True
    """Whether the learning rate decays over the run, or stays, as the paper's."""

    @property
    def num_points(self) -> int:
        """Coordinates of the signal."""
        return self.length ** DIMS[self.kind]

    def make_network(self) -> Any:
        """The Flax module."""
        channels = CHANNELS[self.kind]
        if self.network == "fourier":
            return models.FourierMLP(channels, self.width, self.num_layers)
        # A sound oscillates thousands of times in [-1, 1] (Sitzmann et al., sec. 4.1).
        first = 3_000.0 if self.kind == "sound" else 30.0
        return models.Siren(channels, self.width, self.num_layers, first_omega_0=first)


def make_workload(
    size: Size, rules: dict[str, Rule], files: Sequence[Path] = ()
) -> Workload:
    """The workload of a size; every seed has another signal.

    Args:
      size: of signal and network.
      rules: of the methods that choose, for pictures of what they chose.
      files: pictures or sounds to learn in place of the catalogue's, one per seed.

    Raises:
      OptionError: a file cannot be used, or a share is less than a coordinate.
    """
    least = min((rule.share for rule in rules.values()), default=1.0)
    if least * size.num_points < 1:
        raise OptionError(
            f"share is {least:g}, less than one of the {size.num_points:,} coordinates "
            f"of a {size.kind}: give {1.1 / size.num_points:.2g} or more."
        )
    for path in files:
        _read(size, path)  # what cannot be used is refused here
    network, dims = size.make_network(), DIMS[size.kind]
    shape = (size.length,) * dims

    def load(seed: int) -> Split:
        signal = _signal(size, seed, files)
        pool = ArrayPool({"coordinates": signal.coordinates, "values": signal.values})
        return Split(pool, pool, {"signal": signal.name, **signal.fingerprint})

    def outputs(params, rng, batch) -> Any:
        return network.apply(params, batch["coordinates"])

    def output_loss(outputs, batch):
        return jnp.mean((outputs - batch["values"]) ** 2, axis=-1)

    def make_optimizer(num_steps, learning_rate):
        if size.is_decayed:
            learning_rate = warmup_cosine(num_steps * ITERATIONS, learning_rate)
        return optax.adam(learning_rate)

    def measure(params, held_out, sharding):
        signal = _all_of(held_out)
        found = _reconstruct(outputs, params, signal)
        return _measures(size.kind, signal["values"], found, shape)

    def snapshot(method: str, state: TrainState, split: Split):
        signal = _all_of(split.train)
        found = {
            "signal": signal["values"],
            "reconstruction": _reconstruct(outputs, state.params, signal),
        }
        if method in rules:
            found |= choice_of(method)(state, signal)
        return {
            name: values.reshape(*shape, *values.shape[1:]).astype(
                bool if values.dtype == bool else np.float16
            )
            for name, values in found.items()
        }

    @functools.cache
    def choice_of(method: str):
        return rules[method].choice(workload)

    workload = Workload(
        name=f"inr-{size.kind}",
        load=load,
        num_examples=size.num_points,
        example={
            "coordinates": jax.ShapeDtypeStruct((dims,), np.float32),
            "values": jax.ShapeDtypeStruct((CHANNELS[size.kind],), np.float32),
        },
        init_params=lambda rng: network.init(rng, jnp.zeros((1, dims))),
        loss_fn=lambda params, rng, batch: output_loss(
            outputs(params, rng, batch), batch
        ),
        make_optimizer=make_optimizer,
        learning_rate=size.learning_rate,
        learning_rates=size.learning_rates,
        evaluate=measure,
        objective=OBJECTIVES[size.kind],
        batch_size=size.num_points,
        score_batch_size=size.num_points,
        outputs_fn=outputs,
        output_loss_fn=output_loss,
        snapshot=snapshot,
    )
    return workload


def _signal(size: Size, seed: int, files: Sequence[Path]) -> Signal:
    if files:
        return _read(size, files[seed % len(files)])
    return catalogue.signal_of_seed(size.kind, seed, size.length, rate=size.rate)


def _read(size: Size, path: Path) -> Signal:
    if size.kind == "picture":
        return pictures.load_picture(path, size.length)
    if size.kind == "sound":
        return sounds.load_sound(path, size.length / size.rate, rate=size.rate)
    raise OptionError(
        f"signals has {path}, but a preset of shapes learns its own: choose a preset "
        f"of pictures or sounds."
    )


def _all_of(pool: Pool) -> dict[str, np.ndarray]:
    return pool.take(np.arange(len(pool)))


def _reconstruct(
    outputs: Callable[..., Any], params: Params, signal: dict[str, np.ndarray]
) -> np.ndarray:
    """The network's values everywhere, in parts that bound the memory."""
    apply = _jitted(outputs)
    parts = np.array_split(
        signal["coordinates"], -(-len(signal["coordinates"]) // CHUNK_SIZE)
    )
    return np.concatenate(
        [np.asarray(apply(params, None, {"coordinates": part})) for part in parts]
    )


@functools.cache
def _jitted(function: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(function)


def _measures(
    kind: Kind, values: np.ndarray, found: np.ndarray, shape: tuple[int, ...]
) -> dict[str, float]:
    """The kind's objective first."""
    if kind == "shape":
        return {"iou": 100 * quality.iou(values, found)}
    psnr = {"psnr": quality.psnr(values, found, peak_to_peak=2.0)}
    if kind == "sound":
        return psnr | {"snr": quality.signal_to_noise(values, found)}
    grid = (*shape, -1)
    return psnr | {"ssim": quality.ssim(values.reshape(grid), found.reshape(grid))}
