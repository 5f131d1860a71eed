"""Comparisons and searches: networks, recipes, settings."""
