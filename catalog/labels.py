"""What is said of products beside their source, as a CSV of the shop's keys: categories, of a test
dump or by an analyst, and groups."""

import re
from pathlib import Path

from catalog.csv_file import CsvFile, whole_number

ID_COLUMNS = ("_id", "product_id")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,18})")
_LARGEST = 2**63 - 1


def read_labels(path: Path) -> dict[int | str, int]:
    """Key -> category id, from the columns `_id` or `product_id`, and `category_id`. A key is an
    integer if it is written as one of 64 bits is, else text.

    Raises ShelfsortError, naming the line, if one is wrong, or names another category than an
    earlier line does.
    """
    labels: dict[int | str, int] = {}
    file = CsvFile(path)
    for product, category in file.rows([ID_COLUMNS, "category_id"]):
        try:
            key = read_key(product)
            category_id = whole_number(category, _LARGEST)
        except ValueError as error:
            raise file.fault(f"as product id and category_id: {error}") from error
        if (earlier := labels.setdefault(key, category_id)) != category_id:
            raise file.fault(
                f"product {key} has category_id {category_id}, "
                f"in an earlier line it has {earlier}; keep one of them"
            )
    return labels


def read_groups(path: Path) -> dict[str, str]:
    """Key, as text -> group, from the columns `key` (or `_id` or `product_id`) and `group`; rows
    without a group are left out.

    Raises ShelfsortError, naming the line, if one is wrong, or names another group than an earlier
    line does.
    """
    groups: dict[str, str] = {}
    file = CsvFile(path, key="catalog.groups")
    for product, group in file.rows([("key", *ID_COLUMNS), "group"]):
        try:
            key = str(read_key(product))
        except ValueError as error:
            raise file.fault(f"as a product's key: {error}") from error
        if group and (earlier := groups.setdefault(key, group)) != group:
            raise file.fault(
                f"product {key} has group {group}, in an earlier line it has {earlier}; "
                "keep one of them"
            )
    return groups


def read_key(text: str) -> int | str:
    """A product's key. Raises ValueError if it is empty, or a spreadsheet has rounded it."""
    if _NUMBER.fullmatch(text) and abs(int(text)) <= _LARGEST:
        return int(text)
    if not text or re.fullmatch(r"[0-9]+[.,][0-9]+([Ee][+][0-9]+)?|[0-9]+[Ee][+][0-9]+", text):
        return whole_number(text, _LARGEST)
    return text
