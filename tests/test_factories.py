"""What factories return shows its recipe, and pickles by it."""

import inspect
import pickle
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import pytest

from attent_jax._factories import described


class Pair(NamedTuple):
    double: Callable
    shift: Callable


@described
def scaled(factor, *, offset=0.0):
    def scale(value):
        """`(value) -> value`, scaled."""
        return value * factor + offset

    return scale


@described
def pair(function):
    return Pair(lambda value: function(function(value)), lambda value: value + 1)


def test_repr_is_the_call_that_made_it():
    assert repr(scaled(2.0)) == "scaled(2.0)"
    assert repr(scaled(2.0, offset=1)) == "scaled(2.0, offset=1)"
    assert repr(scaled(np.ones((2, 3)))) == "scaled(float64[2, 3])"
    assert repr(pair(scaled(2.0)).shift) == "pair(scaled(2.0)).shift"


def test_name_signature_and_docstring_are_the_functions():
    scale = scaled(2.0)
    assert scale.__name__ == "scale"
    assert scale.__doc__ == "`(value) -> value`, scaled."
    assert list(inspect.signature(scale).parameters) == ["value"]


def test_pickling_makes_it_again():
    again = pickle.loads(pickle.dumps(pair(scaled(2.0, offset=1.0))))
    assert isinstance(again, Pair)
    assert again.double(3.0) == 15.0
    assert repr(again.double) == "pair(scaled(2.0, offset=1.0)).double"


def test_an_argument_that_does_not_pickle_is_named():
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(pair(lambda value: value))


def test_transformations_take_it():
    assert jax.jit(jax.vmap(scaled(2.0)))(np.arange(3.0)).tolist() == [0.0, 2.0, 4.0]
