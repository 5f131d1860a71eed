"""What a source says of a product in a field or column, as values that JSON has."""

import datetime
import math
from typing import Any

from bson.datetime_ms import DatetimeMS


def plain(value: Any) -> Any:
    """A number, a text, a date (`{"date": ISO 8601}`), or None for what is missing. Anything else
    becomes a text."""
    if isinstance(value, DatetimeMS):
        value = _moment(value)
    if isinstance(value, datetime.date):  # a datetime is one
        return {"date": value.isoformat()}
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, int | float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.strip() or None
    if value is None:
        return None
    return str(value)


def _moment(value: DatetimeMS) -> datetime.datetime | None:
    """A date of BSON; None if it is beyond the year 9999."""
    try:
        return value.as_datetime()
    except (ValueError, OverflowError):
        return None
