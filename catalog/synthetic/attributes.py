"""Columns of drawn products, as shops have them beside the photos: each tells something about the
category and more about the product, and is missing now and then."""

import numpy as np

ATTRIBUTES = ("price", "material", "colour")
MISSING = 0.2
"""Share of the values that are missing."""
MATERIALS = ("wood", "steel", "glass", "plastic", "cotton", "leather", "paper", "ceramic")
COLOURS = ("red", "orange", "yellow", "green", "turquoise", "blue", "violet", "pink")
"""Around the colour circle."""
_PRICES = (6.0, 90.0)
"""Usual price of the cheapest and of the dearest category."""
_SPREAD = 0.45
"""Standard deviation of the logarithm of prices in a category."""


def attributes(category_id: int, hue: float, rng: np.random.Generator) -> dict[str, float | str]:
    """What is known of a product with this hue, 0 to 1: some of ATTRIBUTES. A category has a usual
    price, and two usual materials, which most of its products are of."""
    usual = np.random.default_rng(category_id)
    price = np.exp(usual.uniform(*np.log(_PRICES)) + _SPREAD * rng.normal())
    share = np.full(len(MATERIALS), 0.25 / len(MATERIALS))
    share[usual.permutation(len(MATERIALS))[:2]] += 0.5, 0.25
    known: dict[str, float | str] = {
        "price": round(float(price), 2),
        "material": MATERIALS[rng.choice(len(MATERIALS), p=share)],
        "colour": COLOURS[round(hue * len(COLOURS)) % len(COLOURS)],
    }
    present = rng.random(len(ATTRIBUTES)) >= MISSING
    return {name: known[name] for name, here in zip(ATTRIBUTES, present, strict=True) if here}
