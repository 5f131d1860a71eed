"""The image store: plan, then copy; and reading it."""
