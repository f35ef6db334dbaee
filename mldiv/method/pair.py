"""Peers and their fusion; one forward pass gives every loss term by name. Here alone they are scaled and added."""

import functools
import inspect
import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from mldiv.method import losses
from mldiv.method.alignment import ALIGNMENTS, Permutation, channel_groups, flat_order
from mldiv.method.fusion import FUSION_TRAINING, Features, PeerFusion, shared
from mldiv.method.given_posterior import GivenPosterior, PosteriorOf
from mldiv.method.kernels import cosine
from mldiv.method.posterior import GaussianPosterior

#: Loss terms with a value for every peer k: nll_k, kl_k (in nats per training image), mutual_k.
OF_PEERS = ("nll", "kl", "mutual")

#: Loss terms with one value: both distances raw, their mean over pairs of peers; both transformed, summed over peers; the
#: cross-entropy of what a fusion that is trained by the task makes of the features, summed over peers.
OF_PAIRS = ("param_distance", "feature_kl", "param_diversity", "feature_diversity", "fusion_nll")

#: By name: a value for every peer (OF_PEERS) or a single one (OF_PAIRS).
Terms = dict[str, list[Tensor]]

#: Of a peer: standard normal, for one weight sample or for several.
Noise = Float[Tensor, "*samples weights"]

#: A network's logits and features.
Output = tuple[Tensor, tuple[Tensor, ...]]

#: Similarities [n, m] of two batches of fused vectors, [n, dim] and [m, dim].
Kernel = Callable[[Tensor, Tensor], Tensor]

#: What the other modules' names in an objective may be, beside `losses.CHOICES`.
CHOICES: dict[str, Collection[str]] = {"fusion_training": FUSION_TRAINING, "param_alignment": ALIGNMENTS}


def term_names(peers: int) -> tuple[str, ...]:
    """Name the entries of `MutualPair.forward`'s vector, in their order. All but the last, the total, are unweighted."""
    return (*(f"{name}_{number}" for name in OF_PEERS for number in range(1, peers + 1)), *OF_PAIRS, "total")


class Weights(NamedTuple):
    """The factors of the loss terms: numbers, or 0-d tensors when a step is mapped over several trials."""

    alpha: losses.Scalar
    beta: losses.Scalar
    temperature: losses.Scalar
    kl_weight: losses.Scalar
    mutual_weight: losses.Scalar


@dataclass(frozen=True)
class Objective:
    """The numbers and names that make the loss of `MutualPair`: weights [stated] for the diversity terms, the rest [chosen].

    train_images: N, by which the KL to the prior is divided; kl_weight: 1 is the true ELBO, less a cold posterior;
    train_samples: weight samples of a step, over which the terms that depend on them are averaged. Names are keys of
    `losses.PARAM_DISTANCES`, PARAM_WEIGHTS and TRANSFORMS, entries of NORMALIZATIONS, FEATURE_DIRECTIONS and
    FEATURE_REDUCTIONS, of `alignment.ALIGNMENTS`, and keys of `fusion.FUSION_TRAINING`.

    Studies set others of these than the defaults here (`TrialConfig`): above all their fusion learns the task.

    Raises: ValueError for a name that is none of these, what is neither True nor False, without images or samples, or for a
    weight below 0 (a temperature or prior_std that is 0).
    """

    train_images: int
    alpha: losses.Scalar = 1.0
    beta: losses.Scalar = 2.0
    temperature: losses.Scalar = 1.0
    kl_weight: losses.Scalar = 0.3
    mutual_weight: losses.Scalar = 1.0
    prior_std: float = 1.0
    train_samples: int = 1
    param_distance: str = "w2"
    param_weights: str = "raw"
    param_alignment: str = "none"
    param_transform: str = "negative_log"
    param_normalization: str = "switch"
    feature_direction: str = "symmetric"
    feature_reduction: str = "batchmean"
    feature_transform: str = "negative_log"
    feature_normalization: str = "switch"
    fusion_training: str = "diversity"
    center_features: bool = True
    include_diagonal: bool = False

    def __post_init__(self) -> None:
        for name, known in (losses.CHOICES | CHOICES).items():
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name} = {value!r}: expected one of {', '.join(known)}")
        for name in ("center_features", "include_diagonal"):
            if not isinstance(value := getattr(self, name), bool):
                raise ValueError(f"{name} = {value!r}: expected True or False")
        for name, said in (("train_images", "how many images there are to train on"), ("train_samples", "at least 1")):
            if (count := getattr(self, name)) < 1:
                raise ValueError(f"{name} = {count}: expected {said}")
        for name, value in (self.weights._asdict() | {"prior_std": self.prior_std}).items():
            divides = name in ("temperature", "prior_std")
            if not isinstance(value, Tensor) and not (value > 0 or (value == 0 and not divides)):
                raise ValueError(f"{name} = {value}: expected a number from 0 on{', not 0' * divides}")

    @property
    def weights(self) -> Weights:
        """What multiplies the terms."""
        return Weights(*(getattr(self, name) for name in Weights._fields))


class MutualPair(nn.Module):
    r"""Bayesian networks, two or any other number K, that learn from the data and from each other.

    .. math:: \sum_k \mathrm{CE}_k + \frac{w}{N} \mathrm{KL}(q_k \| p) + \frac{1}{K-1} \sum_{j \ne k}
              \lambda T^2 \mathrm{KL}_{kj} + \alpha\, t(D_{kj}) + \beta\, t(F_{kj})

    paper, unnumbered here, for K = 2. For more, what a peer learns is the mean over the others of what it would learn from
    each [the mutual term stated there, by Zhang et al.; the diversity terms chosen], so that no weight changes its meaning
    with K; a peer without others has its first two terms alone. All peers' losses are added and stepped at once; in peer k's
    terms the others are detached, so each peer receives the gradient of its own loss only (the fusion, where it is trained,
    that of all feature terms).

    networks: a module for each peer, of one architecture, that gives logits [batch, classes] and a tuple of features [batch,
    channels, ...], and is taken over; teacher: a finished network of that kind, from which every peer learns as from another
    peer, and which learns nothing (it stays in evaluation mode and is in no state dict); fusion: from a list of such tuples
    to a list of vectors [batch, dim] (default: `fusion.shared`, of the channels that the first network names in
    ``feature_channels``); kernel: see `kernels`; posterior_of: of networks whose layers are Bayesian already, as of another
    library, gives means and sigmas (`GivenPosterior`); posterior: else arguments of `GaussianPosterior`, such as initial_sigma.

    alpha -> weights.alpha; beta -> weights.beta; T -> weights.temperature; lambda -> weights.mutual_weight [chosen: 1];
    w -> weights.kl_weight; N -> train_images; D -> param_distance; F -> feature_kl; t -> param_transform, feature_transform.

    Raises: ValueError for an argument that there is not, for networks that cannot be peers, that are to be aligned and declare
    no channels, or without a fusion whose channels are not named.
    References: Zhang et al., Deep Mutual Learning (CVPR 2018), section 3.3.
    """

    param_scale: Tensor
    feature_scale: Tensor
    param_strength: Tensor
    feature_strength: Tensor

    def __init__(
        self, networks: Iterable[nn.Module], objective: Objective, *, fusion: nn.Module | None = None, kernel: Kernel = cosine,
        teacher: nn.Module | None = None, posterior_of: PosteriorOf | None = None, **posterior: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        networks = _distinct(networks)
        #: In the order of their numbers; by name they are peer_1, peer_2 and so on. Of those that are given a pair asks no more
        #: than they have; whoever trains pairs from settings has others.
        self.peers = cast(tuple[GaussianPosterior, ...], tuple(_posteriors(networks, objective, posterior_of, posterior)))
        if any(peer.shapes != self.peers[0].shapes for peer in self.peers):
            raise ValueError("the networks' weights have different shapes: peers are of one architecture")
        if posterior_of and any(peer.names != self.peers[0].names for peer in self.peers):
            raise ValueError("posterior_of gives the networks' means in different orders, or of different layers")
        for number, peer in enumerate(self.peers, 1):
            self.add_module(f"peer_{number}", peer)
        self.fusion = shared(_channels(networks[0]), peers=len(networks)) if fusion is None else fusion
        for name, value in (("kernel", kernel), ("fusion", self.fusion)):
            if not callable(value):
                raise ValueError(f"{name} = {value!r}: expected a function or module, not a name (of kernels: KERNELS[name])")
        _check_fusion(self.fusion, len(networks), objective.fusion_training)
        if losses.PARAM_DISTANCES[objective.param_distance].needs_noise and not self.peers[0].noisy:
            raise ValueError(f"param_distance = {objective.param_distance!r} divides by sigma, which is 0 (initial_sigma)")
        #: The finished network, if there is one.
        self.teachers = () if teacher is None else (teacher.eval().requires_grad_(False),)
        self.objective, self.weights, self.kernel = objective, objective.weights, kernel
        #: Whether what divides the distances is fixed (`set_scales`, a state dict), or is by whoever trains.
        self.scaled = False
        self.register_load_state_dict_post_hook(_note_scales)
        for name in ("param_scale", "feature_scale", "param_strength", "feature_strength"):
            self.register_buffer(name, torch.ones(()))
        self.channel_groups = [] if objective.param_alignment == "none" else channel_groups(networks[0])
        for name in self._order_names():
            self.register_buffer(name, torch.arange(self.peers[0].mean.numel()))

    def forward(
        self,
        inputs: Shaped[Tensor, "batch *shape"],
        labels: Int[Tensor, " batch"],
        noise: Sequence[Noise] | None = None,
        diverse: bool = False,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " terms"]]:
        """Return the total loss and the vector of its terms (detached, as in `term_names`), for one weight sample per peer.

        noise: as `draw_noise` makes it (None: drawn here); of several samples the terms that depend on them are averaged;
        diverse: whether the diversity terms act (stage two, with alpha or beta not zero).
        """
        terms = self.terms(inputs, labels, noise, diverse)
        total = _sum(list(self.weighted(terms).values()))
        zero = [total.new_zeros(())]
        values = [value.detach() for name in (*OF_PEERS, *OF_PAIRS) for value in terms.get(name, zero)]
        return total, torch.stack([*values, total.detach()])

    def terms(
        self,
        inputs: Shaped[Tensor, "batch *shape"],
        labels: Int[Tensor, " batch"],
        noise: Sequence[Noise] | None = None,
        diverse: bool = False,
    ) -> Terms:
        """Compute the unweighted terms of the loss; arguments as for the forward pass."""
        terms, sigmas, features = self.stage_one_terms(inputs, labels, noise)
        if diverse and len(self.peers) > 1:
            terms |= self.diversity_terms(sigmas, features, labels)
        return terms

    def stage_one_terms(
        self, inputs: Tensor, labels: Tensor, noise: Sequence[Noise] | None = None
    ) -> tuple[Terms, list[Tensor], list[list[Features]]]:
        """Compute the terms of both stages; also give what `diversity_terms` takes: sigmas, and of every weight sample the
        peers' features."""
        sigmas, samples = self._outputs(inputs, noise)
        _check_classes(self.fusion, self.objective.fusion_training, samples[0][0][0].shape[-1])
        with torch.no_grad():
            taught = [_as_output(teacher(inputs))[0] for teacher in self.teachers]
        terms = _average(
            [
                {"nll": [losses.expected_nll(own, labels) for own, _ in drawn]}
                | self.mutual_terms([logits for logits, _ in drawn], taught)
                for drawn in samples
            ]
        )
        return terms | self.prior_terms(sigmas), sigmas, [[blocks for _, blocks in drawn] for drawn in samples]

    def diversity_terms(self, sigmas: Sequence[Tensor], features: Sequence[Sequence[Features]], labels: Tensor) -> Terms:
        """Compute the terms of stage two alone. Raises: RuntimeError where what divides them is to be measured, and is not."""
        if not self.scaled and "switch" in (self.objective.param_normalization, self.objective.feature_normalization):
            raise RuntimeError(
                "the diversity terms are divided by what the distances are at the switch (normalization 'switch'): before the "
                "first diverse step call pair.set_scales(pair.feature_kl(images))"
            )
        if isinstance(self.fusion, PeerFusion):
            features = [self.fusion.pool(drawn) for drawn in features]
        terms = self.param_terms(sigmas) | _average([self.feature_terms(drawn) for drawn in features])
        if self.objective.fusion_training == "task":
            terms |= _average([self.fusion_terms(drawn, labels) for drawn in features])
        return terms

    def draw_noise(self, streams: Sequence[torch.Generator | None] | None = None) -> list[Noise]:
        """Draw standard normal noise for a step: for every peer a vector, or [samples, weights] of `Objective.train_samples`.

        streams: for each peer its own, on the pair's device.
        """
        count, device = self.objective.train_samples, self.param_scale.device
        size = self.peers[0].noise_shape if count == 1 else (count, *self.peers[0].noise_shape)
        return [torch.randn(size, generator=stream, device=device) for stream in streams or [None] * len(self.peers)]

    def weighted(self, terms: Terms) -> dict[str, Tensor]:
        """Return what each of the terms adds to the loss, summed over peers; every weight is applied here and nowhere else."""
        weights, found = self.weights, {}
        if "nll" in terms:
            found["nll"] = _sum(terms["nll"])
            found["kl"] = weights.kl_weight * _sum(terms["kl"])
            found["mutual"] = weights.mutual_weight * _sum(terms["mutual"])
        if "param_diversity" in terms:
            found["param_diversity"] = weights.alpha * self.param_strength * terms["param_diversity"][0]
            found["feature_diversity"] = weights.beta * self.feature_strength * terms["feature_diversity"][0]
        return found | ({"fusion_nll": terms["fusion_nll"][0]} if "fusion_nll" in terms else {})

    def _outputs(self, inputs: Tensor, noise: Sequence[Noise] | None) -> tuple[list[Tensor], list[list[Output]]]:
        """Each peer's sigma, and for every weight sample each peer's logits and features."""
        noise = self.draw_noise() if noise is None else noise
        sigmas = [peer.sigma for peer in self.peers]
        samples = zip(*([drawn] if drawn.dim() == 1 else drawn.unbind() for drawn in noise), strict=True)
        return sigmas, [
            [
                _as_output(peer(inputs, weights=peer.draw(sigma, drawn) if peer.noisy else peer.mean))
                for peer, sigma, drawn in zip(self.peers, sigmas, sample, strict=True)
            ]
            for sample in samples
        ]

    def mutual_terms(self, logits: Sequence[Tensor], taught: Sequence[Tensor] = ()) -> Terms:
        """Compute what every peer learns from the others' predictions; taught: those of teachers."""
        others = [(*logits[:place], *logits[place + 1 :], *taught) for place in range(len(logits))]
        mutual = [
            self._mean([losses.logit_mutual(own, other, self.weights.temperature) for other in known])
            for own, known in zip(logits, others, strict=True)
        ]
        return {"mutual": mutual}

    def prior_terms(self, sigmas: Sequence[Tensor]) -> Terms:
        """Compute the KL of every peer to the prior, per training image."""
        prior, count = self.objective.prior_std, self.objective.train_images
        return {"kl": [peer.kl_to_prior(sigma, prior) / count for peer, sigma in zip(self.peers, sigmas, strict=True)]}

    def param_terms(self, sigmas: Sequence[Tensor]) -> Terms:
        """Compute the distance of the posteriors, and what is minimised so that it grows."""
        transform = losses.TRANSFORMS[self.objective.param_transform].function
        distances = self._distances(self.objective.param_distance, self.objective.param_weights, sigmas)
        diversities = [transform(value / self.param_scale) for value in distances]
        if losses.PARAM_DISTANCES[self.objective.param_distance].symmetric:  # both peers' gradient is one: once does for both
            diversities = [value + value.detach() for value in diversities]
        return {"param_distance": [self._mean(distances)], "param_diversity": [self._over_others(diversities)]}

    def _distances(self, kind: str, weights: str, sigmas: Sequence[Tensor], aligned: bool = True) -> list[Tensor]:
        """Every two peers' distance: once where it is symmetric, otherwise as each of them sees it, with the other fixed."""
        sizes = self.peers[0].sizes
        prepared, distance = losses.PARAM_WEIGHTS[weights], losses.PARAM_DISTANCES[kind]
        posteriors = [prepared.function(peer.mean, sigma, sizes) for peer, sigma in zip(self.peers, sigmas, strict=True)]
        if aligned:
            for place, name in enumerate(self._order_names(), 1):
                (mean, sigma), order = posteriors[place], getattr(self, name)
                posteriors[place] = mean.index_select(0, order), sigma.index_select(0, order)
        if distance.symmetric:
            found = [distance.function(*first, *second) for first, second in combinations(posteriors, 2)]
        else:
            fixed = [(mean.detach(), sigma.detach()) for mean, sigma in posteriors]
            places = permutations(range(len(posteriors)), 2)
            found = [distance.function(*posteriors[own], *fixed[other]) for own, other in places]
        return [value / len(sizes) for value in found] if prepared.by_layer else found

    def _order_names(self) -> list[str]:
        """Name the buffers that put the second and further peers' weights into the first's order; none without alignment."""
        numbers = range(2, len(self.peers) + 1) if self.objective.param_alignment != "none" else ()
        return [f"order_{number}" for number in numbers]

    def feature_terms(self, features: Sequence[Features]) -> Terms:
        """Compute the KL between the peers' feature similarities, and what is minimised so that it grows."""
        transform = losses.TRANSFORMS[self.objective.feature_transform].function
        divergences = self.feature_divergences(features)
        diversities = [transform(value / self.feature_scale) for value in divergences]
        if self.objective.feature_direction == "symmetric":  # as of a symmetric distance
            diversities = [value + value.detach() for value in diversities]
        return {"feature_kl": [self._mean(divergences)], "feature_diversity": [self._over_others(diversities)]}

    def feature_divergences(self, features: Sequence[Features]) -> list[Float[Tensor, ""]]:
        """Compute the feature KL of every two peers: once where it is symmetric, else as each sees it, with the other fixed.

        The order is: of peer 1 to peer 2, 3, ..., then of peer 2 to peer 1 (unless it is symmetric), 3 and so on.
        """
        objective = self.objective
        with torch.autocast(features[0][0].device.type, enabled=False):
            fused = self._fuse(features)
            normalized = [losses.normalize_features(vectors, center=objective.center_features) for vectors in fused]
            distributions = [
                losses.conditional_distribution(self.kernel(vectors, vectors), include_diagonal=objective.include_diagonal)
                for vectors in normalized
            ]
            named = {"direction": objective.feature_direction, "reduction": objective.feature_reduction}
            if objective.feature_direction == "symmetric":
                return [losses.feature_kl(first, second, **named) for first, second in combinations(distributions, 2)]
            return [losses.feature_kl(own, other.detach(), **named) for own, other in permutations(distributions, 2)]

    def fusion_terms(self, features: Sequence[Features], labels: Tensor) -> Terms:
        """Compute the cross-entropy of the fusion's classifier, from which it alone learns, summed over peers."""
        with torch.autocast(features[0][0].device.type, enabled=False):
            fused = self.fusion([tuple(block.detach() for block in blocks) for blocks in features])
            logits = cast(PeerFusion, self.fusion).classify(fused)
        return {"fusion_nll": [_sum([losses.expected_nll(own, labels) for own in logits])]}

    def _fuse(self, features: Sequence[Features]) -> list[Tensor]:
        """Fuse the features as the diversity term does, by a fusion that learns from it what `fusion_training` says."""
        if self.objective.fusion_training == "diversity":
            return self.fusion(features)
        return self.fusion(features, FUSION_TRAINING[self.objective.fusion_training])

    def _mean(self, values: Sequence[Tensor]) -> Tensor:
        """Average; zero where there are none: a peer without others."""
        if not values:
            return self.param_scale.new_zeros(())
        return values[0] if len(values) == 1 else _sum(values) / len(values)

    def _over_others(self, values: Sequence[Tensor]) -> Tensor:
        """Sum over peers, of each the mean over its others. values: of all pairs of peers."""
        others = len(self.peers) - 1
        return _sum(values) if others == 1 else _sum(values) / others

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "MutualPair":
        """Move the teacher too, which is no submodule, so that it is in no state dict and no optimiser."""
        for teacher in self.teachers:
            teacher._apply(fn, recurse)
        return cast(MutualPair, super()._apply(fn, recurse))

    @torch.no_grad()
    def adopt(self, other: "MutualPair") -> None:
        """Become a pair of the same shape without moving a parameter, so that steps compiled for this one serve that one."""
        self.load_state_dict(other.state_dict())
        self.objective, self.kernel = other.objective, other.kernel
        self.weights = Weights(*(torch.as_tensor(value, device=self.param_scale.device) for value in other.weights))
        for mine, theirs in zip(self.peers, other.peers, strict=True):
            mine.initial_sigma, mine.sigma_mode = theirs.initial_sigma, theirs.sigma_mode
        self.zero_grad()

    def distance(self, kind: str = "w2", weights: str = "raw", *, aligned: bool = False) -> Float[Tensor, ""]:
        """Return the distance of the posteriors, mean over pairs of peers, both ways round where that is not the same.

        kind, weights: keys of PARAM_DISTANCES and PARAM_WEIGHTS; aligned: in the order of channels that `align` has fixed.
        """
        return self._mean(self._distances(kind, weights, [peer.sigma for peer in self.peers], aligned))

    @torch.no_grad()
    def align(self, found: Sequence[Sequence[Permutation]]) -> None:
        """Fix which channels of the further peers are compared with which of the first peer's, from the switch on.

        found: a permutation for each of ``channel_groups``, of each further peer.
        """
        for name, peer, own in zip(self._order_names(), self.peers[1:], found, strict=True):
            getattr(self, name).copy_(flat_order(peer, self.channel_groups, own))

    @torch.no_grad()
    def feature_kl(self, inputs: Shaped[Tensor, "batch *shape"]) -> Float[Tensor, ""]:
        """Measure the feature KL of a batch as its term does, mean over pairs.

        One fresh weight sample per peer is drawn; the networks stay in the mode that they are in.
        """
        noise = [drawn if drawn.dim() == 1 else drawn[0] for drawn in self.draw_noise()]
        _, samples = self._outputs(inputs, noise)
        return self._mean(self.feature_divergences([features for _, features in samples[0]]))

    @torch.no_grad()
    def set_strengths(self, param: Tensor | float, feature: Tensor | float) -> None:
        """Fix what multiplies alpha and beta from the switch on (`gradients.strengths`); it is 1 without this call."""
        self.param_strength.fill_(param)
        self.feature_strength.fill_(feature)

    @torch.no_grad()
    def set_scales(self, feature_kl: Tensor | float) -> dict[str, float]:
        """Fix what divides the two distances from the switch on (param_normalization, feature_normalization).

        feature_kl: its value now, as the term measures it. Returns both distances' values now, raw.
        """
        objective, feature_kl = self.objective, torch.as_tensor(feature_kl, device=self.feature_scale.device)
        value = self.distance(objective.param_distance, objective.param_weights, aligned=True)
        count = self.peers[0].mean.numel() // (
            len(self.peers[0].sizes) if losses.PARAM_WEIGHTS[objective.param_weights].by_layer else 1
        )
        self.param_scale.copy_(losses.transform_scale(objective.param_normalization, value, count))
        self.feature_scale.copy_(losses.transform_scale(objective.feature_normalization, feature_kl, 1))
        self.scaled = True
        return {"param_distance": float(value), "feature_kl": float(feature_kl)}


def _note_scales(pair: nn.Module, incompatible: Any) -> None:
    cast(MutualPair, pair).scaled = True


def _sum(values: Sequence[Tensor]) -> Tensor:
    return functools.reduce(operator.add, values)


def _average(samples: Sequence[Terms]) -> Terms:
    """Average the terms over weight samples; those of a single one stay as they are."""
    if len(samples) == 1:
        return samples[0]
    return {
        name: [_sum(values) / len(samples) for values in zip(*(terms[name] for terms in samples), strict=True)]
        for name in samples[0]
    }


def _distinct(networks: Iterable[nn.Module]) -> list[nn.Module]:
    found = list(networks)
    if not found or len({id(network) for network in found}) < len(found):
        raise ValueError("every peer needs a network of its own, and there is at least one peer")
    owners: dict[int, int] = {}
    for number, network in enumerate(found, 1):
        for name, parameter in network.named_parameters():
            if (owner := owners.setdefault(id(parameter), number)) != number:
                raise ValueError(f"networks {owner} and {number} share {name}: every peer needs a network of its own")
    return found


def _as_output(given: Any) -> Output:
    """Return what a network gave, if it is logits and features; a batch of logits would be taken apart, image by image."""
    if not isinstance(given, tuple) or len(given) != 2 or not isinstance(given[1], tuple | list):
        parts = given if isinstance(given, tuple) else (given,)
        kind = " and a ".join(type(part).__name__ for part in parts)
        raise ValueError(
            f"the networks give a {kind}: a peer, and a teacher, returns logits and a tuple of features, `logits, (features,)`"
        )
    if given[0].dim() != 2:
        raise ValueError(f"the networks give logits of shape {tuple(given[0].shape)}: expected [batch, classes]")
    return cast(Output, given)


def _check_fusion(fusion: nn.Module, peers: int, training: str) -> None:
    if not isinstance(fusion, PeerFusion):
        if training != "diversity":
            raise ValueError(f"fusion_training = {training!r} needs a PeerFusion, such as shared(channels, classes=10) makes")
        return
    if peers > 1 and len(fusion.of_peers) != peers:
        raise ValueError(f"a fusion of {len(fusion.of_peers)} peers for {peers} networks: make it with peers={peers}")
    if training == "task" and any(getattr(module, "head", None) is None for module in fusion.of_peers):
        raise ValueError("fusion_training = 'task' needs a fusion with a classifier, as of shared(channels, classes=10)")


def _check_classes(fusion: nn.Module, training: str, classes: int) -> None:
    for module in cast(PeerFusion, fusion).of_peers if training == "task" else ():
        if (own := getattr(module.head, "out_features", classes)) != classes:
            raise ValueError(
                f"the networks give logits of {classes} classes, the fusion's classifier of {own}: classes={classes}"
            )


def _posteriors(
    networks: Sequence[nn.Module], objective: Objective, posterior_of: PosteriorOf | None, how: Mapping[str, Any]
) -> list[GaussianPosterior | GivenPosterior]:
    """Make every network's posterior, or take the one that it has."""
    if posterior_of is None:
        known = [*inspect.signature(GaussianPosterior).parameters][1:]
        for name in (name for name in how if name not in known):
            why = f"no argument is called so; of posteriors there are {', '.join(known)}"
            if name in Objective.__dataclass_fields__:
                why = f"it is the objective's: Objective(..., {name}=...)"
            raise ValueError(f"MutualPair({name}=...): {why}")
        return [GaussianPosterior(network, **how) for network in networks]
    if how:
        raise ValueError(f"{', '.join(how)} with posterior_of: a posterior that is given starts as its network made it")
    if objective.param_alignment != "none":
        raise ValueError(
            f"param_alignment = {objective.param_alignment!r} with posterior_of: whose channels are whose is not known"
        )
    return [GivenPosterior(network, posterior_of) for network in networks]


def _channels(network: nn.Module) -> tuple[int, ...]:
    channels = getattr(network, "feature_channels", None)
    if channels is None:
        raise ValueError(
            f"{type(network).__name__} names no feature_channels: give it the channels of its features, or give a fusion"
        )
    return tuple(channels)
