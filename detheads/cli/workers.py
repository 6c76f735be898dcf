"""Options of commands whose parts can run on Ray, and what they say together."""

from typing import Annotated

import typer

from detheads.foundation.errors import UserError
from detheads.foundation.ray_cluster import Workers

WorkersOption = Annotated[int, typer.Option(min=0, max=100_000, help="Workers on Ray; 0: this process, without Ray.")]
AddressOption = Annotated[
    str | None, typer.Option(help="Address of a Ray cluster, or auto.", show_default="Ray on this machine")
]
GpusOption = Annotated[float, typer.Option(min=0, help="GPUs of a worker; parts of one are possible.")]
RetriesOption = Annotated[int, typer.Option(min=0, max=100, help="Times that a part is begun again.")]


def workers_of(
    count: int, address: str | None, gpus: float = 0.0, threads: int | None = None, retries: int = 3
) -> Workers:
    """Where parts run.

    Raises:
        UserError: when options speak of workers that are not asked for.
    """
    if not count and (address is not None or gpus):
        options = (
            "--address" if not gpus else "--gpus-per-worker" if address is None else "--address, --gpus-per-worker"
        )
        raise UserError(f"{options} without workers on Ray; say how many with --workers.")
    return Workers(count, address, gpus, threads or 1, retries)


def device_of(workers: Workers, device: str, option: str = "--gpus-per-worker") -> str:
    """The device of each worker: a GPU when GPUs are asked for.

    Raises:
        UserError: when the device is not what is asked of Ray.
    """
    if "," in device:
        raise UserError(f"--device names several, and a worker on Ray has one; say how much of it with {option}.")
    chosen = device or ("cuda" if workers.gpus else "cpu")
    if bool(workers.gpus) != (chosen != "cpu"):
        raise UserError(f"--device {chosen} and {option} {workers.gpus:g} do not belong together on Ray.")
    return chosen
