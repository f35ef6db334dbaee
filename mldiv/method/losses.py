"""Every term of the objective as a pure function of tensors. Which terms are added with which weight: `pair`."""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

Scalar = float | Tensor

#: Keeps logarithms and square roots finite at zero; far below every distance between networks.
TINY = 1e-12

#: Smallest norm of a layer's means that divides them: of a layer that starts at zero, sigmas are of this size.
SMALLEST_NORM = 1e-3

FEATURE_DIRECTIONS = ("forward", "reverse", "symmetric")
FEATURE_REDUCTIONS = ("batchmean", "mean", "sum")
NORMALIZATIONS = ("sum", "mean", "switch")

Weights = Float[Tensor, " weights"]
Distribution = Float[Tensor, "images given"]


def expected_nll(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Compute the cross-entropy in nats, mean over the batch: the ELBO's data term per image, one weight sample.

    paper, unnumbered here. Computed in float32. Shapes: logits [batch, classes], labels [batch]; result [].
    """
    return functional.cross_entropy(logits.float(), labels)


def gaussian_kl_to_prior(
    mean: Weights, sigma: Weights, prior_std: float, center: Weights | None = None, scale: Weights | None = None
) -> Float[Tensor, ""]:
    r"""Compute the KL of the diagonal Gaussian posterior to the prior, in nats, summed over weights.

    .. math:: \mathrm{KL}(q \| p) =
              \sum_i \log\frac{s c_i}{\sigma_i} + \frac{\sigma_i^2 + (\mu_i - m_i)^2}{2 s^2 c_i^2} - \frac12

    paper, unnumbered here. q = N(mu, diag(sigma^2)), p = N(m, diag(s^2 c^2)); stated with m = 0 and c = 1, which None stands
    for, else chosen (`prior_mean`, `prior_mode`). The KL does not change when all is shifted by -m and divided by c: so it is
    computed. Nothing is divided by the number of training images here, `pair` does that. mu -> mean; sigma -> sigma; s ->
    prior_std; m -> center; c -> scale. Shapes: mean, sigma, center, scale [weights]; result [].

    Raises: ValueError for a mean and a sigma of unlike shapes.
    """
    if center is not None:
        mean = mean - center
    if scale is not None:
        mean, sigma = mean / scale, sigma / scale
    _check_shapes(mean, sigma)
    return _GaussianKL.apply(mean, sigma, prior_std)


class _GaussianKL(torch.autograd.Function):
    """`gaussian_kl_to_prior` with its gradient written out: dKL/dmu = mu/s^2, dKL/dsigma = sigma/s^2 - 1/sigma. A third of the
    passes over the vectors that autograd would take, which counts in networks of ten million weights."""

    generate_vmap_rule = True

    @staticmethod
    def forward(mean: Tensor, sigma: Tensor, prior_std: float) -> Tensor:
        squares = (mean.square().sum() + sigma.square().sum()) / (2 * prior_std**2)
        return squares - sigma.log().sum() + mean.numel() * (math.log(prior_std) - 0.5)

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
        mean, sigma, context.prior_std = inputs
        context.save_for_backward(mean, sigma)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        mean, sigma = context.saved_tensors
        scale = gradients[0] / context.prior_std**2
        return mean * scale, torch.addcmul(sigma * scale, sigma.reciprocal(), gradients[0], value=-1), None


def _check_shapes(*parts: Tensor) -> None:
    """Refuse means and sigmas of unlike shapes: one sigma for all weights would count once in a sum over them."""
    for part in parts:
        if part.shape != parts[0].shape:
            shapes = ", ".join(str(tuple(other.shape)) for other in parts)
            raise ValueError(
                f"means and sigmas of shapes {shapes}: expected one shape, a mean and a sigma for every weight "
                "(of one sigma for all: sigma.expand_as(mean))"
            )


def as_they_are(mean: Weights, sigma: Weights, sizes: list[int]) -> tuple[Weights, Weights]:
    """Return means and sigmas as they are."""
    return mean, sigma


def by_layer(mean: Weights, sigma: Weights, sizes: list[int]) -> tuple[Weights, Weights]:
    r"""Divide each layer's means and sigmas by the norm of its means, so that no distance can grow by norms alone.

    .. math:: (\mu_l, \sigma_l) / \|\mu_l\|

    chosen: the paper is silent (`param_weights`). With batch norm a convolution's weights are free of scale. The gradient
    flows through the norm, which is at least SMALLEST_NORM. sizes: of the layers, in weights. Shapes: mean, sigma [weights];
    results the same.
    """
    prepared_mean, prepared_sigma, _ = _ByLayer.apply(mean, sigma, sizes)
    return prepared_mean, prepared_sigma


class _ByLayer(torch.autograd.Function):
    """`by_layer` with its gradient written out, so that a layer costs two sums and not a dozen small operations: with
    (y, z) = (mu, sigma) / n, dmu = (dy - y c) / n, dsigma = dz / n, c = <dy, y> + <dz, z>, which is 0 where n is its least."""

    generate_vmap_rule = True

    @staticmethod
    def forward(mean: Tensor, sigma: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        norms = torch.stack([part.norm() for part in mean.split(sizes)]).clamp_min(SMALLEST_NORM)
        scale = _spread(norms.reciprocal(), sizes)
        return mean * scale, sigma * scale, norms

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Tensor, Tensor, list[int]], output: tuple[Tensor, Tensor, Tensor]) -> None:
        context.save_for_backward(*output)
        context.set_materialize_grads(False)
        context.sizes = inputs[2]

    @staticmethod
    def backward(context: Any, *gradients: Tensor | None) -> tuple[Tensor, Tensor, None]:
        mean, sigma, norms = context.saved_tensors
        of_mean, of_sigma = (torch.zeros_like(mean) if given is None else given for given in gradients[:2])
        along = torch.addcmul(of_mean * mean, of_sigma, sigma)
        sums = torch.stack([part.sum() for part in along.split(context.sizes)])
        if gradients[2] is not None:  # of a second derivative, whose norms are those of the means too
            sums = sums - gradients[2] * norms
        sums = sums * (norms > SMALLEST_NORM)
        scale = _spread(norms.reciprocal(), context.sizes)
        return scale * torch.addcmul(of_mean, mean, _spread(sums, context.sizes), value=-1), scale * of_sigma, None


def _spread(values: Tensor, sizes: Sequence[int]) -> Tensor:
    """Give each layer's weights its value."""
    return torch.cat([value.expand(size) for value, size in zip(values.unbind(), sizes, strict=True)])


def squared_w2(mean: Weights, sigma: Weights, peer_mean: Weights, peer_sigma: Weights) -> Float[Tensor, ""]:
    r"""Compute the squared 2-Wasserstein distance of two diagonal Gaussians, summed over weights.

    .. math:: W_2^2 = \|\mu_1 - \mu_2\|^2 + \|\sigma_1 - \sigma_2\|^2

    paper, unnumbered here. Symmetric. mu_1, sigma_1 -> mean, sigma; mu_2, sigma_2 -> peer_mean, peer_sigma.
    Shapes: all [weights]; result [].

    Raises: ValueError for unlike shapes.
    """
    _check_shapes(mean, sigma, peer_mean, peer_sigma)
    value, _, _ = _SquaredW2.apply(mean, sigma, peer_mean, peer_sigma)
    return value


class _SquaredW2(torch.autograd.Function):
    """`squared_w2` with its gradient written out: fewer passes over the vectors than autograd takes, the same bits."""

    generate_vmap_rule = True

    @staticmethod
    def forward(mean: Tensor, sigma: Tensor, peer_mean: Tensor, peer_sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        of_means, of_sigmas = mean - peer_mean, sigma - peer_sigma
        return of_means.square().sum() + of_sigmas.square().sum(), of_means, of_sigmas

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        context.save_for_backward(*output[1:])
        context.set_materialize_grads(False)

    @staticmethod
    def backward(context: Any, *gradients: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        twice = 2 * (context.saved_tensors[0].new_zeros(()) if gradients[0] is None else gradients[0])
        own = [apart * twice for apart in context.saved_tensors]
        own = [
            value if further is None else value + further  # of a second derivative
            for value, further in zip(own, gradients[1:], strict=True)
        ]
        peers = [-value if needed else None for value, needed in zip(own, context.needs_input_grad[2:], strict=True)]
        return own[0], own[1], peers[0], peers[1]


def gaussian_kl(mean: Weights, sigma: Weights, peer_mean: Weights, peer_sigma: Weights) -> Float[Tensor, ""]:
    r"""Compute the KL between two diagonal Gaussians, in nats, summed over weights.

    .. math:: \mathrm{KL}(q_1 \| q_2) =
              \sum_i \log\frac{\sigma_{2i}}{\sigma_{1i}}
              + \frac{\sigma_{1i}^2 + (\mu_{1i}-\mu_{2i})^2}{2\sigma_{2i}^2} - \frac12

    paper's supplement, unnumbered here: compared with W2 there. Not symmetric: own posterior first.
    mu_1, sigma_1 -> mean, sigma; mu_2, sigma_2 -> peer_mean, peer_sigma. Shapes: all [weights]; result [].

    Raises: ValueError for unlike shapes.
    """
    _check_shapes(mean, sigma, peer_mean, peer_sigma)
    ratio = (sigma / peer_sigma).square()
    shift = ((mean - peer_mean) / peer_sigma).square()
    return 0.5 * (ratio + shift - 1 - ratio.log()).sum()


def symmetric_gaussian_kl(mean: Weights, sigma: Weights, peer_mean: Weights, peer_sigma: Weights) -> Float[Tensor, ""]:
    """Compute `gaussian_kl` in both directions, added.

    chosen: the paper is silent (`param_distance`). Shapes as there.
    """
    return gaussian_kl(mean, sigma, peer_mean, peer_sigma) + gaussian_kl(peer_mean, peer_sigma, mean, sigma)


def logit_mutual(
    logits: Float[Tensor, "batch classes"], peer_logits: Float[Tensor, "batch classes"], temperature: Scalar
) -> Float[Tensor, ""]:
    r"""Measure what a peer can learn from another one's softened predictions, in nats, mean over the batch.

    .. math:: T^2\, \mathrm{KL}(\mathrm{softmax}(z_j / T) \,\|\, \mathrm{softmax}(z_k / T))

    paper, unnumbered here; form standard. Peer j is detached. T^2 keeps the gradient's size over T. Computed in float32.
    z_k -> logits; z_j -> peer_logits; T -> temperature. Shapes: [batch, classes]; result [].
    References: Hinton et al. (2015); Zhang et al., Deep Mutual Learning (CVPR 2018).
    """
    own = (logits.float() / temperature).log_softmax(-1)
    peer = (peer_logits.detach().float() / temperature).log_softmax(-1)
    divergence = (peer.exp() * (peer - own)).sum() / len(own)  # functional.kl_div, which torch.func cannot map
    return temperature**2 * divergence


def normalize_features(fused: Float[Tensor, "batch dim"], *, center: bool) -> Float[Tensor, "batch dim"]:
    """Take the fused vectors in float32, less their batch mean if ``center``.

    chosen: the paper is silent (`center_features`). Vectors after a ReLU all point the same way; centering raises the
    feature KL's level by one to two orders of magnitude and keeps a trained fusion from making all vectors parallel.
    """
    fused = fused.float()
    return fused - fused.mean(0) if center else fused


def conditional_distribution(
    similarity: Float[Tensor, "images images"], *, include_diagonal: bool = False
) -> Float[Tensor, "images images"]:
    r"""Compute for each image j of a batch how probable each image i is as its neighbour.

    .. math:: p_{i|j} = K(f_i, f_j) / \sum_{m \ne j} K(f_m, f_j)

    paper, unnumbered here. Columns sum to 1; p_{j|j} = 0 unless ``include_diagonal`` [chosen: the paper is silent on it,
    `include_diagonal`; Probabilistic Knowledge Transfer's code keeps it]. A column of zeros becomes uniform.
    Two images know no neighbourhood: without the diagonal each is the other's only neighbour, and centered vectors are
    opposite, whose distribution is the same whatever the features; every kernel's feature KL is then 0, and so is its gradient.
    From three images on it acts.
    K -> similarity. Shapes: [images, images], row i, column j; result the same.

    Raises: ValueError for what is no square, and for fewer than two images, which have nothing to be compared with.
    """
    if similarity.dim() != 2 or similarity.shape[0] != similarity.shape[1]:
        raise ValueError(
            f"similarities of the shape {tuple(similarity.shape)}: a kernel compares every image of a batch with every other, "
            "[images, images]"
        )
    if len(similarity) < 2:
        raise ValueError(
            f"{len(similarity)} image{'s' * (len(similarity) != 1)} in the batch: the feature term compares an image with the "
            "others of its batch, so where the diversity terms act give at least two images a batch (leave out an incomplete "
            "last batch: drop_last=True of a DataLoader)"
        )
    kept = similarity + TINY
    if not include_diagonal:
        kept = kept * (1 - torch.eye(len(kept), dtype=kept.dtype, device=kept.device))
    return kept / kept.sum(0, keepdim=True)


def feature_kl(p: Distribution, q: Distribution, *, direction: str, reduction: str) -> Float[Tensor, ""]:
    r"""Compute the KL between the peers' conditional distributions in a batch, in nats.

    .. math:: \sum_i p_{i|j} \log (p_{i|j} / q_{i|j})

    paper, unnumbered here; direction and reduction chosen: the paper is silent (`feature_direction`, `feature_reduction`).
    forward: KL(p || q); reverse: KL(q || p); symmetric: their sum. batchmean: mean over j (nats per image); mean: over all
    n^2 entries, as in Probabilistic Knowledge Transfer; sum: over i and j. The caller detaches.
    p -> own peer's distribution; q -> the other's. Shapes: [images, images], columns sum to 1; result [].

    Raises: ValueError for an unknown direction or reduction.
    """
    if direction not in FEATURE_DIRECTIONS:
        raise ValueError(f"direction {direction!r}: expected one of {', '.join(FEATURE_DIRECTIONS)}")
    if reduction not in FEATURE_REDUCTIONS:
        raise ValueError(f"reduction {reduction!r}: expected one of {', '.join(FEATURE_REDUCTIONS)}")
    ratio = (p + TINY).log() - (q + TINY).log()
    weight = {"forward": p, "reverse": -q, "symmetric": p - q}[direction]
    total = (weight * ratio).sum()
    return total / {"batchmean": p.shape[1], "mean": p.numel(), "sum": 1}[reduction]


def negative(x: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return ``-x``: a constant push for ever. Of the raw sum over a ResNet-20 its gradient is 100 times the data term's."""
    return -x


def negative_sqrt(x: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return ``-sqrt(x)``: of the raw sum, -W2, whose gradient in the means has length 1 whatever the distance."""
    return -(x + TINY).sqrt()


def negative_log(x: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return ``-log x``: the same gradient whatever divides x, falling as 1/x."""
    return -(x + TINY).log()


def softplus(x: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return ``log(1 + exp(-x))``: it pushes until x is a few.

    Dead (gradient 0 in float32) for a raw sum: the config refuses it.
    """
    return functional.softplus(-x)


def exponential(x: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return ``exp(-x)``: it pushes until x is a few. Dead for a raw sum: the config refuses it."""
    return torch.exp(-x)


def transform_scale(normalization: str, value: Float[Tensor, ""], count: int) -> Float[Tensor, ""]:
    """Return what divides a distance before its transform.

    chosen: the paper is silent (`param_normalization`, `feature_normalization`). sum: 1; mean: ``count``, the number of
    weights, or of a layer's where the distance is a mean over layers (1 for the feature KL, a mean already); switch: the
    distance's value when the diversity terms start, detached.

    Raises: ValueError for an unknown normalization.
    """
    if normalization == "sum":
        return torch.ones_like(value)
    if normalization == "mean":
        return torch.full_like(value, count)
    if normalization == "switch":
        return value.detach().clamp_min(1e-8)
    raise ValueError(f"normalization {normalization!r}: expected one of {', '.join(NORMALIZATIONS)}")


class Distance(NamedTuple):
    """A distance of (mean, sigma, peer_mean, peer_sigma), a sum over weights. symmetric: whether it is the same either way;
    needs_noise: whether it is infinite where a sigma is 0."""

    function: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    symmetric: bool
    needs_noise: bool = False


class Transform(NamedTuple):
    """What is minimised of a distance x, divided by its stated scale, so that x grows.

    bounded: whether its push ends: at a raw sum, which is in the thousands, its gradient is 0 in float32. A configuration with
    both is refused.
    """

    function: Callable[[Tensor], Tensor]
    bounded: bool


class Prepared(NamedTuple):
    """What of a posterior is compared: (mean, sigma, layers' sizes) -> (mean, sigma). by_layer: whether distances of it are
    means over layers."""

    function: Callable[[Tensor, Tensor, list[int]], tuple[Tensor, Tensor]]
    by_layer: bool


#: What of posteriors a distance compares.
PARAM_WEIGHTS = {"raw": Prepared(as_they_are, by_layer=False), "layer": Prepared(by_layer, by_layer=True)}

#: How far apart two posteriors are.
PARAM_DISTANCES = {
    "w2": Distance(squared_w2, symmetric=True),
    "kl": Distance(gaussian_kl, symmetric=False, needs_noise=True),
    "symmetric_kl": Distance(symmetric_gaussian_kl, symmetric=True, needs_noise=True),
}

#: What makes distances grow.
TRANSFORMS = {
    "negative": Transform(negative, bounded=False),
    "negative_sqrt": Transform(negative_sqrt, bounded=False),
    "negative_log": Transform(negative_log, bounded=False),
    "softplus": Transform(softplus, bounded=True),
    "exp": Transform(exponential, bounded=True),
}

#: What each name in an objective may be.
CHOICES: dict[str, Collection[str]] = {
    "param_distance": PARAM_DISTANCES,
    "param_weights": PARAM_WEIGHTS,
    "param_transform": TRANSFORMS,
    "param_normalization": NORMALIZATIONS,
    "feature_direction": FEATURE_DIRECTIONS,
    "feature_reduction": FEATURE_REDUCTIONS,
    "feature_transform": TRANSFORMS,
    "feature_normalization": NORMALIZATIONS,
}
