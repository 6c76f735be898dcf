"""Which files a bundle folder holds, and whether they are those that its manifest describes."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import BundleManifest

MANIFEST_NAME: Final = "bundle.json"
PRECISION_NAME: Final = "precision.json"
"""How the graph came to its precision, in a bundle that is not fp32."""
SIGNATURE_NAME: Final = "bundle.sig.json"
DEVICE_NAME: Final = "device.json"
"""What devices proved of a bundle. It comes after the bundle was made, and is neither listed nor signed."""
UNLISTED: Final = frozenset({MANIFEST_NAME, SIGNATURE_NAME, DEVICE_NAME})
NOT_OURS: Final = frozenset({".git", ".gitattributes", ".cache"})
"""What git and model hubs put beside a bundle's own files."""
ENGINES: Final = "engines/"
"""Beginning of the names of engines; one that the manifest does not name is on its way in or out."""
NAMED: Final = 8
"""Files that a sentence names."""


@dataclass(frozen=True)
class Contents:
    """A bundle's files held against its manifest. Names have ``/`` between folders.

    Attributes:
        checked: files whose digest was compared.
        altered, missing: of those that the manifest lists.
        extra: files that it does not list.
        whole: the manifest lists all files; those of older versions list graph and engines alone, and of these bundles
            nothing is extra.
    """

    checked: int
    altered: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    whole: bool

    @property
    def intact(self) -> bool:
        return not (self.altered or self.missing or self.extra)

    def to_dict(self) -> dict[str, Any]:
        return {
            "intact": self.intact,
            "checked": self.checked,
            "altered": list(self.altered),
            "missing": list(self.missing),
            "extra": list(self.extra),
            "lists_all_files": self.whole,
        }

    def told(self) -> list[str]:
        """One line for each file that is not as described."""
        return [
            *(f"altered: {name}" for name in self.altered),
            *(f"missing: {name}" for name in self.missing),
            *(f"extra: {name}" for name in self.extra),
        ]


def files_of(bundle: Path) -> Iterator[str]:
    """Names of all files, ``/`` between folders, in order; links to files count, links to folders are not followed."""
    for folder, folders, names in os.walk(bundle):
        top = Path(folder) == bundle
        folders[:] = sorted(name for name in folders if not (top and name in NOT_OURS))
        for name in sorted(names):
            if not (top and name in NOT_OURS):
                yield (Path(folder) / name).relative_to(bundle).as_posix()


def file_sizes(bundle: Path) -> dict[str, int]:
    """Bytes of each file by name; a link counts as what it points at, and as nothing where that is missing."""
    found = {name: bundle / name for name in files_of(bundle)}
    return {name: path.stat().st_size if path.exists() else 0 for name, path in found.items()}


def described(manifest: BundleManifest) -> dict[str, str]:
    """Digests that a manifest holds of graphs, engines and what belongs to profiles."""
    found = {manifest.onnx.file: manifest.onnx.sha256, **manifest.onnx.external}
    found |= {engine.file: engine.sha256 for engine in manifest.engines}
    for profile in manifest.profiles:
        found |= {profile.file: profile.sha256, **profile.files}
    return found


def listed(bundle: Path, manifest: BundleManifest, rewritten: Collection[str] = ()) -> BundleManifest:
    """The manifest with a digest of every file that is there now.

    A digest that the manifest holds already stays, so that writing it again does not make an altered file a good one.

    Args:
        rewritten: files that were just written anew.
    """
    named = described(manifest)
    known = {name: sha256 for name, sha256 in manifest.files.items() if name not in rewritten} | named
    names = [
        name
        for name in files_of(bundle)
        if name not in UNLISTED and not name.endswith(".partial") and (name in named or not name.startswith(ENGINES))
    ]
    files = {name: known.get(name) or atomic.sha256_of(bundle / name) for name in names}
    return manifest.model_copy(update={"files": files})


def compare(bundle: Path, manifest: BundleManifest) -> Contents:
    """Hold every file of a bundle against its manifest.

    Raises:
        UserError: when the manifest names a file outside of the bundle, or a file cannot be read.
    """
    expected = manifest.files | described(manifest)
    present = [name for name in files_of(bundle) if name not in UNLISTED]
    altered, missing = [], []
    for name, sha256 in sorted(expected.items()):
        path = atomic.inside(bundle, name, links=True)
        if not path.is_file():
            missing.append(name)
        elif atomic.sha256_of(path) != sha256:
            altered.append(name)
    whole = bool(manifest.files)
    extra = [name for name in present if name not in expected] if whole else []
    return Contents(len(expected) - len(missing), tuple(altered), tuple(missing), tuple(extra), whole)


def require_intact(bundle: Path, manifest: BundleManifest) -> Contents:
    """As :func:`compare`, where every file must be as described.

    Raises:
        UserError: naming the files that are not.
    """
    contents = compare(bundle, manifest)
    told = contents.told()
    if told:
        further = f" and {len(told) - NAMED} more" if len(told) > NAMED else ""
        raise UserError(
            f"{bundle} is not as {MANIFEST_NAME} describes it ({', '.join(told[:NAMED])}{further}); get the bundle "
            "again."
        )
    return contents
