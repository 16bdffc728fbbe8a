"""The methods of every comparison."""

import numpy as np
import pytest

from experiments.study.methods import STANDARD_METHODS


@pytest.mark.parametrize("method", STANDARD_METHODS, ids=lambda method: method.name)
def test_seeds_share_a_teacher_that_does_not_depend_on_their_groups(method):
    """Each teacher compiles its functions, which takes longer than to run them."""
    first, second = (
        method.teacher(4, groups=np.arange(6) % 2 + seed, mesh=None) for seed in (0, 1)
    )
    assert (first is second) == (method.name != "balanced")
