"""Mixtures of normal distributions, beside scipy's and torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

from metalearn.nn.normals import Normals, divergence, masked_mean


def drawn(samples: int, outputs: int) -> tuple[Normals, torch.Tensor]:
    made = torch.Generator().manual_seed(samples)
    means, y = (torch.randn(n, 2, 5, outputs, generator=made, dtype=torch.float64) for n in (samples, 1))
    return Normals(means, torch.rand(samples, 2, 5, outputs, generator=made, dtype=torch.float64) + 0.1), y[0]


@pytest.mark.parametrize(("samples", "outputs"), [(1, 1), (1, 3), (4, 1), (4, 2)])
def test_the_likelihood_is_that_of_the_mixture(samples: int, outputs: int) -> None:
    found, y = drawn(samples, outputs)
    of_numbers = stats.norm.logpdf(y.numpy(), found.means.numpy(), found.stds.numpy())  # [S, T, n, O]
    expected = np.log(samples) - logsumexp(of_numbers.sum(-1), axis=0)
    np.testing.assert_allclose(found.nll(y), expected)


def test_mean_and_deviation_are_those_of_the_mixture() -> None:
    found, _ = drawn(3, 1)
    part = np.random.default_rng(0).integers(0, 3, 200_000)
    means, stds = (of[:, 1, 2, 0].numpy()[part] for of in found)
    values = means + stds * np.random.default_rng(1).standard_normal(200_000)
    assert float(found.mean[1, 2, 0]) == pytest.approx(values.mean(), abs=0.02)
    assert float(found.std[1, 2, 0]) == pytest.approx(values.std(), abs=0.02)
    one, _ = drawn(1, 1)
    assert torch.equal(one.std, one.stds[0])


def test_the_divergence_is_torch_s() -> None:
    (mean, std), (other_mean, other_std) = ((of[0][0], of[1][0]) for of in (drawn(1, 2)[0], drawn(2, 2)[0]))
    normals = [torch.distributions.Normal(*of) for of in ((mean, std), (other_mean, other_std))]
    expected = torch.distributions.kl_divergence(*normals)
    torch.testing.assert_close(divergence(mean, std, other_mean, other_std), expected)


def test_a_mean_without_padding_is_that_of_the_others() -> None:
    values = torch.tensor([[[1.0], [2.0], [6.0]], [[4.0], [torch.nan], [torch.inf]]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert masked_mean(values, mask).tolist() == [[3.0], [4.0]]
    assert masked_mean(values[:1], None).tolist() == [[3.0]]
    assert masked_mean(values[..., 0], mask).tolist() == [3.0, 4.0]
