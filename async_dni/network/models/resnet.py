"""A residual network for small images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from ...foundation.error import ConfigError
from .model import ModelSpec, check_images

GROUPS = 3  # of residual blocks; each but the first halves the image and doubles the channels


class Residual(nn.Module):
    """relu(norm(conv(relu(norm(conv(x))))) + shortcut(x)); `[batch, c_in, height, width]` → `[batch, c_out, …]`."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(c_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(h)) + self.shortcut(x))


def resnet(
    depth: int = 8, width: int = 16, *, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
) -> nn.Sequential:
    """The residual network for CIFAR (He et al., arXiv 1512.03385, 4.2), with 1x1 convolutions where shapes change.

    `depth` counts the layers with weights: 6n + 2 for 3n residual blocks; 20 is the paper's smallest. `width`: channels of the
    first group. A first convolution, each residual block, and the output are one block each.
    Input `[batch, channels, height, width]`, output: logits `[batch, num_classes]`.
    """
    check_images("resnet", input_shape)
    if depth < 8 or (depth - 2) % 6:
        raise ConfigError("depth", depth, "allowed: 6n + 2, such as 8, 14, 20")
    first = nn.Sequential(nn.Conv2d(input_shape[0], width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    channels, residuals = width, []
    for group in range(GROUPS):
        for block in range((depth - 2) // 6):
            stride = 2 if group and not block else 1
            residuals.append(Residual(channels, width * 2**group, stride))
            channels = width * 2**group
    output = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))
    return nn.Sequential(first, *residuals, output)


RESNET = ModelSpec(
    name="resnet",
    help="residual blocks for small images; depth 8, 16 channels",
    make=resnet,
    settings={"depth": 8, "width": 16},
)
