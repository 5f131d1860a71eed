"""Bottleneck features of every photo in a store, cached in one HDF5 file."""
