"""How hard each term of the loss pulls: the lengths of its gradients in the peers' means, in rho and in the fusion."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mldiv.method.pair import MutualPair

#: Gradient lengths by term and by what they act on: mean_1, mean_2, ..., rho_1, rho_2, ..., fusion.
Lengths = dict[str, dict[str, Float[Tensor, ""]]]


def gradient_lengths(
    pair: MutualPair, terms: Mapping[str, Tensor], averaged: Callable[[Tensor], Tensor] = lambda gradient: gradient
) -> Lengths:
    """Compute the Euclidean length of every term's gradient in each peer's means, in each peer's rho and in the fusion.

    terms: scalars by name, computed with gradients, e.g. `MutualPair.weighted`; their graph is kept. What a term does not
    reach has length 0, and so has every rho of a posterior that is given (`given_posterior`). averaged: makes of a gradient its
    mean over ranks, which is what a step applies.
    """
    numbers = range(1, len(pair.peers) + 1)
    parts = {f"mean_{number}": peer.trained_means for number, peer in zip(numbers, pair.peers, strict=True)}
    parts |= {f"rho_{number}": peer.trained_rhos for number, peer in zip(numbers, pair.peers, strict=True)}
    parts["fusion"] = list(pair.fusion.parameters())
    trained = {name: [value for value in values if value.requires_grad] for name, values in parts.items()}
    weights = [value for values in trained.values() for value in values]
    found: Lengths = {}
    for term, value in terms.items():
        none = [None] * len(weights)  # of a term that is a constant, such as the KL of a network without noise
        gradients = iter(
            torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True) if value.requires_grad else none
        )
        found[term] = {name: _length([next(gradients) for _ in values], value, averaged) for name, values in trained.items()}
    return found


def _length(gradients: Sequence[Tensor | None], like: Tensor, averaged: Callable[[Tensor], Tensor]) -> Tensor:
    lengths = [averaged(gradient).float().norm() for gradient in gradients if gradient is not None]
    return torch.stack(lengths).norm() if lengths else like.detach().new_zeros(())


def strengths(lengths: Lengths, peers: int) -> dict[str, Float[Tensor, ""]]:
    """Return the factors that make each diversity term's gradient in the peers' means as long as the cross-entropy's.

    Mean over peers; 0 for a term without any gradient.
    """
    means = [f"mean_{number}" for number in range(1, peers + 1)]
    total = {term: torch.stack([parts[name] for name in means]).sum() for term, parts in lengths.items()}
    found = {name: total["nll"] / total[f"{name}_diversity"] for name in ("param", "feature")}
    return {name: torch.where(value.isfinite(), value, torch.zeros_like(value)) for name, value in found.items()}
