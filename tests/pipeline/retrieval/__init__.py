"""Tests of pipeline.retrieval."""
