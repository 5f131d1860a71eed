"""Tests of pipeline.scoring.workers."""
