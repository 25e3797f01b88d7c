"""Measures poprep beside other programs, with private servers on loopback: `python -m benchmarks`."""
