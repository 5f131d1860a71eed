"""Tests of stage1_cnn.training."""
