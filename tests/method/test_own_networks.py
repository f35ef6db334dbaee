"""The method alone, on networks that are in no registry: no configuration, no data set, no Ray."""

import inspect
import re
from pathlib import Path
from textwrap import dedent

import jaxtyping
import pytest
import torch
from torch import nn

from mldiv.method.fusion import shared
from mldiv.method.pair import MutualPair, Objective
from mldiv.method.posterior import GaussianPosterior

README = Path(__file__).parents[2] / "README.md"


def test_two_small_networks_learn():
    """Images of two classes at random; who knows nothing has an NLL of log 2 = 0.69."""
    torch.manual_seed(0)

    class Network(nn.Sequential):
        def forward(self, images):
            features = self[0](images).relu()
            return self[1](features.mean((2, 3))), (features,)

    networks = [Network(nn.Conv2d(1, 16, 3), nn.Linear(16, 2)) for _ in range(2)]
    images, labels = torch.randn(64, 1, 8, 8), torch.arange(64) % 2
    objective = Objective(train_images=len(images), fusion_training="task")
    pair = MutualPair(networks, objective, fusion=shared((16,), classes=2))
    optimizer = torch.optim.Adam(pair.parameters(), lr=0.01)
    for step in range(200):
        if step == 100:
            pair.set_scales(pair.feature_kl(images))
        loss, terms = pair(images, labels, diverse=step >= 100)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    assert terms[-1] == loss and terms[:2].max() < 0.6


def test_readmes_example_are_these_lines():
    example = next(
        text for text in re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL) if "MutualPair" in text
    )
    imports, lines = example.split("\n\n", 1)
    exec(imports, {})
    source = inspect.getsource(test_two_small_networks_learn)
    body = dedent(source.split("torch.manual_seed(0)\n")[1]).split("\nassert ")[0]
    assert [line for line in lines.splitlines() if line] == [line for line in body.splitlines() if line]


class Two(nn.Sequential):
    feature_channels = (4,)

    def forward(self, images):
        features = self[0](images).relu()
        return self[1](features.mean((2, 3))), (features,)


@pytest.mark.parametrize(
    ("objective", "more", "said"),
    [
        ({"fusion_training": "task"}, {}, "'task' needs a fusion with a classifier, as of shared(channels, classes=10)"),
        ({"fusion_training": "adversarial"}, {"fusion": nn.Identity()}, "needs a PeerFusion"),
        ({}, {"fusion": shared((4,), peers=3)}, "a fusion of 3 peers for 2 networks: make it with peers=2"),
        ({"param_distance": "kl"}, {"initial_sigma": 0.0}, "'kl' divides by sigma, which is 0"),
        ({"train_images": -5}, {}, "train_images = -5: expected how many images"),
        ({"alpha": -1.0}, {}, "alpha = -1.0: expected a number from 0 on"),
        ({"temperature": 0.0}, {}, "temperature = 0.0: expected a number from 0 on, not 0"),
        ({"prior_std": -1.0}, {}, "prior_std = -1.0: expected a number from 0 on, not 0"),
        ({"train_samples": 0}, {}, "train_samples = 0: expected at least 1"),
    ],
)
def test_what_cannot_be_trained_is_said_when_the_pair_is_made(objective, more, said):
    networks = [Two(nn.Conv2d(1, 4, 3), nn.Linear(4, 2)) for _ in range(2)]
    with pytest.raises(ValueError, match=re.escape(said)):
        MutualPair(networks, Objective(**{"train_images": 64} | objective), **more)


@pytest.mark.parametrize(
    ("channels", "classes", "scaled", "error", "said"),
    [
        ((4,), 3, True, ValueError, "logits of 2 classes, the fusion's classifier of 3"),
        ((8,), 2, True, ValueError, "features of [4] channels, and the fusion was made for [8]"),
        ((4, 4), 2, True, ValueError, "features of [4] channels, and the fusion was made for [4, 4]"),
        ((4,), 2, False, RuntimeError, "before the first diverse step call pair.set_scales"),
    ],
)
def test_what_does_not_fit_is_said_by_the_step(channels, classes, scaled, error, said):
    networks = [Two(nn.Conv2d(1, 4, 3), nn.Linear(4, 2)) for _ in range(2)]
    pair = MutualPair(networks, Objective(train_images=64, fusion_training="task"), fusion=shared(channels, classes=classes))
    if scaled:
        pair.load_state_dict(pair.state_dict())
    with pytest.raises(error, match=re.escape(said)):
        pair(torch.randn(8, 1, 8, 8), torch.arange(8) % 2, diverse=True)


@pytest.mark.parametrize("images", [2, 5])
def test_a_network_that_gives_logits_alone_is_told_what_a_peer_returns(images):
    """Two images' logits would be taken for logits and features."""
    networks = [nn.Sequential(nn.Flatten(), nn.Linear(9, 2)) for _ in range(2)]
    pair = MutualPair(networks, Objective(train_images=9, fusion_training="task"), fusion=shared((4,), classes=2))
    with pytest.raises(ValueError, match="give a Tensor: a peer, and a teacher, returns logits and a tuple of features"):
        pair(torch.zeros(images, 1, 3, 3), torch.zeros(images, dtype=torch.int64))


def test_features_that_are_no_tuple_are_told_of():
    """Of logits and one tensor a message that the networks give a tuple, where a tuple is expected, would say nothing."""

    class One(Two):
        def forward(self, images):
            logits, (features,) = super().forward(images)
            return logits, features

    pair = MutualPair([One(nn.Conv2d(1, 4, 3), nn.Linear(4, 2)) for _ in range(2)], Objective(train_images=9))
    with pytest.raises(ValueError, match="give a Tensor and a Tensor: a peer, and a teacher, returns logits and a tuple"):
        pair(torch.zeros(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize("name", ["kernel", "fusion"])
def test_a_name_in_place_of_a_function_is_refused(monkeypatch, name):
    """Settings are names; found only by the first diverse step it would cost a first stage. Only tests check types."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    networks = [Two(nn.Conv2d(1, 4, 3), nn.Linear(4, 2)) for _ in range(2)]
    with pytest.raises(ValueError, match=f"{name} = 'shared': expected a function or module, not a name"):
        MutualPair(networks, Objective(train_images=9), **{name: "shared"})


@pytest.mark.parametrize(
    ("kernel", "shape"),
    [
        (nn.functional.cosine_similarity, r"\(5,\)"),
        (lambda a, b: nn.functional.cosine_similarity(a, b)[:, None], r"\(5, 1\)"),
        (lambda a, b: (a @ b.T).mean(), r"\(\)"),
    ],
)
def test_a_kernel_that_does_not_compare_all_images_is_told_of(monkeypatch, kernel, shape):
    """torch's cosine similarity compares row with row: spread over a square it gave a feature KL of 0, without a word."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    networks = [Two(nn.Conv2d(1, 4, 3), nn.Linear(4, 2)) for _ in range(2)]
    pair = MutualPair(networks, Objective(train_images=9), kernel=kernel)
    with pytest.raises(ValueError, match=f"similarities of the shape {shape}: a kernel compares every image of a batch with"):
        pair.feature_kl(torch.randn(5, 1, 8, 8))


@pytest.mark.parametrize(("name", "said"), [("param_distance", "it is the objective's"), ("sigma", "no argument is called so")])
def test_an_argument_that_there_is_not_is_refused(name, said):
    networks = [Two(nn.Conv2d(1, 4, 3), nn.Linear(4, 2)) for _ in range(2)]
    with pytest.raises(ValueError, match=rf"MutualPair\({name}=...\): {said}"):
        MutualPair(networks, Objective(train_images=9), **{name: "kl"})


def test_a_word_in_place_of_true_or_false_is_refused(monkeypatch):
    """Python takes 'no' for True. Only tests check types."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match="center_features = 'no': expected True or False"):
        Objective(train_images=9, center_features="no")


def test_frozen_layers_stay_as_they_are():
    """A trunk that its owner has frozen was drawn, and trained, as if it were not."""
    networks = [Two(nn.Conv2d(1, 4, 3).requires_grad_(False), nn.Linear(4, 2)) for _ in range(2)]
    before = networks[0][0].weight.clone()
    pair = MutualPair(networks, Objective(train_images=64))
    assert pair.peers[0].names == [["1.weight"]]
    loss, _ = pair(torch.randn(8, 1, 8, 8), torch.arange(8) % 2)
    loss.backward()
    assert networks[0][0].weight.grad is None and torch.equal(networks[0][0].weight, before)
    with pytest.raises(ValueError, match="frozen ones stay as they are"):
        MutualPair([network.requires_grad_(False) for network in (Two(nn.Linear(4, 2)), Two(nn.Linear(4, 2)))], pair.objective)


def test_a_weight_that_an_embedding_shares_stays_shared():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.out = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, tokens):
            return self.out(self.embed(tokens))

    posterior = GaussianPosterior(Tied())
    assert posterior.names == [["embed.weight", "out.weight"]] and not list(posterior.module.parameters())
    weights = torch.randn(15)
    expected = weights.view(5, 3)[torch.tensor([1, 4])] @ weights.view(5, 3).T
    torch.testing.assert_close(posterior(torch.tensor([1, 4]), weights=weights), expected)


@pytest.mark.parametrize("made_of_others", [torch.nn.utils.weight_norm, torch.nn.utils.parametrizations.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_a_weight_that_is_made_of_others_is_refused(made_of_others):
    """The older one writes its own weight over the one that is drawn, in every pass."""
    with pytest.raises(ValueError, match=r"the weight of the layer 1 .* is no parameter of it"):
        GaussianPosterior(nn.Sequential(nn.Linear(3, 3), made_of_others(nn.Linear(3, 3))))


def test_a_teacher_that_gives_logits_alone_is_told_what_it_returns():
    """Its first image's logits would be taught for every image."""
    networks = [Two(nn.Conv2d(1, 4, 3), nn.Linear(4, 2)) for _ in range(2)]
    pair = MutualPair(networks, Objective(train_images=64), teacher=nn.Sequential(nn.Flatten(), nn.Linear(64, 2)))
    with pytest.raises(ValueError, match="a peer, and a teacher, returns logits and a tuple of features"):
        pair(torch.randn(8, 1, 8, 8), torch.arange(8) % 2)


def test_logits_of_every_pixel_are_refused():
    """The cross-entropy's classes would be the second dimension, those of mutual learning the last."""

    class Pixels(Two):
        def forward(self, images):
            features = self[0](images)
            return features, (features,)

    pair = MutualPair([Pixels(nn.Conv2d(1, 4, 3)) for _ in range(2)], Objective(train_images=64))
    with pytest.raises(ValueError, match=re.escape("logits of shape (2, 4, 6, 6): expected [batch, classes]")):
        pair(torch.randn(2, 1, 8, 8), torch.arange(2))


def test_networks_that_share_a_layer_are_refused():
    networks = [Two(nn.Conv2d(1, 4, 3), nn.Linear(4, 2)) for _ in range(3)]
    networks[2][0] = networks[0][0]
    with pytest.raises(ValueError, match=r"networks 1 and 3 share 0\.weight: every peer needs a network of its own"):
        MutualPair(networks, Objective(train_images=64), fusion=shared((4,), peers=3))


def test_a_teacher_moves_with_its_pair():
    """Also where the pair gets another type, or goes to another device; it is in no state dict all the same."""
    networks = [Two(nn.Conv2d(1, 4, 3), nn.Linear(4, 2)) for _ in range(3)]
    pair = MutualPair(networks[:2], Objective(train_images=64), teacher=networks[2]).double()
    assert {value.dtype for value in networks[2].parameters()} == {torch.float64}
    loss, _ = pair(torch.randn(8, 1, 8, 8, dtype=torch.float64), torch.arange(8) % 2)
    assert loss.dtype == torch.float64 and not any("teacher" in name for name in pair.state_dict())


def test_the_scale_is_measured_with_one_weight_sample():
    """Whatever a step has, so that each network is run once."""
    networks = [Two(nn.Conv2d(1, 4, 3), nn.Linear(4, 2)) for _ in range(2)]
    runs = []
    networks[0].register_forward_hook(lambda *given: runs.append(1))
    MutualPair(networks, Objective(train_images=64, train_samples=3)).feature_kl(torch.randn(8, 1, 8, 8))
    assert len(runs) == 1
