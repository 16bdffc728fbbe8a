"""Set-up of the theory's tests."""

# It runs on the jax that wrote the values, and nowhere else.
collect_ignore = ["golden_antk.py"]
