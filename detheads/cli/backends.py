"""``--backend auto`` where a command opens the bundle later, or in other processes."""

from pathlib import Path

from detheads.cli.output import remark


def named_backend(bundle: Path, backend: str, threads: int | None) -> str:
    """The name of a backend: where it is ``auto`` the one that is fastest here, which is told.

    Raises:
        UserError: when the bundle cannot be used, or nothing here runs it.
    """
    from detheads.deploy.detector import Detector
    from detheads.deploy.session import AUTO

    if backend != AUTO:
        return backend
    chosen = Detector.load(bundle, threads=threads)
    remark(f"auto took {chosen.choice}")
    return chosen.backend
