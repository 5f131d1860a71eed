"""Synthetic dumps: the documents, their categories, and the shares of noise that the spec asks
for."""

import csv
import gzip
import hashlib
import io
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import bson
import numpy as np
import pytest
from PIL import Image

from catalog.errors import ConfigError
from catalog.synthetic.attributes import ATTRIBUTES
from catalog.synthetic.drawing import photograph, vary
from catalog.synthetic.dump import (
    BRANDS,
    FILLERS,
    SyntheticSpec,
    assign,
    categories,
    look_of,
    picture,
    product,
    products,
    write_categories,
    write_dump,
    write_labels,
)
from catalog.synthetic.printing import compose_lines

SMALL = SyntheticSpec(categories=6, products=60, side=32, seed=1)


def rows(path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def digests(spec) -> list[list[str]]:
    """A product's pictures, by the hash of their bytes."""
    return [
        [hashlib.sha256(image["picture"]).hexdigest() for image in document["imgs"]]
        for document in products(spec)
    ]


def test_dump_has_cdiscounts_fields(tmp_path):
    path = tmp_path / "train.bson"
    assert write_dump(path, SMALL) == 60
    documents = bson.decode_all(path.read_bytes())
    assert [document["_id"] for document in documents] == list(range(1, 61))
    known = {category.category_id for category in categories(SMALL)}
    for document in documents:
        assert list(document) == ["_id", "category_id", "imgs"]
        assert document["category_id"] in known
        assert 1 <= len(document["imgs"]) <= 4
        for image in document["imgs"]:
            decoded = Image.open(io.BytesIO(image["picture"]))
            assert (decoded.format, decoded.size, decoded.mode) == ("JPEG", (32, 32), "RGB")


def test_same_spec_gives_the_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_dump(tmp_path / name, SyntheticSpec(categories=6, products=20, side=32, seed=seed))
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_gzipped_dump_holds_the_same_documents(tmp_path):
    write_dump(tmp_path / "plain.bson", SMALL)
    for name in ("one.bson.gz", "two.bson.gz"):
        write_dump(tmp_path / name, SMALL)
    zipped = (tmp_path / "one.bson.gz").read_bytes()
    assert gzip.decompress(zipped) == (tmp_path / "plain.bson").read_bytes()
    assert zipped == (tmp_path / "two.bson.gz").read_bytes()


def test_a_product_is_made_without_those_before_it():
    assert product(SMALL, 41) == list(products(SMALL))[41]


def test_first_document_of_a_large_dump_comes_at_once():
    large = SyntheticSpec(categories=2000, products=300_000, side=32)
    assert next(products(large))["_id"] == 1
    assert product(large, 299_999)["_id"] == 300_000


def test_unlabelled_dump_has_the_same_pictures_and_labels_apart(tmp_path):
    spec = SyntheticSpec(categories=6, products=60, side=32, label_noise=0, first_product_id=900)
    write_dump(tmp_path / "test.bson", spec, labelled=False)
    write_labels(tmp_path / "labels.csv", spec)
    documents, labelled = (
        bson.decode_all((tmp_path / "test.bson").read_bytes()),
        list(products(spec)),
    )
    assert [list(document) for document in documents] == [["_id", "imgs"]] * 60
    assert [document["imgs"] for document in documents] == [
        document["imgs"] for document in labelled
    ]
    expected = [{"_id": str(d["_id"]), "category_id": str(d["category_id"])} for d in labelled]
    assert rows(tmp_path / "labels.csv") == expected
    assert expected[0]["_id"] == "900"


def test_titles_tell_something_of_the_category_and_change_no_picture():
    spec = replace(SMALL, titles=True, products=400)
    found, plain = list(products(spec)), list(products(replace(spec, titles=False)))
    assert [list(d) for d in plain] == [["_id", "category_id", "imgs"]] * 400
    assert [d["imgs"] for d in found] == [d["imgs"] for d in plain]
    every = categories(spec)
    named = [
        every[c].level2.lower() in d.get("title", "").lower()
        for c, d in zip(assign(spec).category, found, strict=True)
    ]
    assert 0.5 < np.mean(named) < 0.9
    assert 0 < sum("title" not in d for d in found) < 30


def test_covers_change_the_printed_families_alone():
    plain = SyntheticSpec(products=240, side=32, misleading=0, blanks=0, duplicates=0)
    spec, every = replace(plain, covers=True), categories(replace(plain, covers=True))
    printed = [bool(category.subject) for category in every]
    assert [c.level2 for c in every if c.subject] == ["PAPERBACKS"] * 5 + ["PACKETS"] * 5
    for mine, other in zip(every, categories(plain), strict=True):
        assert mine.category_id == other.category_id and (mine == other) != bool(mine.subject)
    changed = [a != b for a, b in zip(digests(spec), digests(plain), strict=True)]
    assert changed == [printed[number] for number in assign(spec).category]


def test_siblings_of_a_printed_family_differ_by_their_words_alone():
    spec = SyntheticSpec(products=400, side=96, covers=True)
    books = [category for category in categories(spec) if category.level2 == "PAPERBACKS"]
    assert len({category.look for category in books}) == 1
    assert len({word for category in books for word in category.subject}) == 5 * 6
    look = vary(books[0].look, np.random.default_rng(0))
    words = compose_lines(books[0].subject, BRANDS, FILLERS, np.random.default_rng(1))
    printed = replace(look, lines=words)
    bare, full = (photograph(x, np.random.default_rng(2), 96).astype(int) for x in (look, printed))
    ink = np.abs(full - bare).max(axis=2) > 30
    assert 0.005 < ink.mean() < 0.2  # letters, not a page of ink


def test_a_product_keeps_its_words_in_all_its_photos():
    spec = SyntheticSpec(products=300, side=48, covers=True)
    looks = [look_of(spec, index) for index in range(300)]
    lines = [look.lines for look in looks if look.lines]
    titles = {title.words.lower() for _, title, _ in lines}
    known = {w.lower() for c in categories(spec) for w in c.subject}
    assert 90 < len(lines) < 200 and titles <= known and len(titles) > 30
    heights = [title.height for _, title, _ in lines]
    assert min(heights) < 0.18 and max(heights) > 0.32
    assert looks == [look_of(spec, index) for index in range(300)]


def test_label_noise_is_as_asked_and_mostly_within_the_family(tmp_path):
    spec = SyntheticSpec(products=400, side=16, label_noise=0.4)
    write_labels(tmp_path / "labels.csv", spec)
    family = {category.category_id: category.level2 for category in categories(spec)}
    true = [int(row["category_id"]) for row in rows(tmp_path / "labels.csv")]
    wrong = [
        (t, d["category_id"])
        for t, d in zip(true, products(spec), strict=True)
        if t != d["category_id"]
    ]
    assert 0.32 < len(wrong) / 400 < 0.48
    assert 0.6 < np.mean([family[t] == family[label] for t, label in wrong]) < 0.9


def test_categories_file_is_a_hierarchy_with_names_that_repeat(tmp_path):
    write_categories(tmp_path / "category_names.csv", SyntheticSpec())
    table = rows(tmp_path / "category_names.csv")
    assert list(table[0]) == [
        "category_id",
        "category_level1",
        "category_level2",
        "category_level3",
    ]
    ids = [int(row["category_id"]) for row in table]
    assert len(set(ids)) == 24
    assert all(10**9 <= number < 2 * 10**9 for number in ids)
    assert ids != sorted(ids)
    assert len({row["category_level3"] for row in table}) < 24
    for level in ("category_level1", "category_level2"):
        names = [row[level] for row in table]
        assert 1 < len(set(names)) < 24
        assert sum(a != b for a, b in pairwise(names)) == len(set(names)) - 1, (
            "a name's rows stand together"
        )


def test_thousands_of_categories_have_their_own_ids_and_names():
    every = categories(SyntheticSpec(categories=5270, products=5270))
    assert len({category.category_id for category in every}) == 5270
    assert len({(category.level2, category.level3) for category in every}) == 5270
    assert len({(category.level1, category.level2) for category in every}) == len(
        {c.level2 for c in every}
    )


def test_categories_do_not_depend_on_the_seed():
    assert categories(SyntheticSpec(seed=1)) == categories(SyntheticSpec(seed=2))


def test_a_silhouette_that_comes_again_has_another_height_and_name():
    every = categories(SyntheticSpec(categories=193, products=193))
    rounds = [
        every[number] for number in (0, 96, 192)
    ]  # 24 silhouettes, of four categories each on average
    assert len({category.look.silhouette for category in rounds}) == 1
    assert len({category.look.height for category in rounds}) == 3
    assert len({category.level2 for category in rounds}) == 3


@pytest.mark.parametrize("tail, low, high", [(0.0, 1, 1.2), (1.0, 10, 25)])
def test_sizes_have_the_tail_asked_for(tail, low, high):
    sizes = Counter(assign(SyntheticSpec(tail=tail)).category.tolist())
    assert sizes.total() == 2400
    assert len(sizes) == 24
    assert low <= max(sizes.values()) / min(sizes.values()) <= high


def test_every_category_has_a_product_and_the_order_is_shuffled():
    dealt = assign(SyntheticSpec(categories=50, products=60, tail=2.0)).category
    assert set(dealt.tolist()) == set(range(50))
    assert (np.diff(dealt) < 0).sum() > 15


def test_image_counts_follow_cdiscounts_mix():
    counts = np.bincount(
        [len(document["imgs"]) for document in products(SyntheticSpec(products=400, side=16))]
    )
    assert counts[1:] / 400 == pytest.approx([0.618, 0.160, 0.077, 0.146], abs=0.07)


def test_duplicates_are_copies_of_another_products_bytes_mostly_of_the_category():
    spec = SyntheticSpec(categories=6, products=300, side=16, duplicates=0.3, blanks=0)
    owners: dict[str, list[int]] = {}
    for index, pictures in enumerate(digests(spec)):
        for digest in pictures:
            owners.setdefault(digest, []).append(index)
    copies = [(group[0], index) for group in owners.values() for index in group[1:]]
    assert len(copies) / sum(map(len, owners.values())) == pytest.approx(0.3, abs=0.06)
    true = assign(spec).category
    assert 0.75 < np.mean([true[a] == true[b] for a, b in copies]) < 0.97


def test_without_duplicates_and_blanks_all_pictures_differ():
    spec = SyntheticSpec(categories=6, products=150, side=32, duplicates=0, blanks=0, misleading=0)
    pictures = [digest for group in digests(spec) for digest in group]
    assert len(set(pictures)) == len(pictures)


@pytest.mark.parametrize("blanks, share", [(0.0, 0.0), (1.0, 1.0), (0.3, 0.3)])
def test_blanks_are_of_one_colour(blanks, share):
    spec = SyntheticSpec(
        categories=2, products=100, side=16, blanks=blanks, duplicates=0, misleading=0
    )
    grey = [
        np.asarray(Image.open(io.BytesIO(picture(spec, index, 0))).convert("L"))
        for index in range(100)
    ]
    assert np.mean([np.ptp(pixels) == 0 for pixels in grey]) == pytest.approx(share, abs=0.12)


def test_nearest_neighbour_finds_the_family_more_easily_than_the_category():
    spec = SyntheticSpec(
        products=600, side=32, tail=0, label_noise=0, duplicates=0, blanks=0, misleading=0
    )
    seen = np.stack(
        [
            np.asarray(
                Image.open(io.BytesIO(picture(spec, index, 0))).convert("L").resize((16, 16)),
                np.float32,
            ).ravel()
            for index in range(600)
        ]
    )
    true = assign(spec).category
    distance = np.square(seen[400:, None] - seen[None, :400]).sum(axis=2)
    guess = true[:400][distance.argmin(axis=1)]
    family = np.array([hash(category.level2) for category in categories(spec)])
    found, exact = (family[guess] == family[true[400:]]).mean(), (guess == true[400:]).mean()
    assert found > 0.45  # 6 families: chance is about 0.17
    assert 0.1 < exact < found - 0.15  # 24 categories: chance is 0.04


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"categories": 0}, "categories: expected at least 1, found 0"),
        (
            {"categories": 10, "products": 9},
            "products: expected at least one for each of 10 categories, found 9",
        ),
        ({"categories": 100_000, "products": 100_000}, "expected at most 12498"),
        ({"label_noise": 1.5}, "label_noise: expected a share from 0 to 1, found 1.5"),
        ({"seed": -1}, "seed: expected at least 0, found -1"),
        ({"side": 4}, "side: expected at least 16, found 4"),
    ],
)
def test_impossible_specs_are_refused_by_name(wrong, says):
    with pytest.raises(ConfigError, match=says):
        SyntheticSpec(**wrong)


def test_columns_tell_something_of_the_category_and_change_no_picture():
    spec = replace(SMALL, columns=True, products=600)
    found, without = list(products(spec)), list(products(replace(spec, columns=False)))
    assert [d["imgs"] for d in found] == [d["imgs"] for d in without]
    for name in ATTRIBUTES:
        assert 0.15 < np.mean([name not in d for d in found]) < 0.25
    materials = {c.category_id: Counter() for c in categories(spec)}
    for document in found:
        materials[document["category_id"]].update(document.get("material", "").split())
    named = sum(counts.most_common(1)[0][1] for counts in materials.values() if counts)
    assert 0.4 < named / sum(m.total() for m in materials.values()) < 0.7
    assert len({counts.most_common(1)[0][0] for counts in materials.values() if counts}) > 2
    assert product(spec, 7) == found[7]
