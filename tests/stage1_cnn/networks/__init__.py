"""Tests of stage1_cnn.networks."""
