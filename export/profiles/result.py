"""What the proof of a host profile measured, as a value, for the manifest, as JSON and for a report."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detheads.evaluation.coco import Statistics
from detheads.export.matching import Comparison
from detheads.foundation.manifest import ProfileEntry, ProfileProof
from detheads.report.sections import Column, Section, Table


@dataclass(frozen=True)
class ProfileResult:
    """What was measured of a profile. mAP in 0..1.

    Attributes:
        live: PyTorch on pictures as the host makes them.
        letterboxed: PyTorch on pictures as the head was trained with.
        statistics: the profile's graph, on pictures as the host makes them.
        versus_live: its detections held against PyTorch's on the same pictures.
        reasons: why the proof fails; empty when it holds.
    """

    entry: ProfileEntry
    runtime: str
    batch: int
    images: int
    live: Statistics
    letterboxed: Statistics
    statistics: Statistics
    versus_live: Comparison
    reasons: Sequence[str]

    @property
    def map_drop(self) -> float:
        """Of the graph against PyTorch on the same pictures."""
        return self.live.require_ap() - self.statistics.require_ap()

    @property
    def host_cost(self) -> float:
        """mAP that the host's resize and padding cost PyTorch."""
        return self.letterboxed.require_ap() - self.live.require_ap()

    def summary(self) -> ProfileProof:
        """The short form for the manifest."""
        return ProfileProof(
            passed=not self.reasons,
            sha256=self.entry.sha256,
            runtime=self.runtime,
            batch=self.batch,
            images=self.images,
            map=self.statistics.require_ap(),
            map_drop=self.map_drop,
            map_live=self.live.require_ap(),
            map_letterboxed=self.letterboxed.require_ap(),
            matched=self.versus_live.share,
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.entry.name,
            "file": self.entry.file,
            "host": self.entry.host,
            "preprocessing": self.entry.preprocessing,
            **self.summary().model_dump(mode="json"),
            "reasons": list(self.reasons),
            "host_cost": self.host_cost,
            "statistics": self.statistics.to_dict(),
            "live_statistics": self.live.to_dict(),
            "versus_live": self.versus_live.to_dict(),
        }


def profiles_section(results: Sequence[ProfileResult]) -> Section:
    """The profiles for a reader: what each host's pictures cost, and how far its graph is from PyTorch on them."""
    columns = [
        Column("profile"),
        Column("batch"),
        Column("AP, our letterbox", ".4f", note="PyTorch on pictures as the head was trained with"),
        Column("AP, the host's pictures", ".4f", note="PyTorch with the host's resize and padding"),
        Column("AP of the graph", ".4f", note="on the host's pictures"),
        Column("drop", "+.6f", note="AP of PyTorch less that of the graph, both on the host's pictures"),
        Column("matched", note="share of detections that both sides have"),
    ]
    rows = [
        (
            each.entry.file,
            each.batch,
            each.letterboxed.AP,
            each.live.AP,
            each.statistics.AP,
            each.map_drop,
            f"{100 * each.versus_live.share:.2f} %",
        )
        for each in results
    ]
    remarks = [f"{each.entry.name}, for {each.entry.host}: {each.entry.preprocessing}" for each in results]
    return Section("Host profiles", [Table(columns, rows)], remarks=remarks)
