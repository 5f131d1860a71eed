"""The head in numpy."""

import numpy as np
import pytest
import torch

from stage1_cnn.head import Head, log_softmax


def test_equals_torch_on_the_stored_features() -> None:
    rng = np.random.default_rng(0)
    head = Head(rng.normal(size=(5, 8)).astype(np.float32), rng.normal(size=5).astype(np.float32))
    features = rng.normal(size=(20, 8)).astype(np.float32)
    stored = features.astype(np.float16)
    logits = torch.from_numpy(stored.astype(np.float32)) @ torch.from_numpy(
        head.weight
    ).T + torch.from_numpy(head.bias)
    found = head.log_probs(features)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, torch.log_softmax(logits, dim=1).numpy(), atol=1e-5)
    np.testing.assert_array_equal(
        found, head.log_probs(stored)
    )  # rounded first: from memory and from the file alike


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normalise(dtype: type) -> None:
    scores = np.array([[1000.0, 1001.0, -1000.0], [0.0, 0.0, 0.0]], dtype=dtype)
    found = log_softmax(scores)
    assert found.dtype == dtype
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, rtol=1e-4)
    np.testing.assert_allclose(found[0, 1] - found[0, 0], 1, atol=1e-4)
    np.testing.assert_allclose(found[1], np.log(1 / 3), rtol=1e-6)
