"""What a proof found, on screen."""

from typing import TYPE_CHECKING

from rich.console import Console

from detheads.cli.output import remark
from detheads.cli.profiles import print_profiles

if TYPE_CHECKING:
    from detheads.export.report import VerificationReport

LISTED = 5
"""Pictures and classes that a verdict names."""


def remark_skipped(report: "VerificationReport") -> None:
    """One remark for all images that were left out."""
    if report.skipped:
        remark(f"left out {len(report.skipped)} that cannot be used:", *report.skipped.values())


def print_verdict(console: Console, report: "VerificationReport") -> None:
    """The three mAP figures, whether they agree, and if not, the likely cause and the pictures that differ most."""
    cache = "not recorded" if report.map_cache is None else f"{report.map_cache:.4f}"
    worst = report.worst
    between = "" if worst.interval is None else f", 95 % interval {worst.interval.told()}"
    console.print(
        f"{report.head_title}mAP on {report.images} images: cache {cache}, PyTorch {report.live.AP:.4f}, "
        f"{worst.file} {worst.statistics.AP:.4f} (drop {worst.map_drop:+.6f}{between})"
    )
    if worst.worst_class is not None:
        console.print(f"class that differs most: {worst.worst_class.name} (drop {worst.worst_class.drop:+.4f})")
    console.print(report.verdict)
    for reason in report.reasons:
        console.print(f"  {reason}")
    for sentence in report.shortcomings:
        if sentence not in report.reasons:
            console.print(f"  {sentence}")
    print_profiles(console, report)
    for sentence in () if report.explanation is None else report.explanation.told():
        console.print(f"  {sentence}")
    for number, sentence in enumerate(report.advice):
        console.print(f"  {'' if number else 'likely cause: '}{sentence}")
    for picture in report.apart[:LISTED] if report.advice else ():
        console.print(f"  {picture.told(report.classes)}")
    if report.best_scores:
        best = ", ".join(f"{name} {score:.2f}" for name, score in list(report.best_scores.items())[:LISTED])
        further = len(report.best_scores) - LISTED
        console.print(f"best scores: {best}" + (f" and {further} more in the bundle" if further > 0 else ""))
