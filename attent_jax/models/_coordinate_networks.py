"""Coordinate networks: a picture, a sound or a shape as a function of a place."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from attent_jax._checks import check_count, check_number


class Siren(nn.Module):
    """Layers h ← sin(ω₀ (W h + b)), then a linear one: coordinates -> values.

    Scale the coordinates into [−1, 1]. Weights are drawn from U(±1/n) in the first
    layer and from U(±√(6/n) / ω₀) in the others, for n inputs, biases from U(±1/√n).
    ω₀ W h then starts with a standard deviation of about 1 in every hidden layer but
    the first, whatever the width and the depth.

    Example:
      >>> import jax, jax.numpy as jnp, attent_jax
      >>> model = attent_jax.models.Siren(out_features=3, width=16, num_layers=2)
      >>> coordinates = jnp.zeros((5, 2))
      >>> params = jax.jit(model.init)(jax.random.key(0), coordinates)
      >>> model.apply(params, coordinates).shape
      (5, 3)

    Reference: Sitzmann et al., Implicit Neural Representations with Periodic
    Activation Functions (NeurIPS 2020), section 3.2; the biases, and their place
    within ω₀, are those of the authors' implementation.
    """

    out_features: int
    width: int = 256
    num_layers: int = 5
    """Sine layers; the linear layer is one more."""
    first_omega_0: float = 30.0
    """ω₀ of the first layer: the larger, the higher the frequencies that are fitted."""
    hidden_omega_0: float = 30.0
    """ω₀ of the other layers. It scales their gradients, not their initial outputs."""

    @nn.compact
    def __call__(
        self, coordinates: Num[Array, "*batch dims"]
    ) -> Float[Array, "*batch out"]:
        """Values at coordinates `[batch, dims]`, or a grid of them."""
        _check(self, coordinates)
        for name in ("first_omega_0", "hidden_omega_0"):
            check_number(name, getattr(self, name), low=0.0, low_excluded=True)
        omega_0, hidden = self.hidden_omega_0, coordinates
        for number in range(self.num_layers):
            is_first = number == 0
            bound = (
                1 / hidden.shape[-1]
                if is_first
                else math.sqrt(6 / hidden.shape[-1]) / omega_0
            )
            inputs = _dense(self.width, bound, hidden)
            hidden = jnp.sin((self.first_omega_0 if is_first else omega_0) * inputs)
        return _dense(self.out_features, math.sqrt(6 / self.width) / omega_0, hidden)


class FourierMLP(nn.Module):
    """cos(2π B x) and sin(2π B x), then a multilayer perceptron: coordinates -> values.

    Scale the coordinates into [−1, 1] or [0, 1]. The frequencies B are drawn from
    N(0, scale²) by `seed` and are no parameters: params hold only what is trained, so
    that `trainable=True`, weight decay and checkpoints need no exception for them. A
    checkpoint belongs to the model with the same seed.

    Example:
      >>> import jax, jax.numpy as jnp, attent_jax
      >>> model = attent_jax.models.FourierMLP(out_features=1, width=16, num_layers=2)
      >>> coordinates = jnp.zeros((5, 2))
      >>> params = jax.jit(model.init)(jax.random.key(0), coordinates)
      >>> model.apply(params, coordinates).shape
      (5, 1)

    Reference: Tancik et al., Fourier Features Let Networks Learn High Frequency
    Functions in Low Dimensional Domains (NeurIPS 2020), section 6.
    """

    out_features: int
    width: int = 256
    num_layers: int = 4
    """Hidden layers of the perceptron; the linear layer is one more."""
    num_frequencies: int = 256
    """Each gives two features, a cosine and a sine."""
    scale: float = 10.0
    """Standard deviation of the frequencies, in periods per unit of a coordinate."""
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    seed: int = 0
    """Of the frequencies."""

    @nn.compact
    def __call__(
        self, coordinates: Num[Array, "*batch dims"]
    ) -> Float[Array, "*batch out"]:
        """Values at coordinates `[batch, dims]`, or a grid of them."""
        _check(self, coordinates)
        check_count("num_frequencies", self.num_frequencies)
        scale = check_number("scale", self.scale, low=0.0, low_excluded=True)
        seed = check_count("seed", self.seed, minimum=0)
        shape = coordinates.shape[-1], self.num_frequencies
        frequencies = scale * np.random.default_rng(seed).normal(size=shape)
        phases = coordinates @ jnp.asarray(2 * np.pi * frequencies, coordinates.dtype)
        hidden = jnp.concatenate([jnp.cos(phases), jnp.sin(phases)], axis=-1)
        for _ in range(self.num_layers):
            hidden = self.activation(nn.Dense(self.width)(hidden))
        return nn.Dense(self.out_features)(hidden)


def _dense(features: int, bound: float, inputs: Array) -> Array:
    """A linear layer with weights from U(±bound) and biases from U(±1/√n)."""
    bias_bound = 1 / math.sqrt(inputs.shape[-1])
    layer = nn.Dense(
        features, kernel_init=_uniform(bound), bias_init=_uniform(bias_bound)
    )
    return layer(inputs)


def _uniform(bound: float) -> Any:
    """An initializer that draws from U(±bound)."""

    def init(rng, shape, dtype=jnp.float32):
        return jax.random.uniform(rng, shape, dtype, -bound, bound)

    return init


def _check(model: Siren | FourierMLP, coordinates: Any) -> None:
    for name in ("out_features", "width", "num_layers"):
        check_count(name, getattr(model, name))
    if not jnp.issubdtype(coordinates.dtype, jnp.floating):
        raise TypeError(
            f"coordinates must be floating point, got {coordinates.dtype}: scale them "
            f"into [-1, 1]."
        )
