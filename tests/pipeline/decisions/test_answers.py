"""Answers under another class mix, and their mass on each level."""

import numpy as np

from catalog.taxonomy import Category, Taxonomy
from pipeline.decisions.answers import Answers, levels_of

NAMES = [("a", "a1"), ("a", "a1"), ("a", "a2"), ("b", "b1"), ("b", "b1"), ("b", "b2")]
TAXONOMY = Taxonomy([Category(10 + i, a, b, f"c{i}") for i, (a, b) in enumerate(NAMES)])


def answers(*probabilities: list[float]) -> Answers:
    return Answers.of(np.log(np.array(probabilities, dtype=np.float32)))


def test_levels_that_say_something() -> None:
    assert [level.number for level in levels_of(TAXONOMY)] == [3, 2, 1]
    nameless = Taxonomy.from_ids([5, 6, 7])
    assert [level.number for level in levels_of(nameless)] == [3]
    one_each = Taxonomy([Category(i, "all", f"b{i}", f"c{i}") for i in range(4)])
    assert [level.number for level in levels_of(one_each)] == [3]


def test_the_likeliest_family_may_not_have_the_likeliest_category() -> None:
    found = answers([0.18, 0.17, 0.05, 0.4, 0.1, 0.1], [0.1, 0.1, 0.35, 0.2, 0.2, 0.05])
    chosen, mass = zip(*(found.at(level) for level in levels_of(TAXONOMY)), strict=True)
    assert [c.tolist() for c in chosen] == [[3, 2], [3, 3], [3, 2]]
    np.testing.assert_allclose(mass, [[0.4, 0.35], [0.5, 0.4], [0.6, 0.55]], rtol=1e-5)


def test_another_mix_is_bayes_rule() -> None:
    """Log-odds between two categories move by the log of the ratio of the mixes."""
    probability = np.array([[0.5, 0.3, 0.1, 0.05, 0.03, 0.02]])
    source, target = np.full(6, 1 / 6), np.array([0.05, 0.45, 0.2, 0.1, 0.1, 0.1])
    expected = probability * target / source
    expected /= expected.sum()
    found = answers(*probability.tolist()).under(source, target)
    assert found.top_class[0, 0] == 1
    np.testing.assert_allclose(
        np.exp(found.log_prob), np.take_along_axis(expected, found.top_class, axis=1), rtol=1e-5
    )


def test_what_lies_beyond_the_likeliest_keeps_its_share() -> None:
    """100 categories, of which 32 are kept: under a mix that halves all the kept ones the rest
    gains exactly what Bayes' rule says, as it is one class to it."""
    rng = np.random.default_rng(0)
    probability = rng.dirichlet(np.full(100, 0.5), size=5).astype(np.float32)
    whole, source = Answers.of(np.log(probability)), np.full(100, 0.01)
    for row in range(5):
        one = whole[np.array([row])]
        target = source.copy()
        target[one.top_class[0]] *= 0.5
        target /= target.sum()
        exact = probability[row] * target / source
        exact /= exact.sum()
        found = one.under(source, target)
        np.testing.assert_allclose(
            np.exp(found.log_prob[0]), exact[found.top_class[0]], rtol=1e-3, atol=1e-6
        )


def test_restricted_answers_share_all_probability() -> None:
    found = answers([0.5, 0.3, 0.1, 0.05, 0.03, 0.02], [0.5, 0.3, 0.1, 0.05, 0.03, 0.02])
    mask = np.isin(found.top_class, [1, 4])
    mask[1] = True
    restricted = found.restricted(mask)
    assert restricted.top_class[0, :2].tolist() == [1, 4]
    expected = [0.3 / 0.33, 0.03 / 0.33, 0]
    np.testing.assert_allclose(np.exp(restricted.log_prob[0, :3]), expected, rtol=1e-5)
    np.testing.assert_allclose(found.mass(mask), [0.33, 1], rtol=1e-5)
    np.testing.assert_allclose(restricted.log_prob[1], found.log_prob[1], atol=1e-6)
