"""torchvision's ResNet-18 with block features. Imported when it is asked for."""

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet


class ResNet18(ResNet):
    """torchvision's ResNet-18, its parameters' names unchanged; for small images a 3x3 stem without pooling."""

    feature_channels = (64, 128, 256, 512)

    def __init__(self, classes: int, channels: int = 3, small_images: bool = True) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=classes)
        if small_images:
            self.conv1 = nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
            self.maxpool = nn.Identity()
        elif channels != 3:
            self.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)

    def _forward_impl(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits [batch, classes] and the four stages' outputs."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        features = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            features.append(x)
        return self.fc(x.mean((2, 3))), tuple(features)
