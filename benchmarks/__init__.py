"""Benchmarks: one script a claim, each printing its ratio against the peer and against the limit."""
