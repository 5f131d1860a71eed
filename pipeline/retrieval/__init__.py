"""Look-ups by likeness."""
