"""The data layer: products, photos, categories and splits of a catalogue. Knows no torch."""
