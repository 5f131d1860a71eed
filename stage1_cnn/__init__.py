"""Stage 1: a convolutional network over single photos, its new head trained first, then fine-tuned
whole."""
