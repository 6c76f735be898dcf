"""The hosts' resize and padding once more, in torch: the PyTorch side of a profile's proof.

Nothing here comes from :mod:`detheads.export.profiles.frames` but the place of a picture in the input, computed anew.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from detheads.export.profiles.frames import HALF, Framed, Placement


def square_region(image: Image.Image, width: int, height: int) -> Framed:
    """The smallest square of a side that four divides which holds the picture, black beside it, resized."""
    side = max(image.size)
    side += -side % 4
    padded = F.pad(_planes(image), (0, side - image.width, 0, side - image.height))
    return _bytes(_resized(padded, width, height)), Placement(*image.size, width / side, height / side)


def black_letterbox(image: Image.Image, width: int, height: int) -> Framed:
    """Aspect kept, sides cut to whole pixels, centred on black."""
    inner_width, inner_height = min(width, height * image.width // image.height), height
    if width * image.height <= height * image.width:
        inner_width, inner_height = width, width * image.height // image.width
    inner_width, inner_height = max(inner_width, 1), max(inner_height, 1)
    left, top = (width - inner_width) // 2, (height - inner_height) // 2
    right, bottom = width - inner_width - left, height - inner_height - top
    padded = F.pad(_resized(_planes(image), inner_width, inner_height), (left, right, top, bottom))
    scale = inner_width / image.width, inner_height / image.height
    return _bytes(padded), Placement(*image.size, *scale, left, top)


def _planes(image: Image.Image) -> Tensor:
    """float64 ``[1, 3, H, W]``, 0..255."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].double()


def _resized(planes: Tensor, width: int, height: int) -> Tensor:
    mixed = F.interpolate(planes, (height, width), mode="bilinear", align_corners=False, antialias=False)
    return (mixed + HALF).floor()


def _bytes(planes: Tensor) -> NDArray[np.uint8]:
    return np.asarray(planes[0].permute(1, 2, 0).contiguous().to(torch.uint8).numpy())
