"""Speed: each module is a command that prints ratios from one interleaved run."""
