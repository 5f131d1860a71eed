"""Work that dask workers do: their client, and the steps ingest, features and stage2."""
