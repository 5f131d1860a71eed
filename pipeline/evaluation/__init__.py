"""The test split: what is measured on it, and how that is put into words."""
