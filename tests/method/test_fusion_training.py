"""What a fusion learns, and from what: the diversity term, its opposite, or the task."""

import pytest
import torch
from torch import nn

from mldiv.method.fusion import FUSIONS, CrossAttention, pool_cells, reverse_gradient, shared
from mldiv.method.gradients import gradient_lengths, strengths
from mldiv.method.pair import MutualPair, Objective

CHANNELS = (4, 8)


class Network(nn.Module):
    def __init__(self, seed):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first, self.last = nn.Linear(3, 5), nn.Linear(5, 4)

    def forward(self, inputs):
        hidden = self.first(inputs).tanh()
        return self.last(hidden), (hidden,)


def pair_of(**objective):
    classes = 4 if objective.get("fusion_training") in ("task", "switch") else 0
    pair = MutualPair([Network(0), Network(1)], Objective(16, **objective), fusion=shared((5,), 8, 2, 0, classes=classes))
    pair.scaled = True  # as they are
    return pair


def noise(pair):
    stream = torch.Generator().manual_seed(1)
    return [torch.randn(peer.mean.numel(), generator=stream) for peer in pair.peers]


def features(seed, side=4):
    stream = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(3, count, side, side, generator=stream) for count in CHANNELS)


def test_tokens_of_a_grid_against_loops():
    """With cells, every quarter of a block's map is a token; the query is the mean of the deepest block's."""
    torch.manual_seed(0)
    module = CrossAttention(CHANNELS, dim=6, heads=2, grid=2).requires_grad_(False)
    given, tokens = features(1), []
    for block, feature in enumerate(given):
        for row in range(2):
            for column in range(2):
                cell = feature[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean((2, 3))
                tokens.append(module.project[block](cell) + module.cell[2 * row + column] + module.block[block])
    memory = torch.stack(tokens, 1)
    last = memory[:, 4:].mean(1, keepdim=True)
    reference = torch.nn.MultiheadAttention(6, 2, batch_first=True).requires_grad_(False)
    reference.in_proj_weight.copy_(torch.cat([module.query.weight, module.key_value.weight]))
    reference.in_proj_bias.copy_(torch.cat([module.query.bias, module.key_value.bias]))
    reference.out_proj.load_state_dict(module.out.state_dict())
    expected = module.norm(last + reference(last, memory, memory)[0])[:, 0]
    torch.testing.assert_close(module(given), expected)


def test_a_grid_takes_a_vector_as_one_that_is_everywhere_the_same():
    vector = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    everywhere = vector[..., None, None].expand(3, 5, 4, 4)
    torch.testing.assert_close(pool_cells(vector, 2), pool_cells(everywhere, 2))


def test_a_grid_takes_tokens_in_as_many_parts():
    module = CrossAttention((4,), dim=6, heads=2, grid=2)
    tokens = torch.randn(3, 4, 8)
    torch.testing.assert_close(module((tokens,)), module((tokens.unflatten(-1, (4, 2)).mean(-1),)))


@pytest.mark.parametrize("name", FUSIONS)
def test_chosen_blocks_alone_are_fused(name):
    fusion = FUSIONS[name](CHANNELS, 8, 2, 0, 2, (1,))
    given, other = features(1), features(2)
    changed = (other[0], given[1])
    assert torch.equal(fusion([given, given])[1], fusion([changed, changed])[1])
    assert len(fusion.peer_1.project) == 1


def test_reversed_gradients():
    weight = torch.tensor([2.0], requires_grad=True)
    (reverse_gradient(weight) ** 2).backward()
    assert weight.grad == -4.0


def gradients(training, term):
    """Of a term in peer 1's means and in the fusion."""
    pair = pair_of(fusion_training=training)
    inputs, labels = torch.randn(16, 3, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 4
    terms = pair.terms(inputs, labels, noise(pair), diverse=True)
    weights = list(pair.fusion.parameters())
    found = torch.autograd.grad(terms[term][0], [pair.peers[0].mean, *weights], allow_unused=True)
    return found[0], [value for value in found[1:] if value is not None]


def test_the_networks_learn_the_same_from_every_fusion_and_the_fusion_what_it_is_to():
    means, fusion = gradients("diversity", "feature_diversity")
    assert means.norm() > 0 and all(value.isfinite().all() for value in fusion) and max(value.norm() for value in fusion) > 0
    for training in ("adversarial", "task", "switch"):
        same, own = gradients(training, "feature_diversity")
        torch.testing.assert_close(same, means)
        if training == "adversarial":
            torch.testing.assert_close(own, [-value for value in fusion])
        else:
            assert not own


def test_a_fusion_that_learns_the_task_learns_it_from_features_that_do_not():
    means, fusion = gradients("task", "fusion_nll")
    assert means is None and len(fusion) == len(list(pair_of(fusion_training="task").fusion.parameters()))
    pair = pair_of(fusion_training="task")
    given = [(torch.randn(16, 5),)] * 2
    labels = torch.arange(16) % 4
    fused = pair.fusion(given)[0]
    expected = 2 * torch.nn.functional.cross_entropy(pair.fusion.peer_1.head(fused), labels)
    torch.testing.assert_close(pair.fusion_terms(given, labels)["fusion_nll"][0], expected)


def test_gradient_lengths_against_backward():
    pair = pair_of(alpha=0.5, beta=3.0)
    inputs, labels = torch.randn(16, 3, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 4
    found = gradient_lengths(pair, pair.weighted(pair.terms(inputs, labels, noise(pair), diverse=True)))
    assert list(found) == ["nll", "kl", "mutual", "param_diversity", "feature_diversity"]
    for term, parts in found.items():
        pair.zero_grad()
        pair.weighted(pair.terms(inputs, labels, noise(pair), diverse=True))[term].backward()
        for number, peer in enumerate(pair.peers, 1):
            assert parts[f"mean_{number}"] == pytest.approx(float(peer.mean.grad.norm()), rel=1e-5)
            assert parts[f"rho_{number}"] == pytest.approx(float(peer.rho.grad.norm()), rel=1e-5)
        own = [value.grad.flatten() for value in pair.fusion.parameters() if value.grad is not None]
        assert parts["fusion"] == pytest.approx(float(torch.cat(own).norm()) if own else 0.0, rel=1e-5)


def test_strengths_make_alpha_and_beta_shares_of_the_cross_entropys_gradient():
    pair = pair_of(alpha=0.5, beta=3.0)
    inputs, labels = torch.randn(16, 3, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 4
    terms = pair.terms(inputs, labels, noise(pair), diverse=True)
    raw = pair.weighted(terms) | {name: terms[name][0] for name in ("param_diversity", "feature_diversity")}
    found = strengths(gradient_lengths(pair, raw), 2)
    pair.set_strengths(found["param"], found["feature"])
    lengths = gradient_lengths(pair, pair.weighted(pair.terms(inputs, labels, noise(pair), diverse=True)))
    mean = {term: float(parts["mean_1"] + parts["mean_2"]) for term, parts in lengths.items()}
    assert mean["param_diversity"] == pytest.approx(0.5 * mean["nll"], rel=1e-5)
    assert mean["feature_diversity"] == pytest.approx(3.0 * mean["nll"], rel=1e-5)


def test_a_term_without_a_gradient_gets_no_strength():
    pair = pair_of()
    unit = torch.ones(())
    parts = {"mean_1": unit, "mean_2": unit}
    dead = {"mean_1": 0 * unit, "mean_2": 0 * unit}
    assert strengths({"nll": parts, "param_diversity": parts, "feature_diversity": dead}, 2) == {"param": 1.0, "feature": 0.0}
    assert float(pair.param_strength) == 1.0
