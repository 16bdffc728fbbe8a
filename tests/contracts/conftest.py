"""Contracts compile thousands of small programs: most without optimisation."""

import pytest


@pytest.fixture(autouse=True)
def _compile_fast(request):
    # The work of a program is counted after optimisation.
    if not request.path.stem.startswith("test_work_is_divided"):
        request.getfixturevalue("compile_fast")
