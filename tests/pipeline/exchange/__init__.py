"""Tests of pipeline.exchange."""
