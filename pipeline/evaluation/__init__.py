"""The test split: what is measured of it, and how it is said."""
