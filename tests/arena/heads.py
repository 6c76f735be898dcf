"""Files with heads of a user's own: a good one, and one for every way to fail."""

from pathlib import Path

GOOD = '''
"""One map, one box a cell."""

from dataclasses import dataclass

from torch import nn

from detheads.headkit.blocks import join_main, join_stride, joined_channels
from detheads.headkit.dense import PointHead, init_prediction
from detheads.headkit.prior import PRIOR_BIAS
from detheads.headkit.registry import register


@dataclass(frozen=True)
class Config:
    width: int = 16


@register(Config)
class Plain(PointHead):
    """One map, one box a cell."""

    def __init__(self, spec, num_classes, config):
        super().__init__(spec.height, spec.width, [join_stride(spec)], "atss")
        self.spec = spec
        self.body = nn.Sequential(nn.Conv2d(joined_channels(spec), config.width, 1), nn.ReLU())
        self.classes = init_prediction(nn.Conv2d(config.width, num_classes, 1), bias=PRIOR_BIAS)
        self.distances = init_prediction(nn.Conv2d(config.width, 4, 1), bias=1.0)
        self.centerness = init_prediction(nn.Conv2d(config.width, 1, 1))

    def forward(self, features):
        x = self.body(join_main(features, self.spec))
        BEFORE_DECODING
        return self.decode([self.classes(x)], [self.distances(x)], [self.centerness(x)])
'''

FAULTS = {
    "raises": "raise RuntimeError('the idea does not work')",
    "diverges": "x = x * float('nan')",
    "is_killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "exits": "import os; os._exit(7)",
    "fills_disk": "import errno; raise OSError(errno.ENOSPC, 'No space left on device')",
}


def write_head(folder: Path, name: str, before_decoding: str = "pass") -> Path:
    """A head file; ``before_decoding`` is a statement of its forward pass."""
    path = folder / f"{name}.py"
    path.write_text(GOOD.replace("BEFORE_DECODING", before_decoding), encoding="utf-8")
    return path


def write_faulty(folder: Path, name: str) -> Path:
    return write_head(folder, name, FAULTS[name])
