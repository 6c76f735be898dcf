"""A package: a bundle, the wheels that run it, and scripts that install, check, prove and start it."""

import re
import tempfile
from dataclasses import dataclass
from importlib.resources import files as resources
from pathlib import Path
from typing import Any, Final

from detheads.deploy.packaging.archive import SUFFIX, write_archive
from detheads.deploy.packaging.target import Target
from detheads.deploy.packaging.wheel import own_wheel
from detheads.deploy.packaging.wheels import OWN, Place, fetch, requirements_text
from detheads.foundation import atomic
from detheads.foundation.bundle import read_manifest
from detheads.foundation.contents import DEVICE_NAME, files_of, require_intact
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress, silent

MANIFEST: Final = "manifest.json"
_PLACEHOLDER: Final = re.compile("@([A-Z]+)@")
APT: Final = """\
RUN apt-get update \\
 && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 libxcb1 \\
 && rm -rf /var/lib/apt/lists/*
"""
"""What the wheels of OpenCV, which comes with tracking, take from a system with a screen."""
_STEPS: Final = ("wheel of detheads", "wheels", "archive")


@dataclass(frozen=True)
class Packed:
    """What was packed.

    Attributes:
        archive: the file, and ``sha256``, ``bytes`` of it.
        root: the folder that it unpacks to.
        wheels: version of each distribution by name.
        remarks: what whoever packs should know.
    """

    archive: Path
    sha256: str
    bytes: int
    root: str
    target: str
    python: str
    arch: str
    wheels: dict[str, str]
    remarks: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "archive": str(self.archive),
            "sha256": self.sha256,
            "bytes": self.bytes,
            "folder": self.root,
            "target": self.target,
            "python": self.python,
            "arch": self.arch,
            "wheels": self.wheels,
            "remarks": list(self.remarks),
        }


def pack(
    bundle: Path,
    archive: Path,
    target: Target,
    *,
    python: str | None = None,
    arch: str | None = None,
    extras: str = "",
    wheel: Path | None = None,
    on_progress: Progress = silent,
) -> Packed:
    """Write a package for a target.

    Args:
        python, arch: of the machines; the target's usual ones when None.
        extras: what to bring besides, with commas between.
        wheel: of detheads; made from what runs here when None.

    Raises:
        UserError: when the bundle is not as its manifest describes it, an option does not fit the target, a wheel
            cannot be had, or the archive cannot be written.
    """
    if not archive.name.endswith(SUFFIX):
        raise UserError(f"{archive} must end with {SUFFIX}.")
    manifest = read_manifest(bundle)
    require_intact(bundle, manifest)
    version, machine, brought = target.python_or_usual(python), target.arch_or_usual(arch), target.extras_with(extras)
    atomic.try_output(archive)
    name = plain_name(bundle)
    root = f"{name}-{target.name}"
    folder = f"{name}.detheads"
    words = {
        **target.words,
        "APT": APT if "video" in brought else "",
        "BUNDLE": folder,
        "NAME": name,
        "SERVICE": f"detheads-{name}",
        "PYTHON": version,
        "SYSTEM": target.systems[version],
        "MACHINE": target.machine,
        "BACKEND": target.backend,
        "PREFIX": "@PREFIX@",  # known where it is installed
    }
    with tempfile.TemporaryDirectory() as place:
        made = Path(place)
        (made / "own").mkdir()
        (made / "wheels").mkdir()
        on_progress(_STEPS[0], 0, 0)
        own = own_wheel(made / "own", wheel)
        on_progress(_STEPS[1], 0, 0)
        further = target.requirements.get(version, ())
        wheels = fetch(made / "wheels", own, brought, further, Place(version, machine, target.glibc))
        on_progress(_STEPS[2], 0, 0)
        written = {file: filled(template, words) for file, template in target.files.items()}
        written["requirements.txt"] = requirements_text(wheels)
        inside = {f"wheels/{each.path.name}": each.path for each in wheels.values()}
        inside |= {f"{folder}/{file}": bundle / file for file in files_of(bundle) if file != DEVICE_NAME}
        for file, text in written.items():
            (made / file).write_text(text, encoding="utf-8", newline="\n")
            inside[file] = made / file
        description = {
            "schema_version": 1,
            "target": target.name,
            "python": version,
            "arch": machine,
            "glibc": list(target.glibc),
            "detheads": wheels[OWN].version,
            "extras": list(brought),
            "bundle": {"folder": folder, "state": manifest.state, "onnx_sha256": manifest.onnx.sha256},
            "files": {file: atomic.sha256_of(source) for file, source in sorted(inside.items())},
        }
        atomic.write_json(made / MANIFEST, description)
        inside[MANIFEST] = made / MANIFEST
        write_archive(archive, root, inside)
    remarks = []
    if manifest.state != "verified":
        remarks.append(f"{bundle} is {manifest.state}: nothing proves that it equals the trained model")
    if not (bundle / "probes").is_dir():
        remarks.append(f"{bundle} carries no probes, by which prove.sh would judge; export it without --probes 0")
    return Packed(
        archive=archive,
        sha256=atomic.sha256_of(archive),
        bytes=archive.stat().st_size,
        root=root,
        target=target.name,
        python=version,
        arch=machine,
        wheels={each.name: each.version for each in wheels.values()},
        remarks=tuple(remarks),
    )


def plain_name(bundle: Path) -> str:
    """The bundle's folder name without its ending, as it may stand in a unit, a script and a web address."""
    name = bundle.absolute().name.removesuffix(".detheads")
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:48] or "model"


def filled(template: str, words: dict[str, str]) -> str:
    """A template of ``files/`` with every ``@KEY@`` replaced."""
    text = (resources("detheads.deploy.packaging") / "files" / template).read_text("utf-8")
    return _PLACEHOLDER.sub(lambda found: words[found[1]], text)
