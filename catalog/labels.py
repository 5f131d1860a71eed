"""Labels beside a dump, as a CSV of product ids and category ids: the true labels of a test dump,
or an analyst's corrections."""

from pathlib import Path

from catalog.csv_file import CsvFile, whole_number
from catalog.image_table import MAX_PRODUCT_ID

ID_COLUMNS = ("_id", "product_id")


def read_labels(path: Path) -> dict[int, int]:
    """Product id -> category id, from the columns `_id` or `product_id`, and `category_id`.

    Raises ShelfsortError, naming the line, if one is wrong, or names another category than an
    earlier line does.
    """
    labels: dict[int, int] = {}
    file = CsvFile(path)
    for product, category in file.rows([ID_COLUMNS, "category_id"]):
        try:
            product_id = whole_number(product, MAX_PRODUCT_ID)
            category_id = whole_number(category, 2**63 - 1)
        except ValueError as error:
            raise file.fault(f"as product id and category_id: {error}") from error
        if (earlier := labels.setdefault(product_id, category_id)) != category_id:
            raise file.fault(
                f"product {product_id} has category_id {category_id}, "
                f"in an earlier line it has {earlier}; keep one of them"
            )
    return labels
