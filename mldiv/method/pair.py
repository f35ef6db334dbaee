"""Both peers and their fusion; one forward gives every loss term by name. The one place that scales and adds them."""

from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mldiv.config import TrialConfig
from mldiv.method import losses
from mldiv.method.fusion import FUSIONS
from mldiv.method.kernels import KERNELS
from mldiv.method.networks import build
from mldiv.method.posterior import GaussianPosterior
from mldiv.seeding import derive

#: Loss terms of a step in the order of `MutualPair.forward`'s vector. All but the last are unweighted.
#: kl_k is in nats per training image; param_distance and feature_kl are raw, *_diversity transformed.
TERMS = (
    "nll_1",
    "nll_2",
    "kl_1",
    "kl_2",
    "mutual_1",
    "mutual_2",
    "param_distance",
    "feature_kl",
    "param_diversity",
    "feature_diversity",
    "total",
)


class Weights(NamedTuple):
    """What multiplies the terms: numbers, or 0-d tensors when a step is mapped over several trials."""

    alpha: losses.Scalar
    beta: losses.Scalar
    temperature: losses.Scalar
    kl_weight: losses.Scalar
    mutual_weight: losses.Scalar


class MutualPair(nn.Module):
    r"""Two Bayesian networks that learn from the data and from each other.

    .. math:: \sum_k \mathrm{CE}_k + \frac{w}{N} \mathrm{KL}(q_k \| p) + \lambda T^2 \mathrm{KL}_k
              + \alpha\, t(D_k) + \beta\, t(F_k)

    paper, unnumbered here. Both peers' losses are added and stepped at once; in peer k's terms the other peer is detached,
    so each peer receives the gradient of its own loss only (the fusion, where it is trained, that of both feature terms).

    alpha -> weights.alpha; beta -> weights.beta; T -> weights.temperature; lambda -> weights.mutual_weight [chosen: 1];
    w -> weights.kl_weight; N -> train_images; D -> param_distance; F -> feature_kl; t -> param_transform, feature_transform.
    """

    param_scale: Tensor
    feature_scale: Tensor

    def __init__(self, config: TrialConfig, classes: int, channels: int, train_images: int, image_size: int = 32) -> None:
        super().__init__()
        self.config, self.train_images = config, train_images
        self.peer_1, self.peer_2 = (
            GaussianPosterior(
                network(config, classes, channels, f"peer {index}", image_size),
                initial_sigma=config.initial_sigma,
                sigma_mode=config.sigma_mode,
            )
            for index in (1, 2)
        )
        widths: Any = self.peer_1.module.feature_channels
        self.fusion = FUSIONS[config.fusion](widths, config.fusion_dim, config.fusion_heads, derive(config.seed, "fusion"))
        self.kernel = partial(KERNELS[config.kernel], **config.kernel_options)
        self.weights = Weights(config.alpha, config.beta, config.temperature, config.kl_weight, config.mutual_weight)
        self.register_buffer("param_scale", torch.ones(()))
        self.register_buffer("feature_scale", torch.ones(()))

    @property
    def peers(self) -> tuple[GaussianPosterior, GaussianPosterior]:
        return self.peer_1, self.peer_2

    def forward(
        self,
        images: Float[Tensor, "batch channels height width"],
        labels: Int[Tensor, " batch"],
        noise_1: Float[Tensor, " weights"],
        noise_2: Float[Tensor, " weights"],
        diverse: bool,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " terms"]]:
        """The total loss and the vector of TERMS (detached). One weight sample per peer, from standard normal noise.

        diverse: whether the diversity terms act (stage two, with alpha or beta not zero).
        """
        sigma_1, sigma_2 = self.peer_1.sigma, self.peer_2.sigma
        logits_1, features_1 = self.peer_1(images, weights=torch.addcmul(self.peer_1.mean, sigma_1, noise_1))
        logits_2, features_2 = self.peer_2(images, weights=torch.addcmul(self.peer_2.mean, sigma_2, noise_2))
        terms = self._mutual_terms(logits_1, logits_2, labels) | self._prior_terms(sigma_1, sigma_2)
        if diverse:
            terms |= self._param_terms(sigma_1, sigma_2) | self._feature_terms(features_1, features_2)
        terms["total"] = self._total(terms)
        zero = terms["total"].new_zeros(())
        return terms["total"], torch.stack([terms.get(name, zero).detach() for name in TERMS])

    def _mutual_terms(self, logits_1: Tensor, logits_2: Tensor, labels: Tensor) -> dict[str, Tensor]:
        temperature = self.weights.temperature
        return {
            "nll_1": losses.expected_nll(logits_1, labels),
            "nll_2": losses.expected_nll(logits_2, labels),
            "mutual_1": losses.logit_mutual(logits_1, logits_2, temperature),
            "mutual_2": losses.logit_mutual(logits_2, logits_1, temperature),
        }

    def _prior_terms(self, sigma_1: Tensor, sigma_2: Tensor) -> dict[str, Tensor]:
        prior = self.config.prior_std
        return {
            "kl_1": losses.gaussian_kl_to_prior(self.peer_1.mean, sigma_1, prior) / self.train_images,
            "kl_2": losses.gaussian_kl_to_prior(self.peer_2.mean, sigma_2, prior) / self.train_images,
        }

    def _param_terms(self, sigma_1: Tensor, sigma_2: Tensor) -> dict[str, Tensor]:
        distance = losses.PARAM_DISTANCES[self.config.param_distance]
        transform = losses.TRANSFORMS[self.config.param_transform]
        mean_1, mean_2 = self.peer_1.mean, self.peer_2.mean
        if self.config.param_distance in losses.SYMMETRIC_DISTANCES:  # each peer's gradient is the same: once does for both
            both = distance(mean_1, sigma_1, mean_2, sigma_2)
            diversity = transform(both / self.param_scale)
            return {"param_distance": both, "param_diversity": diversity + diversity.detach()}
        first = distance(mean_1, sigma_1, mean_2.detach(), sigma_2.detach())
        second = distance(mean_2, sigma_2, mean_1.detach(), sigma_1.detach())
        return {
            "param_distance": (first + second) / 2,
            "param_diversity": transform(first / self.param_scale) + transform(second / self.param_scale),
        }

    def _feature_terms(self, features_1: tuple[Tensor, ...], features_2: tuple[Tensor, ...]) -> dict[str, Tensor]:
        transform = losses.TRANSFORMS[self.config.feature_transform]
        first, second = self.feature_divergences(features_1, features_2)
        return {
            "feature_kl": (first + second) / 2,
            "feature_diversity": transform(first / self.feature_scale) + transform(second / self.feature_scale),
        }

    def feature_divergences(
        self, features_1: tuple[Tensor, ...], features_2: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The feature KL as peer 1 and as peer 2 see it: each with the other's distribution detached."""
        device = features_1[0].device.type
        with torch.autocast(device, enabled=False):
            fused = self.fusion(features_1, features_2)
            normalized = [losses.normalize_features(one, center=self.config.center_features) for one in fused]
            p_1, p_2 = (
                losses.conditional_distribution(self.kernel(one, one), include_diagonal=self.config.include_diagonal)
                for one in normalized
            )
            divergence = partial(
                losses.feature_kl, direction=self.config.feature_direction, reduction=self.config.feature_reduction
            )
            return divergence(p_1, p_2.detach()), divergence(p_2, p_1.detach())

    def _total(self, terms: dict[str, Tensor]) -> Tensor:
        """Every weight is applied here and nowhere else."""
        weights = self.weights
        total = terms["nll_1"] + terms["nll_2"]
        total = total + weights.kl_weight * (terms["kl_1"] + terms["kl_2"])
        total = total + weights.mutual_weight * (terms["mutual_1"] + terms["mutual_2"])
        if "param_diversity" in terms:
            total = total + weights.alpha * terms["param_diversity"] + weights.beta * terms["feature_diversity"]
        return total

    @torch.no_grad()
    def adopt(self, other: "MutualPair") -> None:
        """Become a pair of the same shape without moving a parameter, so that steps compiled for this one serve that one."""
        self.load_state_dict(other.state_dict())
        self.config, self.kernel = other.config, other.kernel
        self.weights = Weights(*(torch.as_tensor(value, device=self.param_scale.device) for value in other.weights))
        for mine, theirs in zip(self.peers, other.peers, strict=True):
            mine.initial_sigma, mine.sigma_mode = theirs.initial_sigma, theirs.sigma_mode
        self.zero_grad()

    def squared_w2(self) -> Float[Tensor, ""]:
        """Squared 2-Wasserstein distance between the two posteriors, summed over weights."""
        return self.peer_1.distance(self.peer_2, "w2")

    @torch.no_grad()
    def set_scales(self, feature_kl: Tensor) -> dict[str, float]:
        """Fix what divides the two distances from the switch on (param_normalization, feature_normalization).

        feature_kl: its value now, as the term measures it. Returns both distances' values now, raw.
        """
        config = self.config
        value = self.peer_1.distance(self.peer_2, config.param_distance)
        count = self.peer_1.mean.numel()
        self.param_scale.copy_(losses.transform_scale(config.param_normalization, value, count))
        self.feature_scale.copy_(losses.transform_scale(config.feature_normalization, feature_kl, 1))
        return {"param_distance": float(value), "feature_kl": float(feature_kl)}


def network(config: TrialConfig, classes: int, channels: int, purpose: str, image_size: int = 32) -> nn.Module:
    """The configured architecture for images of ``image_size`` pixels with the initial weights of this seed and purpose."""
    seed = derive(config.seed, purpose)
    return build(config.arch, classes=classes, channels=channels, width=config.width, seed=seed, image_size=image_size)
