"""``detheads deploy package``: everything that a device needs, in one archive."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from detheads.cli.checks import require_existing
from detheads.cli.options import BundleArgument
from detheads.cli.output import JsonFlag, emit, remark, steps

if TYPE_CHECKING:
    from detheads.deploy.packaging.package import Packed


def package(
    bundle: BundleArgument,
    target: Annotated[str, typer.Option(help="jetson, rpi, x86 or docker.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Archive NAME.tar.gz.")],
    python: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION",
            help="Python of the machines, such as 3.11.",
            show_default="jetson 3.10, rpi 3.11, x86 the running one, docker 3.12",
        ),
    ] = None,
    arch: Annotated[
        str | None, typer.Option(help="x86_64 or aarch64, for docker.", show_default="the target's")
    ] = None,
    extras: Annotated[
        str, typer.Option("--with", metavar="EXTRAS", help="Bring more: video, frigate, openvino, sign, cpu.")
    ] = "",
    wheel: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Wheel of detheads.", show_default="made from what runs here")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write an archive that installs and serves a bundle on a device without a network.

    It holds the bundle, every wheel with its digest, and scripts that install, prove and start it. Wheels come from the
    package index that pip is set up for. Equal inputs give an equal archive.
    """
    from detheads.deploy.packaging.package import pack
    from detheads.deploy.packaging.target import find_target

    require_existing(wheel)
    chosen = find_target(target)
    with steps() as on_progress:
        packed = pack(
            bundle, output, chosen, python=python, arch=arch, extras=extras, wheel=wheel, on_progress=on_progress
        )
    for sentence in packed.remarks:
        remark(sentence)
    emit(packed.to_dict(), as_json, lambda console: _print_packed(console, packed))


def _print_packed(console: Console, packed: "Packed") -> None:
    from detheads.foundation.atomic import sized

    machines = f"Python {packed.python} on {packed.arch}"
    console.print(f"{packed.archive}: {sized(packed.bytes)}, {len(packed.wheels)} wheels for {machines}")
    console.print(f"SHA-256 {packed.sha256}")
    console.print(f"there: tar xzf {packed.archive.name}, then follow {packed.root}/README.md")
