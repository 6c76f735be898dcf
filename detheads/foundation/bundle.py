"""A bundle folder ``name.detheads/`` as it is read: its manifest, and its files compared with their digests."""

from collections.abc import Collection
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from detheads.foundation import atomic
from detheads.foundation.contents import MANIFEST_NAME, listed
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import SCHEMA_VERSION, BundleManifest, EngineEntry, ProfileEntry
from detheads.foundation.onnx_files import external_files
from detheads.foundation.reading import read_json

LFS_POINTER: Final = b"version https://git-lfs.github.com/spec/"
LONGEST_POINTER: Final = 1024
"""Bytes of a Git LFS pointer are fewer."""


def read_manifest(bundle: str | Path) -> BundleManifest:
    """Read and validate ``bundle/bundle.json``.

    Raises:
        UserError: when the folder is not a bundle, or the manifest is not of a schema that this version knows.
    """
    bundle = Path(bundle)
    path = bundle / MANIFEST_NAME
    if not path.is_file():
        raise UserError(_no_bundle(bundle))
    document = read_json(path)
    found = document.get("schema_version") if isinstance(document, dict) else None
    if isinstance(found, int) and found > SCHEMA_VERSION:
        raise UserError(
            f"{path} was written by a newer detheads (schema {found}, this version knows up to {SCHEMA_VERSION}); "
            "upgrade: pip install -U detheads."
        )
    try:
        return BundleManifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "top level"
        raise UserError(f"{path} is not a valid bundle manifest: {where}: {first['msg']}.") from None


def _no_bundle(given: Path) -> str:
    """What was given instead of a bundle, and what to give."""
    if given.is_file():
        if (given.parent / MANIFEST_NAME).is_file():
            return f"{given} is a file of a bundle; give the folder that holds it, {given.parent}."
        if given.suffix == ".onnx":
            return f"{given} is a graph alone; the runtime needs the whole folder NAME.detheads of 'detheads export'."
        return f"{given} is a file, and a bundle is a folder NAME.detheads; unpack it first if it holds one."
    if not given.exists():
        return f"{given} does not exist; make a bundle with 'detheads export'."
    if any(given.glob("*.onnx")):
        return f"{given} has a graph but no {MANIFEST_NAME}: it was copied in part; copy the whole folder again."
    inner = sorted(path.parent for path in given.glob(f"*/{MANIFEST_NAME}"))
    advice = f"give the one inside, {inner[0]}" if len(inner) == 1 else "make one with 'detheads export'"
    return f"{given} is not a bundle: it has no {MANIFEST_NAME}; {advice}."


def onnx_file(bundle: str | Path, manifest: BundleManifest) -> Path:
    """The graph of a bundle, after it and every file it reads were compared with the manifest's digests.

    Raises:
        UserError: when a file is missing, outside the bundle, not the one the manifest describes, or not described.
    """
    bundle = Path(bundle)
    path = _checked(bundle, manifest.onnx.file, manifest.onnx.sha256, manifest.onnx.bytes)
    for name in sorted(external_files(path)):
        inside = (path.parent / name).relative_to(bundle).as_posix() if not Path(name).is_absolute() else name
        if inside not in manifest.onnx.external:
            raise UserError(
                f"{path} reads weights from {name!r}, whose digest {MANIFEST_NAME} does not hold, so that nobody would "
                "notice a change of it; export the model again."
            )
        _checked(bundle, inside, manifest.onnx.external[inside], None)
    return path


def engine_file(bundle: str | Path, entry: EngineEntry) -> Path:
    """An engine of a bundle, after its SHA-256 was compared with the manifest's.

    Raises:
        UserError: when the file is missing, outside the bundle, or not the one the manifest describes.
    """
    return _checked(Path(bundle), entry.file, entry.sha256, entry.bytes)


def profile_file(bundle: str | Path, entry: ProfileEntry) -> Path:
    """The graph of a profile, after it and every file beside it were compared with the manifest's digests.

    Raises:
        UserError: when a file is missing, outside the bundle, or not the one the manifest describes.
    """
    for name, sha256 in entry.files.items():
        _checked(Path(bundle), name, sha256, None)
    return _checked(Path(bundle), entry.file, entry.sha256, entry.bytes)


def _checked(bundle: Path, name: str, sha256: str, size: int | None) -> Path:
    path = atomic.inside(bundle, name, links=True)  # links may point out: the digest says what they must point at
    if not path.is_file():
        what = f"is a link to {path.readlink()}, which does not exist" if path.is_symlink() else "is missing"
        raise UserError(f"{path} {what}; copy the whole bundle again.")
    found = path.stat().st_size
    if found < LONGEST_POINTER and path.read_bytes().startswith(LFS_POINTER):
        raise UserError(f"{path} is a Git LFS pointer and not the file itself; fetch that with 'git lfs pull'.")
    if size is not None and found < size:
        raise UserError(f"{path} has {found:,} of its {size:,} bytes: it was copied in part; copy it again.")
    if atomic.sha256_of(path) != sha256:
        raise UserError(
            f"{path} is not the file that {MANIFEST_NAME} describes (SHA-256 differs); copy the bundle again, or "
            "export it again."
        )
    return path


def write_manifest(bundle: Path, manifest: BundleManifest, rewritten: Collection[str] = ()) -> BundleManifest:
    """Write ``bundle/bundle.json`` atomically, with the digests of all files that are there (see :func:`listed`).

    Args:
        rewritten: files that were just written anew.

    Returns:
        The manifest as it was written.
    """
    manifest = listed(bundle, manifest, rewritten)
    atomic.write_json(bundle / MANIFEST_NAME, manifest.model_dump(mode="json"))
    return manifest
