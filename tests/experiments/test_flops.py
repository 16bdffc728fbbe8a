"""FLOPs of programs with loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from experiments.study import flops

SIZE = 32
MATRIX = jax.ShapeDtypeStruct((SIZE, SIZE), np.float32)
PRODUCT = 2 * SIZE**3


def products(number):
    def function(x):
        return lax.scan(lambda x, _: (x @ x, None), x, length=number)[0]

    return function


def nested(x):
    inner = jax.jit(products(3))
    x = lax.scan(lambda x, _: (inner(x) @ x, None), x, length=5)[0]
    return products(2)(x)


@pytest.mark.parametrize(
    ("function", "num_products"),
    [
        (lambda x: x @ x, 1),
        (products(7), 7),
        (nested, 5 * (3 + 1) + 2),
        (jax.jit(jax.remat(products(4))), 4),
        (lambda x: lax.cond(jnp.all(x > 0), products(4), products(4), x), 4),
    ],
)
def test_the_body_of_a_scan_counts_as_often_as_it_runs(function, num_products):
    assert flops.count(function, MATRIX) == pytest.approx(
        num_products * PRODUCT, rel=0.01
    )
