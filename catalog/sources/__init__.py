"""Whatever products come from: dumps, tables, folders; the same for ingest and for score."""
