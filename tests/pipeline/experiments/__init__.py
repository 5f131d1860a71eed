"""Tests of pipeline.experiments."""
