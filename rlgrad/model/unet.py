"""A small U-Net: 83 000 weights, made for two cores of a processor."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

WIDTHS = (8, 24, 64)  # few channels where there are many pixels: that is where the time goes


class UNet(nn.Module):
    """Logits for each pixel, from a network that looks at an image at three scales.

    Each scale has two convolutions of 3 x 3; going down the largest of 2 x 2 pixels is kept, going up a transposed
    convolution doubles the sides, and what was seen at that scale on the way down is seen again. Channels are
    normalised in groups within each image, not over the batch: batches are small, and an image is then judged the same
    whatever its company, in training and after.

    Args:
        channels: of the images.
        outputs: 1 for yes or no, else how many classes.
        widths: channels at each scale, multiples of 8.

    Shape:
        images ``batch channels height width``, sides multiples of 4; logits ``batch height width``, with an axis of
        classes at the end where there are several.

    Source: Ronneberger, Fischer, Brox, U-Net: convolutional networks for biomedical image segmentation (2015); Wu, He,
        Group normalization (2018).

    Example:
        >>> UNet(1)(torch.zeros(2, 1, 8, 12)).shape, UNet(3, 4)(torch.zeros(2, 3, 8, 12)).shape
        (torch.Size([2, 8, 12]), torch.Size([2, 8, 12, 4]))
    """

    def __init__(self, channels: int, outputs: int = 1, widths: tuple[int, int, int] = WIDTHS) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.down = nn.ModuleList([_block(channels, fine), _block(fine, middle), _block(middle, coarse)])
        self.enlarge = nn.ModuleList([nn.ConvTranspose2d(coarse, middle, 2, 2), nn.ConvTranspose2d(middle, fine, 2, 2)])
        self.up = nn.ModuleList([_block(2 * middle, middle), _block(2 * fine, fine)])
        self.last = nn.Conv2d(fine, outputs, 1)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch height width *classes"]:
        """Logits."""
        x = x.contiguous(memory_format=torch.channels_last)  # a third faster on a processor
        seen: list[Tensor] = []
        for block in self.down:
            x = block(F.max_pool2d(x, 2) if seen else x)
            seen.append(x)
        seen.pop()
        for enlarge, block in zip(self.enlarge, self.up, strict=True):
            x = block(torch.cat([seen.pop(), enlarge(x)], dim=1))
        logits: Tensor = self.last(x)
        return logits.squeeze(1) if logits.shape[1] == 1 else logits.permute(0, 2, 3, 1)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    convolutions = (nn.Conv2d(width, outputs, 3, padding=1, bias=False) for width in (inputs, outputs))
    layers = ((each, nn.GroupNorm(outputs // 8, outputs), nn.LeakyReLU(0.1, inplace=True)) for each in convolutions)
    return nn.Sequential(*(layer for three in layers for layer in three))


def build_unet(channels: int, outputs: int, widths: tuple[int, int, int] = WIDTHS, *, seed: int) -> UNet:
    """A U-Net with fresh weights that depend on the seed alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet(channels, outputs, widths)
    return network.to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]
