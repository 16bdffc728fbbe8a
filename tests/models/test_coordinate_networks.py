"""The coordinate networks: what they compute, and how a SIREN starts."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax.models import FourierMLP, Siren
from attent_jax.training import partition_params

COORDINATES = jax.random.uniform(jax.random.key(0), (7, 2), minval=-1, maxval=1)
SIREN = Siren(3, width=6, num_layers=3, first_omega_0=20.0, hidden_omega_0=8.0)
FOURIER = FourierMLP(3, width=6, num_layers=2, num_frequencies=5, scale=0.7, seed=4)
MODELS = {"Siren": SIREN, "FourierMLP": FOURIER}
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def parameters(model) -> Any:
    """Normal ones, drawn in NumPy: compiling the initializers takes long."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 2, leaf.dtype),
        jax.eval_shape(model.init, jax.random.key(0), COORDINATES),
    )


def in_numpy(params, number, inputs):
    layer = params["params"][f"Dense_{number}"]
    kernel, bias = (np.asarray(layer[name], np.float64) for name in ("kernel", "bias"))
    return np.einsum("bi,io->bo", inputs, kernel) + bias


def test_a_siren_is_its_formula():
    params, hidden = parameters(SIREN), np.asarray(COORDINATES, np.float64)
    for number, omega_0 in enumerate([20.0, 8.0, 8.0]):
        hidden = np.sin(omega_0 * in_numpy(params, number, hidden))
    expected = in_numpy(params, 3, hidden)
    outputs = jax.jit(SIREN.apply)(params, COORDINATES)
    np.testing.assert_allclose(np.asarray(outputs), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("activation", [nn.relu, nn.gelu])
def test_a_fourier_mlp_is_its_formula(activation):
    model: Any = dataclasses.replace(FOURIER, activation=activation)
    params = parameters(model)
    frequencies = 0.7 * np.random.default_rng(4).normal(size=(2, 5))
    phases = 2 * np.pi * np.asarray(COORDINATES, np.float64) @ frequencies
    hidden = np.concatenate([np.cos(phases), np.sin(phases)], axis=1)
    for number in range(2):
        hidden = np.asarray(activation(jnp.asarray(in_numpy(params, number, hidden))))
    expected = in_numpy(params, 2, hidden)
    outputs = jax.jit(model.apply)(params, COORDINATES)
    np.testing.assert_allclose(np.asarray(outputs), expected, rtol=1e-4, atol=1e-5)


@every_model
def test_gradients_are_finite_differences(model):
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), parameters(model))
        places = COORDINATES.astype(jnp.float64)
        draw = np.random.default_rng(2)
        along = jax.tree.map(
            lambda leaf: jnp.asarray(draw.normal(size=leaf.shape)), params
        )

        @jax.jit
        def loss(params, places):
            return jnp.sum(model.apply(params, places) ** 2)

        def moved(step):
            return jax.tree.map(lambda leaf, by: leaf + step * by, params, along)

        step = 1e-6
        difference = loss(moved(step), places) - loss(moved(-step), places)
        gradients = jax.jit(jax.grad(loss))(params, places)
        slope = jax.tree.reduce(
            jnp.add, jax.tree.map(lambda g, by: jnp.sum(g * by), gradients, along)
        )
        assert slope.dtype == jnp.float64
        np.testing.assert_allclose(slope, difference / (2 * step), rtol=1e-5)


WIDTH = 256


@pytest.fixture(scope="module")
def start():
    """Coordinates, a wide SIREN's parameters, and each layer's ω₀ W h in NumPy."""
    places = np.random.default_rng(0).uniform(-1, 1, (2000, 2))
    params: Any = jax.jit(Siren(1, WIDTH, 4).init)(jax.random.key(3), COORDINATES)
    hidden, products, biases = places, [], []
    for number in range(4):
        layer = params["params"][f"Dense_{number}"]
        products.append(30 * hidden @ np.asarray(layer["kernel"], np.float64))
        biases.append(30 * np.asarray(layer["bias"], np.float64))
        hidden = np.sin(products[-1] + biases[-1])
    return params["params"], products, biases


def test_a_siren_starts_with_the_papers_distribution(start):
    _, products, biases = start
    # U(±1/2) · 30 by U(±1), of two coordinates
    assert products[0].std() == pytest.approx(30 / 2 / 3 * 2**0.5, rel=0.1)
    for product in products[1:]:
        # the variance is 2 · var(sin), which for uniform phases is 1; without the √2
        # of the bound 0.71, without its ω₀ 30
        assert product.std() == pytest.approx(1, rel=0.1)
        # over the network's draw: normal, so that 68.3 %, 95.4 % are within 1 and 2
        for deviations, share in ((1, 0.683), (2, 0.954)):
            within = np.mean(np.abs(product / product.std()) < deviations)
            assert within == pytest.approx(share, abs=0.015)
    # what the biases of the authors' implementation add: U(±30 / √256)
    for bias in biases[1:]:
        assert bias.std() == pytest.approx(30 / 16 / 3**0.5, rel=0.15)
        assert np.abs(bias).max() <= 30 / 16


def test_a_sirens_layers_keep_their_bounds(start):
    params, _, _ = start
    bounds = [1 / 2, *[(6 / WIDTH) ** 0.5 / 30] * 4]
    for number, bound in enumerate(bounds):
        kernel = np.abs(params[f"Dense_{number}"]["kernel"])
        assert 0.98 * bound < kernel.max() <= bound


def test_hidden_omega_0_keeps_the_initial_outputs_of_a_siren_without_biases():
    def outputs(omega_0):
        model = Siren(1, 8, 2, hidden_omega_0=omega_0)
        params = jax.jit(model.init)(jax.random.key(0), COORDINATES)
        without = jax.tree.map(lambda leaf: leaf if leaf.ndim > 1 else 0 * leaf, params)
        scale = omega_0  # the last layer has no sine to undo it
        return scale * model.apply(without, COORDINATES)

    np.testing.assert_allclose(outputs(30.0), outputs(5.0), rtol=1e-3, atol=1e-5)


@every_model
def test_a_grid_of_coordinates_is_its_rows(model):
    params = parameters(model)
    grid = COORDINATES[:6].reshape(3, 2, 2)
    np.testing.assert_allclose(
        model.apply(params, grid).reshape(6, 3),
        model.apply(params, COORDINATES[:6]),
        rtol=1e-4,
        atol=1e-5,
    )


def test_the_frequencies_are_no_parameters_and_follow_the_seed():
    params = parameters(FOURIER)
    trained, _ = partition_params(params, True)
    assert sorted(trained["params"]) == ["Dense_0", "Dense_1", "Dense_2"]
    again, other = (dataclasses.replace(FOURIER, seed=seed) for seed in (4, 5))
    outputs = np.asarray(FOURIER.apply(params, COORDINATES))
    np.testing.assert_array_equal(again.apply(params, COORDINATES), outputs)
    assert np.abs(other.apply(params, COORDINATES) - outputs).max() > 1e-2


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Siren(0), "out_features must be at least 1, got 0: pass 1 or more"),
        (Siren(1, width=0), "width must be at least 1, got 0"),
        (Siren(1, num_layers=0), "num_layers must be at least 1, got 0"),
        (Siren(1, num_layers=2.5), r"num_layers must be an integer, got 2.5"),  # pyright: ignore[reportArgumentType]
        (Siren(1, first_omega_0=0.0), r"first_omega_0 must lie in \(0, inf\], got 0"),
        (Siren(1, hidden_omega_0=-3.0), r"hidden_omega_0 must lie in .*got -3: choo"),
        (FourierMLP(0), "out_features must be at least 1, got 0"),
        (FourierMLP(1, num_frequencies=0), "num_frequencies must be at least 1, got 0"),
        (FourierMLP(1, scale=0.0), r"scale must lie in \(0, inf\], got 0: choose"),
        (FourierMLP(1, seed=-1), "seed must be at least 0, got -1"),
    ],
)
def test_bad_arguments_are_refused_by_name(model, message):
    with pytest.raises((ValueError, TypeError), match=message):
        model.init(jax.random.key(0), COORDINATES)


@every_model
def test_pixel_numbers_are_refused_with_the_remedy(model):
    with pytest.raises(TypeError, match=r"coordinates must be .*int32: scale them in"):
        model.init(jax.random.key(0), jnp.zeros((3, 2), jnp.int32))
