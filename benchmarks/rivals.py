"""The same pair of networks made Bayesian by other libraries, with the same losses and the same kind of optimiser.

bayesian-torch, `dnn_to_bnn`: replaces every convolution and linear layer (biases become Bayesian too), takes only the
shapes from the network (moped_enable False: means start at N(0, 0.1^2)) and marks its layers so that a forward gives the
output alone and computes no KL. `get_kl_loss` then computes the KL once per step: per layer, the mean over weights; summed
over layers. Every forward draws anew from torch's global random state. Reparameterization draws one weight sample per
forward; Flipout runs a second convolution with the noise and draws a sign for every element of the layer's input and output.

torch-uncertainty, `BayesConv2d` and `BayesLinear`: the library has no converter, so layers are replaced here by the
layers' own defaults. Every forward draws one weight sample and evaluates log q and log p at it, the prior by
torch.distributions as a mixture of two Gaussians (the second with weight 0). `KLDiv` is the mean over layers of their
difference, a Monte Carlo estimate.

Each library's own sum is multiplied by kl_weight / N as it is: what the terms weigh does not change the time of a step.
"""

import importlib
from collections.abc import Callable
from functools import partial
from itertools import chain

import torch
from timing import Step
from torch import Tensor, nn

from mldiv.config import TrialConfig
from mldiv.datasets.splits import Shapes
from mldiv.evaluation.predictive import precision
from mldiv.method import losses
from mldiv.training.loop import network

#: Training images by which the KL is divided, classes and channels, as in the step benchmark.
SHAPES = Shapes(classes=10, channels=3, train_images=50_000)

#: The defaults that bayesian-torch documents.
BAYESIAN_TORCH = {
    "prior_mu": 0.0,
    "prior_sigma": 1.0,
    "posterior_mu_init": 0.0,
    "posterior_rho_init": -3.0,
    "moped_enable": False,
    "moped_delta": 0.5,
}

#: What each library is imported by.
LIBRARIES = {"bayesian-torch": "bayesian_torch.models.dnn_to_bnn", "torch-uncertainty": "torch_uncertainty.layers"}

Loss = Callable[[], Tensor]


def reparameterization(config: TrialConfig, images: Tensor, labels: Tensor) -> Step:
    """bayesian-torch, one weight sample per forward."""
    return _bayesian_torch(config, images, labels, "Reparameterization")


def flipout(config: TrialConfig, images: Tensor, labels: Tensor) -> Step:
    """bayesian-torch, Flipout: the noise differs in sign from image to image."""
    return _bayesian_torch(config, images, labels, "Flipout")


def torch_uncertainty(config: TrialConfig, images: Tensor, labels: Tensor) -> Step:
    """torch-uncertainty's Bayesian layers and KLDiv."""
    from torch_uncertainty.losses import KLDiv

    peers = [network(config, SHAPES, f"peer {number}") for number in (1, 2)]
    for peer in peers:
        _replace_layers(peer)
    return mutual_step(config, images, labels, peers, [KLDiv(peer) for peer in peers])


def _bayesian_torch(config: TrialConfig, images: Tensor, labels: Tensor, kind: str) -> Step:
    from bayesian_torch.models.dnn_to_bnn import get_kl_loss

    peers = [bayesian_torch_network(config, f"peer {number}", kind) for number in (1, 2)]
    return mutual_step(config, images, labels, peers, [partial(get_kl_loss, peer) for peer in peers])


def bayesian_torch_network(config: TrialConfig, purpose: str, kind: str) -> nn.Module:
    """The configured architecture after `dnn_to_bnn`; kind is Reparameterization or Flipout."""
    from bayesian_torch.models.dnn_to_bnn import dnn_to_bnn

    module = network(config, SHAPES, purpose)
    dnn_to_bnn(module, BAYESIAN_TORCH | {"type": kind})
    return module


def _replace_layers(module: nn.Module) -> None:
    from torch_uncertainty.layers import BayesConv2d, BayesLinear

    for name, layer in list(module.named_children()):
        bias = getattr(layer, "bias", None) is not None
        if isinstance(layer, nn.Conv2d):
            shape = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
            setattr(module, name, BayesConv2d(*shape, bias=bias))
        elif isinstance(layer, nn.Linear):
            setattr(module, name, BayesLinear(layer.in_features, layer.out_features, bias=bias))
        else:
            _replace_layers(layer)


def mutual_step(config: TrialConfig, images: Tensor, labels: Tensor, peers: list[nn.Module], kl: list[Loss]) -> Step:
    """A step of stage one's objective: cross-entropy, weighted KL and mutual KL of both peers, clipping, momentum SGD."""
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    for peer in peers:
        peer.to(images.device).to(memory_format=layout)
    parameters = chain.from_iterable(peer.parameters() for peer in peers)
    optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=config.momentum, fused=True)

    def step() -> None:
        with precision(config, images.device):
            first, second = (peer(images)[0] for peer in peers)
            mutual = [losses.logit_mutual(*both, config.temperature) for both in ((first, second), (second, first))]
            loss = losses.expected_nll(first, labels) + losses.expected_nll(second, labels)
            loss = loss + config.kl_weight / SHAPES.train_images * (kl[0]() + kl[1]()).sum()
            loss = loss + config.mutual_weight * sum(mutual)
        optimizer.zero_grad()
        loss.backward()
        for peer in peers:
            nn.utils.clip_grad_norm_(peer.parameters(), config.clip_norm)
        optimizer.step()

    return step


def missing(*libraries: str) -> dict[str, str]:
    """Those of ``libraries`` (all if none are named) that cannot be imported here, each with a sentence that says why."""
    reasons = {}
    for library in libraries or LIBRARIES:
        try:
            importlib.import_module(LIBRARIES[library])
        except ImportError as error:
            reasons[library] = f"{library} is left out ({error}); `make bench` installs it."
    return reasons


#: A rival's step of (config, images, labels); its name begins with its library.
RIVALS: dict[str, Callable[[TrialConfig, Tensor, Tensor], Step]] = {
    "bayesian-torch reparameterization": reparameterization,
    "bayesian-torch flipout": flipout,
    "torch-uncertainty": torch_uncertainty,
}
