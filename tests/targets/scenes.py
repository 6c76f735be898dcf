"""Points and boxes shared by the assignment tests."""

import torch
from torch import Tensor

EDGE_CASES = {
    "no object": [],
    "one huge object": [[-100, -100, 700, 700]],
    "the whole image": [[0, 0, 256, 192]],
    "identical boxes": [[40, 40, 120, 120]] * 3,
    "tiny objects": [[10, 10, 11, 11], [12, 12, 12.5, 12.5], [100.1, 60.2, 103.9, 62.7]],
    "no area": [[50, 50, 50, 50], [20, 20, 20, 80]],
    "points on the border": [[4, 4, 36, 36], [12, 20, 60, 44], [20, 20, 20.5, 60]],
    "nested boxes": [[0, 0, 200, 190], [20, 20, 150, 150], [60, 60, 100, 100], [70, 70, 90, 90]],
    "outside the image": [[400, 400, 450, 460]],
    "tied candidates": [[32, 32, 96, 96], [96, 32, 160, 96], [64, 64, 128, 128]],
}


def grid(strides: list[float], height: int = 192, width: int = 256) -> tuple[Tensor, list[int], Tensor]:
    """Points ``[N, 2]``, points per level and strides ``[N]`` of a feature pyramid over an image."""
    points, counts, steps = [], [], []
    for stride in strides:
        rows, columns = max(1, int(height / stride)), max(1, int(width / stride))
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        points.append((torch.stack((x, y), dim=2).reshape(-1, 2) + 0.5) * stride)
        counts.append(rows * columns)
        steps.append(torch.full((rows * columns,), stride))
    return torch.cat(points), counts, torch.cat(steps)


def random_boxes(count: int, seed: int) -> Tensor:
    """Boxes of all sizes, some partly outside the image; half of them on whole pixels, so that ties occur."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(count, 2, generator=generator) * torch.tensor([256.0, 192.0])
    sides = 2 ** (torch.rand(count, 2, generator=generator) * 7 + 1)
    boxes = torch.cat((centers - sides / 2, centers + sides / 2), dim=1)
    return boxes.round() if seed % 2 else boxes
