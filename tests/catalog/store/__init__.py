"""Tests of catalog.store.reader."""
