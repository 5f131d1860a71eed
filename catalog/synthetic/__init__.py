"""Drawn catalogues: products whose truth is known."""
