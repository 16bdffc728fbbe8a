"""The programs that you run: `python -m experiments NAME`."""
