"""Steps on dask workers."""
