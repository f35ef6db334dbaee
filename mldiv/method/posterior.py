"""Make any torch module a mean-field Bayesian network: one flat vector of means, one of rho, a draw in one operation."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd

#: Smallest root mean square of a layer's weights that a relative start value of sigma multiplies (zero-initialised layers).
SMALLEST_RMS = 1e-3

#: Which attributes of a module hold Bayesian weights [chosen]: weights of convolutions and linear layers, attention included.
ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


class GaussianPosterior(nn.Module):
    r"""Diagonal Gaussian over the weights of a module's convolutions and linear layers.

    .. math:: q(w) = N(\mu, \mathrm{diag}(\sigma^2)), \quad \sigma = \log(1 + e^\rho), \quad w = \mu + \sigma \epsilon

    paper, unnumbered here; rho and the start of sigma chosen (`initial_sigma`, `sigma_mode`). Biases, normalisation layers
    and everything else stay ordinary parameters and buffers of ``module``, which is taken over, not copied. A weight shared
    by several layers is one weight here and stays shared.

    mu -> mean; rho -> rho; sigma -> sigma; epsilon -> noise. Shapes: mean, rho [weights], float32.

    Raises: ValueError for a module without such layers, or a start value or mode that cannot be.
    """

    def __init__(self, module: nn.Module, *, initial_sigma: float = 0.03, sigma_mode: str = "relative") -> None:
        super().__init__()
        if sigma_mode not in ("relative", "absolute"):
            raise ValueError(f"sigma_mode {sigma_mode!r}: expected relative or absolute")
        if not initial_sigma > 0:
            raise ValueError(f"initial_sigma = {initial_sigma}: must be greater than zero")
        self.module, self.initial_sigma, self.sigma_mode = module, initial_sigma, sigma_mode
        found: dict[int, tuple[list[str], Tensor]] = {}
        for name, weight in _bayesian_weights(module):
            found.setdefault(id(weight), ([], weight))[0].append(name)
        if not found:
            raise ValueError(f"{type(module).__name__} has no convolution or linear layer whose weights could be Bayesian")
        #: All names of each weight (several where it is shared), its shape, its number of elements.
        self.names = [names for names, _ in found.values()]
        self.shapes = [weight.shape for _, weight in found.values()]
        self.sizes = [weight.numel() for _, weight in found.values()]
        flat = torch.cat([weight.detach().float().flatten() for _, weight in found.values()])
        self.mean = nn.Parameter(flat)
        self.rho = nn.Parameter(self._initial_rho(flat))
        for names in self.names:
            for name in names:
                _make_placeholder(module, name)

    @property
    def sigma(self) -> Float[Tensor, " weights"]:
        """Standard deviations, softplus(rho)."""
        return functional.softplus(self.rho)

    def sample(self, noise: Float[Tensor, "*samples weights"] | None = None) -> Float[Tensor, "*samples weights"]:
        """Return weight samples from standard normal ``noise``; a fresh one if None."""
        return torch.addcmul(self.mean, self.sigma, torch.randn_like(self.mean) if noise is None else noise)

    def forward(self, *args: Any, weights: Float[Tensor, " weights"] | None = None, **kwargs: Any) -> Any:
        """Run the module with flat ``weights``: a fresh sample if None; ``posterior.mean`` for the mean network."""
        flat = self.sample() if weights is None else weights
        return functional_call(self.module, self.views(flat), args, kwargs)

    def views(self, flat: Shaped[Tensor, " weights"]) -> dict[str, Tensor]:
        """View the flat vector as weights by name, in the layers' shapes: views, nothing is copied."""
        parts = flat.split(self.sizes)
        return {
            name: part.view(shape) for names, shape, part in zip(self.names, self.shapes, parts, strict=True) for name in names
        }

    def cosine_by_layer(self, peer: "GaussianPosterior") -> dict[str, Float[Tensor, ""]]:
        """Compute the cosine of the angle between both posteriors' means, layer by layer."""
        own, other = self.views(self.mean), peer.views(peer.mean)
        first = [names[0] for names in self.names]
        return {name: functional.cosine_similarity(own[name].flatten(), other[name].flatten(), dim=0) for name in first}

    @torch.no_grad()
    def load_means(self, state: Mapping[str, Tensor]) -> None:
        """Take the means, and all else, from a deterministic network of the same architecture; sigma starts anew.

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
        self.module.load_state_dict({name: state[name] for name in ordinary})

    def _initial_rho(self, mean: Float[Tensor, " weights"]) -> Float[Tensor, " weights"]:
        parts = mean.detach().split(self.sizes)
        scales = [1.0 if self.sigma_mode == "absolute" else _rms(part) for part in parts]
        rho = [_inverse_softplus(self.initial_sigma * scale) for scale in scales]
        return torch.cat([torch.full_like(part, value) for part, value in zip(parts, rho, strict=True)])


def _bayesian_weights(module: nn.Module) -> list[tuple[str, Tensor]]:
    found = []
    for prefix, layer in module.named_modules():
        attributes: tuple[str, ...] = ()
        if isinstance(layer, _ConvNd | nn.Linear):
            attributes = ("weight",)
        elif isinstance(layer, nn.MultiheadAttention):
            attributes = ATTENTION_WEIGHTS
        for attribute in attributes:
            weight = getattr(layer, attribute)
            if weight is not None:
                found.append((f"{prefix}.{attribute}" if prefix else attribute, weight))
    return found


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
