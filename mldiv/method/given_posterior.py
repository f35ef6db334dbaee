"""Take a network whose layers are Bayesian already, such as another library's, with the means and sigmas that it has."""

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mldiv.method import losses

#: Of a network whose layers are Bayesian already: its trained means, each with its sigmas, of one shape.
PosteriorOf = Callable[[nn.Module], Iterable[tuple[Tensor, Tensor]]]


class GivenPosterior(nn.Module):
    """Diagonal Gaussian of a network whose layers are Bayesian already, and draw their weights themselves.

    module: taken over, not copied; its forward pass draws a weight sample. posterior_of: gives its means and sigmas, layer by
    layer, in the same order every time: parameters and what is made of them with gradients. The prior is N(0, prior_std^2),
    whatever prior the layers have. Shapes: mean, sigma [weights].

    Raises: ValueError for a posterior without means, with means that are no parameters of the module, that are given twice or
    are others at a later call, or of unlike shapes.
    """

    noisy = True
    #: Layers draw their noise themselves.
    noise_shape = torch.Size([0])

    def __init__(self, module: nn.Module, posterior_of: PosteriorOf) -> None:
        super().__init__()
        self.module, self.posterior_of = module, posterior_of
        given, name = list(posterior_of(module)), type(module).__name__
        if not given:
            raise ValueError(
                f"posterior_of found no mean in {name}: expected its layers' means and sigmas, such as [(mu, sigma)]"
            )
        own = {id(parameter): parameter_name for parameter_name, parameter in module.named_parameters()}
        for place, (mean, sigma) in enumerate(given):
            if id(mean) not in own:
                raise ValueError(f"mean {place} of posterior_of is no parameter of {name}: give the parameter itself, no copy")
            if mean.shape != sigma.shape:
                raise ValueError(
                    f"posterior_of gave a mean of shape {tuple(mean.shape)} with a sigma of shape {tuple(sigma.shape)}: "
                    "expected one for every weight"
                )
            if not bool((sigma > 0).all()):
                raise ValueError(f"a sigma of posterior_of is {sigma.min().item():.3g}: expected sigmas, above 0, and no rhos")
        #: The means' names in the module.
        self.names = [[own[id(mean)]] for mean, _ in given]
        if twice := [names[0] for place, names in enumerate(self.names) if names in self.names[:place]]:
            raise ValueError(f"posterior_of gave {twice[0]} twice: a weight that layers share counts once")
        self.shapes = [mean.shape for mean, _ in given]
        self.sizes = [mean.numel() for mean, _ in given]

    def _given(self) -> list[tuple[Tensor, Tensor]]:
        """Ask for means and sigmas. Raises: ValueError for other means than at first, as of a generator that is used up."""
        given = list(self.posterior_of(self.module))
        own = [self._named(names[0]) for names in self.names]
        if len(given) != len(own) or any(mean is not expected for (mean, _), expected in zip(given, own, strict=True)):
            raise ValueError(
                f"posterior_of gave other means of {type(self.module).__name__} than when the pair was made, or in another "
                "order: expected those of the network that it is called with, in one order, at every call"
            )
        return given

    def _named(self, name: str) -> Tensor:
        prefix, _, attribute = name.rpartition(".")
        return cast(Tensor, getattr(self.module.get_submodule(prefix), attribute))

    @property
    def trained_means(self) -> list[Tensor]:
        """The parameters that are the means."""
        return [mean for mean, _ in self._given()]

    @property
    def trained_rhos(self) -> list[Tensor]:
        """None: what sigmas are made of is the module's."""
        return []

    @property
    def mean(self) -> Float[Tensor, " weights"]:
        """Means of all weights."""
        return torch.cat([mean.float().flatten() for mean, _ in self._given()])

    @property
    def sigma(self) -> Float[Tensor, " weights"]:
        """Standard deviations."""
        return torch.cat([sigma.float().flatten() for _, sigma in self._given()])

    def draw(self, sigma: Float[Tensor, " weights"], noise: Float[Tensor, " drawn"]) -> None:
        """Leave the drawing to the layers. Raises: ValueError for noise."""
        if noise.numel():
            raise ValueError("noise was given to a network that draws its weights itself: leave it out")

    def forward(self, *args: Any, weights: Tensor | None = None, **kwargs: Any) -> Any:
        """Run the module, which draws a weight sample. Raises: ValueError for ``weights``."""
        if weights is not None:
            raise ValueError("weights were given to a network that draws its weights itself: leave them out")
        return self.module(*args, **kwargs)

    def kl_to_prior(self, sigma: Float[Tensor, " weights"], prior_std: float) -> Float[Tensor, ""]:
        """Compute the KL to N(0, prior_std^2), in nats, summed over weights. sigma: `sigma`, computed once for all terms."""
        return losses.gaussian_kl_to_prior(self.mean, sigma, prior_std)
