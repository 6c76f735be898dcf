"""``detheads doctor``: what this machine and this installation can do, and whether a bundle runs here."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from detheads import __version__
from detheads.cli.output import JsonFlag, emit, table

if TYPE_CHECKING:
    from detheads.deploy.doctor.advice import Ability
    from detheads.deploy.doctor.bundle import Fitness
    from detheads.deploy.doctor.machine import Machine
    from detheads.deploy.doctor.software import Software


def doctor(
    bundle: Annotated[
        Path | None, typer.Option(help="Say whether and how this bundle runs here, by running it.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """What this machine has, what that allows, what is missing, and the command that adds it.

    With --bundle the exit code is 1 when nothing here runs it.
    """
    from detheads.deploy.doctor import advice, machine, software
    from detheads.deploy.doctor.bundle import examine

    hardware, packages = machine.examine(), software.examine()
    able, sentences = advice.abilities(hardware, packages), advice.remarks(hardware, packages)
    fitness = None if bundle is None else examine(bundle)
    answer = {
        "detheads": __version__,
        "machine": hardware.to_dict(),
        "software": packages.to_dict(),
        "able": [each.to_dict() for each in able],
        "advice": sentences,
        **({} if fitness is None else {"bundle": fitness.to_dict()}),
    }

    def render(console: Console) -> None:
        console.print(f"detheads {__version__}, Python {hardware.python}")
        _print_machine(console, hardware, packages)
        console.print("", *(_told(each) for each in able), sep="\n")
        if sentences:
            console.print("", *sentences, sep="\n")
        if fitness is not None and bundle is not None:
            _print_fitness(console, fitness, bundle)

    emit(answer, as_json, render)
    if fitness is not None and not fitness.runs:
        raise typer.Exit(1)


def _print_machine(console: Console, machine: "Machine", software: "Software") -> None:
    from detheads.deploy.doctor.software import PACKAGES
    from detheads.foundation.atomic import sized

    memory = machine.memory
    counts = (("in all", memory.total), ("allowed", memory.allowed), ("free", memory.free), ("swap", memory.swap))
    bytes_told = [f"{sized(count)} {word}" for word, count in counts if count is not None]
    cores = f"{machine.cores_allowed} of {machine.cores} cores"
    rows = [
        ("board", machine.board),
        ("processor", ", ".join([machine.processor, machine.architecture, cores])),
        ("features", ", ".join(machine.features)),
        ("memory", ", ".join(bytes_told)),
        ("disk", "" if machine.disk_free is None else f"{sized(machine.disk_free)} free here"),
        ("system", ", ".join(filter(None, (machine.system, machine.libc, machine.jetpack)))),
        ("GPUs", ", ".join(software.gpus) or "none; engines are built, not executed"),
        ("NVIDIA driver", ", CUDA ".join(filter(None, (machine.nvidia_driver, software.cuda)))),
        ("TensorRT", ", ".join(software.tensorrt_libraries)),
        ("accelerators", ", ".join(machine.accelerators)),
        ("cameras", machine.cameras or ""),
        ("ONNX Runtime providers", ", ".join(software.onnxruntime_providers) or "none"),
        ("OpenVINO devices", ", ".join(f"{key} ({name})" for key, name in software.openvino_devices.items())),
        ("video codecs", ", ".join(software.codecs)),
    ]
    console.print(*(f"{title}: {text}" for title, text in rows if text), sep="\n")
    found = [
        (name, version or "not installed", PACKAGES.get(name, "run bundles"))
        for name, version in software.packages.items()
    ]
    console.print(table(("package", "version", "for"), found))


def _told(ability: "Ability") -> str:
    fix = f"; add it: {ability.command}" if ability.command else ""
    return f"{'yes' if ability.able else 'no '} {ability.what}: {ability.how}{fix}"


def _print_fitness(console: Console, fitness: "Fitness", bundle: Path) -> None:
    from detheads.foundation.atomic import sized

    lines = ["", f"{fitness.name} ({fitness.proof}): {'runs here' if fitness.runs else 'DOES NOT RUN here'}"]
    lines += [f"yes {name}: {milliseconds:.1f} ms an image" for name, milliseconds in fitness.backends.items()]
    lines += [f"no  {name}: {reason}" for name, reason in fitness.refused.items()]
    lines += [
        f"{'no ' if engine.reason else 'yes'} {engine.file} ({engine.builder}): {engine.reason or 'fits this machine'}"
        for engine in fitness.engines
    ]
    lines += [fitness.judged] if fitness.judged else []
    free = "" if fitness.memory_free is None else f"; {sized(fitness.memory_free)} are free"
    lines.append(f"memory: about {sized(fitness.memory_estimate)} by the size of its graph{free}")
    if fitness.first_detection_seconds is not None:
        takes = "" if fitness.peak_memory is None else f" and takes {sized(fitness.peak_memory)}"
        lines.append(f"measured: a new process has detected after {fitness.first_detection_seconds:.2f} s{takes}")
    lines.append(
        f"proof on this machine: {fitness.proven_here or f'none; make it: detheads bundle prove {quote(str(bundle))}'}"
    )
    console.print(*lines, sep="\n")
