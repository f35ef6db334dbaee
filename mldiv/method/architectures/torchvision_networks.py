"""Two of torchvision's networks, made to give block features: ResNet-18, and a small ViT for small images."""

import math
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, cat, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.vision_transformer import VisionTransformer

from mldiv.method.alignment import ChannelGroup, Channels, inner_group, read, written

#: Largest side of an image for which ResNet-18 keeps every pixel to its first stage; larger ones are halved twice first.
SMALL_IMAGE_PIXELS = 64

DEPTH = 4
#: Width of a token at width factor 1, and of one attention head.
TOKEN_WIDTH, HEAD_WIDTH = 128, 32
#: Hidden units of a layer's perceptron by token width.
MLP_RATIO = 2
MOST_TOKENS = 64
#: Standard deviations of initial values: the last linear layer's weights, the positions' embeddings.
HEAD_STD, POSITION_STD = 0.02, 1.0

Tokens = Float[Tensor, "batch tokens hidden"]
#: A layer's patch tokens as the fusion takes them: the tokens in the place of an image's rows and columns.
TokenFeatures = Float[Tensor, "batch hidden patches"]


class ResNet18(ResNet):
    """ResNet-18 as torchvision names its parameters; up to SMALL_IMAGE_PIXELS with a 3x3 stem without pooling."""

    feature_channels = (64, 128, 256, 512)

    def __init__(
        self, classes: int, channels: int = 3, image_size: int = 32, norm: Callable[..., nn.Module] = nn.BatchNorm2d
    ) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=classes, norm_layer=norm)
        if image_size <= SMALL_IMAGE_PIXELS:
            self.conv1 = nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
            self.maxpool = nn.Identity()
        elif channels != 3:
            self.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)

    def _forward_impl(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return logits [batch, classes] and the four stages' outputs."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        features = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            features.append(x)
        return self.fc(x.mean((2, 3))), tuple(features)

    def channel_groups(self) -> list[ChannelGroup]:
        """Group the channels that may change places: those inside each block, and each stage's stream."""
        blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
        return [inner_group(self, block) for block in blocks] + [self._stream_group(stage) for stage in (1, 2, 3, 4)]

    def _stream_group(self, stage: int) -> ChannelGroup:
        places = range(self.feature_channels[stage - 1])
        start = ["conv1", "bn1"] if stage == 1 else [f"layer{stage}.0.downsample.{part}" for part in (0, 1)]
        writers = start + [f"layer{stage}.{block}.{layer}" for block in (0, 1) for layer in ("conv2", "bn2")]
        readers = [f"layer{stage}.{block}.conv1" for block in (0, 1) if stage == 1 or block]
        readers += ["fc"] if stage == 4 else [f"layer{stage + 1}.0.{layer}" for layer in ("conv1", "downsample.0")]
        entries = written(self, writers, places, len(places)) + read(readers, places)
        return ChannelGroup(tuple(entries), Channels(f"layer{stage}", 1, tuple(places)))


class SmallViT(VisionTransformer):
    """Four pre-norm encoder layers over square patches and a class token, without dropout; parameters named as torchvision's.

    Token width 128 and four heads at width factor 1; 546,186 parameters for RGB images of 32 pixels and 10 classes. Two
    start values are not torchvision's [chosen, measured on digits]. The last linear layer starts at HEAD_STD instead of
    zero, of which a relative sigma would be a share; larger, two peers that disagree at random teach each other to say
    nothing, for many epochs. Positions start at POSITION_STD, the size of a patch's projection, instead of 0.02, at which
    SGD long sees no more than a bag of patches: 38 % right after 12 epochs at half width, instead of 91 %.

    Raises: ValueError for an image size that cannot be cut into patches.
    References: Dosovitskiy et al. (ICLR 2021).
    """

    def __init__(self, classes: int, channels: int = 3, width: float = 1.0, image_size: int = 32) -> None:
        hidden, heads = token_width(width)
        patch = patch_size(image_size)
        super().__init__(image_size, patch, DEPTH, heads, hidden, MLP_RATIO * hidden, num_classes=classes)
        self.feature_channels = (hidden,) * DEPTH
        if channels != 3:
            self.conv_proj = nn.Conv2d(channels, hidden, patch, patch)
            nn.init.trunc_normal_(self.conv_proj.weight, std=math.sqrt(1 / (channels * patch**2)))
            nn.init.zeros_(self.conv_proj.get_parameter("bias"))
        nn.init.trunc_normal_(self.heads.head.weight, std=HEAD_STD)
        nn.init.normal_(self.encoder.pos_embedding, std=POSITION_STD)

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch classes"], tuple[TokenFeatures, ...]]:
        """Return logits [batch, classes] and each layer's output before the final normalisation: its patch tokens.

        Of the last layer, whose patch tokens nothing reads any more, it is the class token alone, so that no feature is free of
        the logits.
        """
        patches = self._process_input(images)
        x = cat([self.class_token.expand(len(patches), -1, -1), patches], 1) + self.encoder.pos_embedding
        features = []
        for layer in self.encoder.layers:
            x = x + attend(layer.self_attention, layer.ln_1(x))
            x = x + layer.mlp(layer.ln_2(x))
            features.append(x[:, 1:].transpose(1, 2))
        features[-1] = x[:, :1].transpose(1, 2)
        return self.heads(self.encoder.ln(x)[:, 0]), tuple(features)

    def channel_groups(self) -> list[ChannelGroup]:
        """Group the channels that may change places: hidden units of each layer's perceptron, and the tokens' channels.

        Those inside an attention head, where any rotation would do, keep theirs.
        """
        layers = [f"encoder.layers.encoder_layer_{layer}" for layer in range(DEPTH)]
        return [self._hidden_group(f"{layer}.mlp") for layer in layers] + [self._token_group(layers)]

    def _hidden_group(self, perceptron: str) -> ChannelGroup:
        places = range(MLP_RATIO * self.hidden_dim)
        entries = written(self, [f"{perceptron}.0"], places, len(places)) + read([f"{perceptron}.3"], places)
        return ChannelGroup(tuple(entries), Channels(f"{perceptron}.1", -1, tuple(places)))

    def _token_group(self, layers: list[str]) -> ChannelGroup:
        places = tuple(range(self.hidden_dim))
        writers = [f"{layer}.{part}" for layer in layers for part in ("ln_1", "self_attention.out_proj", "ln_2", "mlp.3")]
        entries = written(self, ["conv_proj", *writers, "encoder.ln"], places, len(places))
        entries += read([*(f"{layer}.mlp.0" for layer in layers), "heads.head"], places)
        entries += [Channels(f"{layer}.self_attention.in_proj_weight", 1, places) for layer in layers]
        entries += [Channels(name, 2, places) for name in ("class_token", "encoder.pos_embedding")]
        return ChannelGroup(tuple(entries), Channels("encoder.ln", -1, places))


def attend(attention: nn.MultiheadAttention, x: Tokens) -> Tokens:
    """Compute self-attention with the module's parameters, ``softmax(q k' / sqrt(d)) v`` for each head, written out.

    The module itself takes one of several kernels, by mode and device; those for a CPU are mapped over weight samples one
    by one, with a warning, and at this size none is faster.
    """
    projected = functional.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = projected.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    scores = (query * attention.head_dim**-0.5) @ key.transpose(-1, -2)
    answer = scores.softmax(-1) @ value
    return attention.out_proj(answer.transpose(1, 2).flatten(2))


def token_width(width: float) -> tuple[int, int]:
    """Return the width of a token, at least 8, and the number of heads, of about 32 each, for a width factor."""
    hidden = max(8, round(TOKEN_WIDTH * width))
    heads = max(1, hidden // HEAD_WIDTH)
    return hidden - hidden % heads, heads


def patch_size(image_size: int) -> int:
    """Return the smallest side of at least 2 pixels that cuts the image into no more than 64 patches.

    Raises: ValueError where that is the whole image.
    """
    sides = (side for side in range(2, image_size) if image_size % side == 0 and (image_size // side) ** 2 <= MOST_TOKENS)
    if (side := next(sides, None)) is None:
        raise ValueError(
            f"image_size = {image_size}: vit cuts images into 4 to {MOST_TOKENS} equal patches; take a multiple of 4"
        )
    return side
