"""Set-up of the tests on language models."""

# Run by hand where torch, transformers and peft are installed.
collect_ignore = ["golden/write_golden.py"]
