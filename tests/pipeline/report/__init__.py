"""Tests of pipeline.report.page."""
