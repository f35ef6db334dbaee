"""Several weight samples in a step: what they give is the mean over them, and a gradient with less noise."""

import pytest
import torch

from mldiv.datasets.splits import Shapes
from mldiv.method.pair import OF_PAIRS, term_names
from mldiv.training.loop import make_pair

SHAPES = Shapes(classes=10, channels=1, train_images=100)


@pytest.fixture
def case(tiny):
    """Without batch statistics, so that a step leaves the networks as they are."""
    stream = torch.Generator().manual_seed(0)
    images, labels = torch.randn(12, 1, 8, 8, generator=stream), torch.randint(10, (12,), generator=stream)
    return tiny.replace(arch="resnet8_frn", width=0.125, initial_sigma=0.3), images, labels


def stepped(config, images, labels, noise, diverse=True):
    pair = make_pair(config, SHAPES)
    pair.set_scales(torch.tensor(0.5))
    total, terms = pair(images, labels, noise, diverse)
    total.backward()
    return terms, {name: value.grad for name, value in pair.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("fusion_training", ["diversity", "task"])
def test_terms_and_gradients_are_means_over_samples(case, fusion_training):
    """Against steps with each sample alone; the terms that no sample has a part in are counted once."""
    config, images, labels = case
    config = config.replace(fusion_training=fusion_training)
    pair = make_pair(config.replace(train_samples=3), SHAPES)
    noise = pair.draw_noise([torch.Generator().manual_seed(seed) for seed in (1, 2)])
    assert [tuple(drawn.shape) for drawn in noise] == [(3, pair.peers[0].mean.numel())] * 2
    terms, gradients = stepped(config, images, labels, noise)
    alone = [stepped(config, images, labels, [drawn[place] for drawn in noise]) for place in range(3)]
    torch.testing.assert_close(terms, torch.stack([each for each, _ in alone]).mean(0), rtol=1e-4, atol=1e-6)
    assert set(OF_PAIRS) < set(term_names(2)) and len({float(each[0]) for each, _ in alone}) == 3
    for name, gradient in gradients.items():
        expected = torch.stack([each[name] for _, each in alone]).mean(0)
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


def test_one_sample_draws_what_it_always_did(case):
    config, *_ = case
    pair = make_pair(config, SHAPES)
    count = pair.peers[0].mean.numel()
    found = pair.draw_noise([torch.Generator().manual_seed(seed) for seed in (1, 2)])
    for drawn, seed in zip(found, (1, 2), strict=True):
        assert torch.equal(drawn, torch.randn(count, generator=torch.Generator().manual_seed(seed)))


def test_the_gradients_variance_falls_as_one_over_the_samples(case):
    """Of the cross-entropy, in means and rho, over draws of the noise: a quarter with four samples."""
    config, images, labels = case
    pair = make_pair(config.replace(peers=1), SHAPES)
    peer, stream = pair.peers[0], torch.Generator().manual_seed(3)

    def variances(samples, draws=120):
        found = []
        for _ in range(draws):
            noise = [torch.randn(samples, peer.mean.numel(), generator=stream)]
            nll = pair.terms(images, labels, noise)["nll"][0]
            found.append(torch.cat(torch.autograd.grad(nll, (peer.mean, peer.rho))))
        means, rhos = torch.stack(found).var(0).split(peer.mean.numel())
        return torch.stack([means.sum(), rhos.sum()])

    shares = variances(4) / variances(1)
    assert shares.tolist() == pytest.approx([0.25, 0.25], rel=0.25), shares
