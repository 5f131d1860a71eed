"""Trains stage 1: the head first, then the whole network."""
