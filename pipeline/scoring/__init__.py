"""Scores a dump in batch: lanes or workers make parts, which are written and accounted for."""
