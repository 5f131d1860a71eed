"""Tests of catalog.sources."""
