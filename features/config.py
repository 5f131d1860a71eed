"""How features are extracted."""

from pydantic import PositiveInt

from catalog.config import Section


class FeaturesConfig(Section):
    """Section `features`: nothing here changes the values beyond rounding."""

    batch_size: PositiveInt = 128
    """Images through the network at once."""
