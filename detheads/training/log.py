"""The run's log (``log.jsonl``) and the picture drawn from it (``plot.png``)."""

import json
import math
from pathlib import Path
from typing import Any

from detheads.foundation import atomic

LOG_NAME = "log.jsonl"
PLOT_NAME = "plot.png"


class RunLog:
    """Appends one JSON object a line; a resumed run first drops what came after its checkpoint."""

    def __init__(self, run: Path, resume_step: int) -> None:
        self.path = run / LOG_NAME
        kept = [entry for entry in read_log(run) if entry["step"] <= resume_step] if resume_step else []
        atomic.write_text(self.path, "".join(json.dumps(entry) + "\n" for entry in kept))

    def write(self, entry: dict[str, Any]) -> None:
        """Append ``entry``, which holds at least ``step``."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry, allow_nan=False) + "\n")


def read_log(run: Path) -> list[dict[str, Any]]:
    """The entries of a run's log; a line cut off by a kill is left out, as is all that is no number."""
    path = run / LOG_NAME
    if not path.is_file():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and _is_number(entry.get("step")):
            entries.append({key: value for key, value in entry.items() if value is None or _is_number(value)})
    return entries


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def plot_log(run: Path) -> Path:
    """Draw loss and AP over the steps of a run."""
    from matplotlib.figure import Figure

    entries = read_log(run)
    losses = [entry for entry in entries if "loss" in entry]
    evaluations = [entry for entry in entries if "AP" in entry]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss_axes, ap_axes = figure.subplots(1, 2)
    parts = [key for key in (losses[0] if losses else {}) if key.startswith("loss_")]
    for key in ["loss", *parts]:
        loss_axes.plot([e["step"] for e in losses], [e[key] for e in losses], label=key.removeprefix("loss_"))
    loss_axes.set(xlabel="step", ylabel="loss", yscale="log")
    for key in ("AP", "AP50", "AP75"):
        ap_axes.plot([e["step"] for e in evaluations], [e[key] for e in evaluations], marker="o", label=key)
    ap_axes.set(xlabel="step", ylabel="AP on the validation cache")
    for axes, drawn in ((loss_axes, losses), (ap_axes, evaluations)):
        axes.grid(alpha=0.3)
        if drawn:
            axes.legend()
    with atomic.replacing(run / PLOT_NAME) as partial:
        figure.savefig(partial, dpi=110)
    return run / PLOT_NAME
