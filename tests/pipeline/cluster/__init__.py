"""Tests of pipeline.cluster."""
