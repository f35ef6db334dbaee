"""Make any torch module a mean-field Bayesian network: one flat vector of means, one of rho, a draw in one operation."""

import math
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd

from mldiv.method import losses

#: Smallest root mean square of a layer's weights that a relative start value of sigma multiplies (zero-initialised layers).
SMALLEST_RMS = 1e-3

#: Smallest share of its layer's root mean square that counts as a weight's own size, where sigma is a share of that.
SMALLEST_SHARE = 0.01

#: What sigma at the start is a multiple of: 1, the root mean square of a layer's weights, each weight's own size.
SIGMA_MODES = ("relative", "absolute", "weight")

#: What the standard deviation of the prior is a multiple of: 1, the root mean square of the layer's weights at the start.
PRIOR_MODES = ("absolute", "relative")

#: Where the prior lies: at zero, or where the means start.
PRIOR_MEANS = ("zero", "start")

#: rho of a network without noise: its softplus is 0, in double precision too.
RHO_OF_ZERO = -1000.0

#: None of a module's own is replaced.
NO_BUFFERS: Mapping[str, Tensor] = {}

#: Which attributes of a module hold Bayesian weights [chosen]: weights of convolutions and linear layers, attention included.
ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


#: In the names of a layer's parameters: its means, and its sigmas or what they are made of.
MEAN_WORD = re.compile(r"(^|_)(mu|mean|loc)(?=_|$)")
SPREAD_WORD = re.compile(r"(^|_)(rho|sigma|log_?(sigma|std|var|scale))(?=_|$)")

#: What to do with networks whose layers are Bayesian already.
GIVE_IT = "give MutualPair the means and sigmas of all layers, posterior_of=: docs/own-network.md"


class GaussianPosterior(nn.Module):
    r"""Diagonal Gaussian over the weights of a module's convolutions and linear layers.

    .. math:: q(w) = N(\mu, \mathrm{diag}(\sigma^2)), \quad \sigma = \log(1 + e^\rho), \quad w = \mu + \sigma \epsilon

    paper, unnumbered here; rho, the start of sigma and the prior chosen (`initial_sigma`, `sigma_mode`, `prior_mode`,
    `prior_mean`). Biases, normalisation layers, what is frozen (``requires_grad`` is False) and everything else stay ordinary
    parameters and buffers of ``module``, which is taken over, not copied. A weight shared by several layers is one weight here
    and stays shared, with an embedding too.

    initial_sigma: 0 makes a network without noise, whose sigma stays 0 and whose rho is not trained.

    mu -> mean; rho -> rho; sigma -> sigma; epsilon -> noise. Shapes: mean, rho [weights], float32.

    Raises: ValueError for a module without such layers or whose weights are no parameters, or a start value or mode that cannot
    be.
    References: Krishnan et al., Specifying Weight Priors in Bayesian Deep Neural Networks with Empirical Bayes (AAAI 2020), for
    a sigma and a prior that are made of the weights at the start.
    """

    prior_center: Tensor | None
    prior_scale: Tensor | None
    #: By (whether in training, kind of device): whether all layers run under the autocast that the module is called under.
    all_cast: Mapping[tuple[bool, str], bool] = MappingProxyType({})

    def __init__(
        self, module: nn.Module, *, initial_sigma: float = 0.03, sigma_mode: str = "relative", prior_mode: str = "absolute",
        prior_mean: str = "zero",
    ) -> None:  # fmt: skip
        super().__init__()
        choices = {"sigma_mode": SIGMA_MODES, "prior_mode": PRIOR_MODES, "prior_mean": PRIOR_MEANS}
        for name, value in (("sigma_mode", sigma_mode), ("prior_mode", prior_mode), ("prior_mean", prior_mean)):
            if value not in choices[name]:
                raise ValueError(f"{name} {value!r}: expected {' or '.join(choices[name])}")
        if not initial_sigma >= 0:
            raise ValueError(f"initial_sigma = {initial_sigma}: must not be negative")
        self.module, self.initial_sigma, self.sigma_mode = module, initial_sigma, sigma_mode
        #: Whether weights are drawn at all.
        self.noisy = initial_sigma > 0
        if not (found := _bayesian_weights(module)):
            raise ValueError(
                f"{type(module).__name__} has no convolution or linear layer whose weights could be Bayesian: frozen ones stay "
                f"as they are (of layers that are already, {GIVE_IT})"
            )
        if own := _bayesian_already(module):
            warnings.warn(f"{own} seems Bayesian already; the loss then lacks its KL and its distance: {GIVE_IT}", stacklevel=3)
        #: All names of each weight (several where it is shared), its shape, its number of elements.
        self.names = [names for names, _ in found]
        self.shapes = [weight.shape for _, weight in found]
        self.sizes = [weight.numel() for _, weight in found]
        flat = torch.cat([weight.detach().float().flatten() for _, weight in found])
        self.mean = nn.Parameter(flat)
        self.rho = nn.Parameter(self._initial_rho(flat), requires_grad=self.noisy)
        self.register_buffer("prior_center", flat.clone() if prior_mean == "start" else None)
        self.register_buffer("prior_scale", self._layer_sizes(flat) if prior_mode == "relative" else None)
        for names in self.names:
            for name in names:
                _make_placeholder(module, name)
        #: By device: the weights' places in the order of `_channels_last_views`, and back.
        self._orders: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @property
    def noise_shape(self) -> torch.Size:
        """Of the noise that a draw takes."""
        return self.mean.shape

    @property
    def trained_means(self) -> list[Tensor]:
        """The parameters that are the means."""
        return [self.mean]

    @property
    def trained_rhos(self) -> list[Tensor]:
        """The parameters that sigma is made of."""
        return [self.rho]

    @property
    def sigma(self) -> Float[Tensor, " weights"]:
        """Standard deviations, softplus(rho)."""
        return functional.softplus(self.rho)

    def sample(self, noise: Float[Tensor, "*samples weights"] | None = None) -> Float[Tensor, "*samples weights"]:
        """Return weight samples from standard normal ``noise``; a fresh one if None."""
        return torch.addcmul(self.mean, self.sigma, torch.randn_like(self.mean) if noise is None else noise)

    def draw(self, sigma: Float[Tensor, " weights"], noise: Float[Tensor, " weights"]) -> Float[Tensor, " weights"]:
        """Return a weight sample, as `sample` does, of a sigma that is computed once for all terms."""
        return _Draw.apply(self.mean, sigma, noise)

    def forward(
        self, *args: Any, weights: Float[Tensor, " weights"] | None = None, buffers: Mapping[str, Tensor] = NO_BUFFERS,
        **kwargs: Any,
    ) -> Any:  # fmt: skip
        """Run the module with flat ``weights``: a fresh sample if None; ``posterior.mean`` for the mean network.

        Where autocast is on they are cast together, as each layer would cast its own, unless the first such pass shows that the
        module switches it off for one of its layers. buffers: by their names in the module, in place of its own.
        """
        flat = self.sample() if weights is None else weights
        watched: AbstractContextManager[None] = nullcontext()
        if flat.dtype == torch.float32 and _layers_cast(flat) and not self.tied:
            way = self.module.training, flat.device.type
            if self.all_cast.get(way):
                flat = flat.to(torch.get_autocast_dtype(flat.device.type))
            elif way not in self.all_cast:
                watched = self._watched(way)
        pays = flat.is_cuda or flat.dtype == torch.bfloat16  # a CPU's float32 is faster without
        named = self._channels_last_views(flat) if pays and _has_channels_last(args) else self.views(flat)
        tied = bool(buffers)  # weights are given under each of their names: none is looked for
        with watched:
            return functional_call(self.module, {**named, **buffers}, args, kwargs, tie_weights=tied)

    @property
    def tied(self) -> bool:
        """Whether a weight is shared by several layers: each casts it, and their gradients are added in float32."""
        return any(len(names) > 1 for names in self.names)

    def kl_to_prior(self, sigma: Float[Tensor, " weights"], prior_std: float) -> Float[Tensor, ""]:
        """Compute the KL to this posterior's prior, in nats, summed over weights; 0 for a network without noise.

        sigma: `sigma`, computed once for all terms; prior_std: as it is, or times what ``prior_mode`` says.
        """
        if not self.noisy:
            return sigma.new_zeros(())
        return losses.gaussian_kl_to_prior(self.mean, sigma, prior_std, self.prior_center, self.prior_scale)

    def views(self, flat: Shaped[Tensor, " weights"]) -> dict[str, Tensor]:
        """View the flat vector as weights by name, in the layers' shapes: views, nothing is copied."""
        parts = flat.split(self.sizes)
        return {
            name: part.view(shape) for names, shape, part in zip(self.names, self.shapes, parts, strict=True) for name in names
        }

    @contextmanager
    def _watched(self, way: tuple[bool, str]) -> Iterator[None]:
        """Note whether all layers run under autocast in a forward pass, of which no other is made for it.

        A layer that is not called may have its weights taken from elsewhere; those of attention's are called with it.
        """
        layers = {name.rpartition(".")[0] for names in self.names for name in names}
        cast: dict[str, bool] = {}

        def note(layer: str, *_: Any) -> None:
            cast[layer] = cast.get(layer, True) and torch.is_autocast_enabled(way[1])

        hooks = [self.module.get_submodule(layer).register_forward_pre_hook(partial(note, layer)) for layer in layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        uncalled = {layer for layer in layers - cast.keys() if not self._of_attention(layer)}
        self.all_cast = {**self.all_cast, way: all(cast.values()) and not uncalled}

    def _of_attention(self, layer: str) -> bool:
        return isinstance(self.module.get_submodule(layer.rpartition(".")[0]), nn.MultiheadAttention)

    def _channels_last_views(self, flat: Shaped[Tensor, " weights"]) -> dict[str, Tensor]:
        """View the vector as `views` does, convolutions channels last: all laid out anew at once, and not each in its layer."""
        if flat.device not in self._orders:
            self._orders[flat.device] = self._order(flat.device)

        def laid_out(view: Tensor) -> Tensor:
            rows, channels, *window = view.shape
            return view.view(rows, *window, channels).permute(0, 3, 1, 2)

        views = self.views(_Reordered.apply(flat, *self._orders[flat.device]))
        return {name: laid_out(view) if view.dim() == 4 else view for name, view in views.items()}

    @torch.inference_mode(False)  # what is made once serves training too
    def _order(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the weights' places in the order of `_channels_last_views`, and back."""
        places = torch.arange(sum(self.sizes), dtype=torch.int32, device=device).split(self.sizes)
        order = [
            part.view(shape).permute(0, 2, 3, 1).flatten() if len(shape) == 4 else part
            for part, shape in zip(places, self.shapes, strict=True)
        ]
        return (there := torch.cat(order)), there.argsort().int()

    def cosine_by_layer(self, peer: "GaussianPosterior") -> dict[str, Float[Tensor, ""]]:
        """Compute the cosine of the angle between both posteriors' means, layer by layer."""
        own, other = self.views(self.mean), peer.views(peer.mean)
        first = [names[0] for names in self.names]
        return {name: functional.cosine_similarity(own[name].flatten(), other[name].flatten(), dim=0) for name in first}

    @torch.no_grad()
    def load_means(self, state: Mapping[str, Tensor]) -> None:
        """Take the means, and all else, from a deterministic network of the same architecture; sigma and prior start anew.

        Raises: ValueError naming the entries that are missing, unknown or of another shape.
        """
        bayesian = {name: shape for names, shape in zip(self.names, self.shapes, strict=True) for name in names}
        ordinary = {name: value.shape for name, value in self.module.state_dict().items()}
        expected = bayesian | ordinary
        problems = [f"{name} is missing" for name in expected if name not in state]
        problems += [f"{name} is unknown" for name in state if name not in expected]
        problems += [
            f"{name} has shape {tuple(state[name].shape)}, not {tuple(shape)}"
            for name, shape in expected.items()
            if name in state and state[name].shape != shape
        ]
        if problems:
            raise ValueError(f"not a state of this architecture: {'; '.join(problems[:5])} ({len(problems)} in all)")
        self.mean.copy_(torch.cat([state[names[0]].float().flatten() for names in self.names]))
        self.rho.copy_(self._initial_rho(self.mean))
        if self.prior_center is not None:
            self.prior_center.copy_(self.mean)
        if self.prior_scale is not None:
            self.prior_scale.copy_(self._layer_sizes(self.mean))
        self.module.load_state_dict({name: state[name] for name in ordinary})

    def _initial_rho(self, mean: Float[Tensor, " weights"]) -> Float[Tensor, " weights"]:
        if not self.noisy:
            return torch.full_like(mean, RHO_OF_ZERO)
        if self.sigma_mode == "weight":
            sizes = torch.maximum(mean.detach().abs(), SMALLEST_SHARE * self._layer_sizes(mean)).double()
            sigma = self.initial_sigma * sizes
            return (sigma + (-torch.expm1(-sigma)).log()).float()
        parts = mean.detach().split(self.sizes)
        scales = [1.0 if self.sigma_mode == "absolute" else _rms(part) for part in parts]
        rho = [_inverse_softplus(self.initial_sigma * scale) for scale in scales]
        return torch.cat([torch.full_like(part, value) for part, value in zip(parts, rho, strict=True)])

    def _layer_sizes(self, mean: Float[Tensor, " weights"]) -> Float[Tensor, " weights"]:
        """Return for every weight the root mean square of its layer's."""
        return torch.cat([torch.full_like(part, _rms(part)) for part in mean.detach().split(self.sizes)])


class _Draw(torch.autograd.Function):
    """mean + sigma noise, whose gradient in sigma is one product: autograd first multiplies the noise by one."""

    generate_vmap_rule = True

    @staticmethod
    def forward(mean: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
        return torch.addcmul(mean, sigma, noise)

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        context.save_for_backward(inputs[2])

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (noise,) = context.saved_tensors
        return gradients[0], gradients[0] * noise, None


class _Reordered(torch.autograd.Function):
    """A vector in another order: the gradient takes one operation too, where indexing would add it up place by place."""

    generate_vmap_rule = True

    @staticmethod
    def forward(vector: Tensor, order: Tensor, back: Tensor) -> Tensor:
        return vector.index_select(0, order)

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        context.save_for_backward(inputs[2])

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0].index_select(0, *context.saved_tensors), None, None


def _layers_cast(flat: Tensor) -> bool:
    """Whether every layer would cast its weights. Mapped by vmap, convolutions do not; a compiler casts as it sees fit."""
    if torch.compiler.is_compiling() or not torch.is_autocast_enabled(flat.device.type):
        return False
    return not torch._C._functorch.is_batchedtensor(flat)


def _has_channels_last(given: tuple[Any, ...]) -> bool:
    """Whether the first argument is a batch of images whose channels lie last; a compiler lays out weights by itself."""
    images = given[0] if given and isinstance(given[0], Tensor) and not torch.compiler.is_compiling() else None
    return images is not None and images.dim() == 4 and images.shape[1] > 1 and images.stride(1) == 1


def _bayesian_weights(module: nn.Module) -> list[tuple[list[str], Tensor]]:
    """Find the weights that become Bayesian, each with all of its names, an embedding's that shares it too; no frozen ones."""
    found: dict[int, tuple[list[str], Tensor]] = {}
    for prefix, layer in module.named_modules():
        attributes: tuple[str, ...] = ()
        if isinstance(layer, _ConvNd | nn.Linear):
            attributes = ("weight",)
        elif isinstance(layer, nn.MultiheadAttention):
            attributes = ATTENTION_WEIGHTS
        for attribute in attributes:
            weight = getattr(layer, attribute)
            if weight is not None and attribute not in layer._parameters:
                raise ValueError(
                    f"the {attribute} of the layer {prefix or 'itself'} ({type(layer).__name__}) is no parameter of it but "
                    "made from others, as by weight_norm: a weight that is drawn would be lost"
                )
            if weight is not None and weight.requires_grad:
                found[id(weight)] = [], weight
    for prefix, layer in module.named_modules():
        for attribute, weight in layer._parameters.items():
            if id(weight) in found:
                found[id(weight)][0].append(f"{prefix}.{attribute}" if prefix else attribute)
    return list(found.values())


def _bayesian_already(module: nn.Module) -> str | None:
    """Name a layer with a posterior of its own: a parameter that is called a mean, and beside it one of its shape that is
    called a rho or a sigma."""
    for name, layer in module.named_modules():
        own = [(parameter, value.shape) for parameter, value in layer.named_parameters(recurse=False)]
        means = {(MEAN_WORD.sub("", parameter), shape) for parameter, shape in own if MEAN_WORD.search(parameter)}
        spreads = {(SPREAD_WORD.sub("", parameter), shape) for parameter, shape in own if SPREAD_WORD.search(parameter)}
        if means & spreads:
            return f"the layer {name or 'itself'} ({type(layer).__name__})"
    return None


def _make_placeholder(module: nn.Module, name: str) -> None:
    """Keep the attribute, for `functional_call` to fill, without a parameter: an empty buffer is in no state dict."""
    prefix, _, attribute = name.rpartition(".")
    layer = module.get_submodule(prefix)
    delattr(layer, attribute)
    layer.register_buffer(attribute, None)


def _rms(part: Tensor) -> float:
    return max(float(part.square().mean().sqrt()), SMALLEST_RMS)


def _inverse_softplus(value: float) -> float:
    return value + math.log(-math.expm1(-value))
