"""The steps a user runs: from a dump to a report and to predictions."""
