"""Profiles on their way into a bundle: refused, built, written, listed in the manifest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from detheads import __version__
from detheads.backbones.features import FeatureSpec
from detheads.export.onnx_export import write_onnx
from detheads.export.profiles import load_profile, require_names
from detheads.export.profiles.profile import Request
from detheads.foundation import atomic
from detheads.foundation.bundle import write_manifest
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import BundleManifest, ProfileEntry

FOLDER: Final = "profiles"


def require_profiles(names: Sequence[str], spec: FeatureSpec, heads: int = 1) -> None:
    """Refuse profiles that a model cannot have, before any work.

    Args:
        spec: of the model's input.
        heads: how many heads the graph is to have.

    Raises:
        UserError: for the first that is unknown, or whose host cannot take such a model.
    """
    for name in require_names(names):
        if heads > 1:
            raise UserError(f"the profile {name} is of one head, and {heads} are given; export each of them with it.")
        if reason := load_profile(name).refuse(spec):
            raise UserError(f"there is no profile {name} of this model: {reason}.")


def add_profiles(folder: Path, manifest: BundleManifest, names: Sequence[str], request: Request) -> BundleManifest:
    """Write the files of profiles below ``folder/profiles``, and list them in the manifest.

    Raises:
        UserError: see :func:`require_profiles`, and when a graph cannot be written.
    """
    require_profiles(names, request.spec, len(manifest.heads))
    entries = []
    for name in require_names(names):
        profile = load_profile(name)
        built = profile.build(request)
        place = f"{FOLDER}/{name}"
        path = folder / place / built.file
        write_onnx(
            built.graph,
            path,
            {
                **manifest.graph_metadata(),
                "detheads.version": __version__,
                "detheads.precision": manifest.precision,
                "detheads.profile": name,
                **built.metadata,
            },
        )
        for file, text in built.texts.items():
            atomic.write_text(folder / place / file, text)
        entries.append(
            ProfileEntry(
                name=name,
                file=f"{place}/{built.file}",
                sha256=atomic.sha256_of(path),
                bytes=path.stat().st_size,
                host=profile.host,
                preprocessing=profile.preprocessing,
                files={f"{place}/{file}": atomic.sha256_of(folder / place / file) for file in built.texts},
            )
        )
    written = [file for entry in entries for file in entry.files]
    return write_manifest(folder, manifest.model_copy(update={"profiles": entries}), rewritten=written)


def unproven(names: Sequence[str]) -> tuple[str, ...]:
    """A remark that profiles were made and not proven; none where there are none."""
    return (f"the profiles {', '.join(names)} are unverified, too",) if names else ()
