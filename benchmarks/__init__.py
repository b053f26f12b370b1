"""Measurements. Every number in a document comes from a file that one of these commands wrote to `benchmarks/results/`."""
