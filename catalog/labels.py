"""Labels beside a dump, as a CSV of product ids and category ids: the true labels of a test dump,
or an analyst's corrections."""

import csv
from pathlib import Path

from catalog.errors import ShelfsortError
from catalog.image_table import MAX_PRODUCT_ID

ID_COLUMNS = ("_id", "product_id")


def read_labels(path: Path) -> dict[int, int]:
    """Product id -> category id, from the columns `_id` or `product_id`, and `category_id`.

    Raises ShelfsortError, naming the line, if one is wrong.
    """
    labels: dict[int, int] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or ()
            id_column = next((name for name in ID_COLUMNS if name in names), None)
            if id_column is None or "category_id" not in names:
                expected = f"columns {' or '.join(ID_COLUMNS)}, and category_id"
                raise ShelfsortError(f"{path}: line 1: expected {expected}, found {list(names)}")
            for row in reader:
                labels[_number(row[id_column], MAX_PRODUCT_ID)] = _number(
                    row["category_id"], 2**63 - 1
                )
    except OSError as error:
        raise ShelfsortError(f"{path}: can't be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise ShelfsortError(
            f"{path}: line {reader.line_num}: "
            f"expected integers as product id and category_id: {error}"
        ) from error
    return labels


def _number(text: str, largest: int) -> int:
    if not 0 <= (number := int(text)) <= largest:
        raise ValueError(f"{text} is not from 0 to {largest}")
    return number
