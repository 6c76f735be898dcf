"""What a proof is asked to show: the request that goes unchanged from the caller to the judgement."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detheads.data import list_splits, read_dataset
from detheads.data.dataset import Dataset
from detheads.export.limits import Limits
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import Precision

PICTURES = 4
"""On the report's page, when no other number is asked for: about 300 kB."""


@dataclass(frozen=True)
class Proof:
    """What a verification needs besides the run and the bundle.

    Attributes:
        dataset: images with boxes, of the bundle's classes (further classes are left out); see :func:`proof_dataset`.
        batch_sizes: batch sizes of the artefact; 1 is always among them. The PyTorch side runs single images.
        max_map_drop: largest allowed ``|live - artefact|`` of the mAP in AP units, 0..1; by precision when None.
        min_matched: smallest allowed share of detections with a counterpart on the other side; by precision when None.
        limits: of further figures (see :class:`detheads.export.limits.Limits`).
        strict: images that are not enough to prove the tolerance fail the proof.
        device: torch device of the PyTorch side.
        threads: CPU threads of ONNX Runtime.
        skip_bad: leave out images that cannot be used, and list them.
        pictures: that the page shows, those that differ most.
        backends: that run the graph besides ONNX Runtime on the CPU, which always does; when None, the backends of
            those engines of the bundle that this machine can run.
        explain: look inside where the two sides depart although the proof holds; where it fails that is always done.
    """

    dataset: Dataset
    batch_sizes: Sequence[int] = (1, 2, 5)
    max_map_drop: float | None = None
    min_matched: float | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    strict: bool = False
    device: str = "cpu"
    threads: int | None = None
    skip_bad: bool = False
    pictures: int = PICTURES
    backends: Sequence[str] | None = None
    explain: bool = False

    def limits_of(self, precision: Precision) -> Limits:
        """The limits for an artefact of a precision."""
        return Limits.of(precision, self.max_map_drop, self.min_matched, self.limits)


def proof_dataset(data: str | Path, split: str | None = None, *, skip_bad: bool = False) -> Dataset:
    """One split of a dataset folder; without a name its validation split, or the only one there is.

    Raises:
        UserError: when the folder is no dataset, or has several splits and none for validation.
    """
    data = Path(data)
    if split is None:
        splits = list_splits(data)
        split = next((name for name in splits if name.startswith("val")), splits[0] if len(splits) == 1 else None)
        if split is None:
            raise UserError(f"{data} has the splits {', '.join(splits)}; choose one with --split.")
    return read_dataset(data, split, skip_bad=skip_bad)
