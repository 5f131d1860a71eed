"""Tests of catalog.synthetic.dump."""
