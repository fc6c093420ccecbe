"""Benchmarks: Headgate beside bare prototypes of the same shape, in one run."""
