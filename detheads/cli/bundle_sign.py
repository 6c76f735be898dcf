"""``detheads bundle keygen`` and ``sign``, and ``detheads verify --integrity``: whether a bundle is as it was made."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from detheads.cli.output import JsonFlag, emit, remark

if TYPE_CHECKING:
    from detheads.deploy.signature import Signature


def keygen(
    private: Annotated[Path, typer.Argument(help="New file for the private key, in PEM.")],
    public: Annotated[
        Path | None, typer.Option(help="New file for the public key.", show_default="PRIVATE with .pub.pem")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make an Ed25519 key pair to sign bundles with. The private key has no password: keep it to yourself."""
    from detheads.deploy.signature import make_keys

    public = public or private.with_suffix(".pub.pem")
    key = make_keys(private, public)
    answer = {"private": str(private), "public": str(public), "key": key}
    emit(answer, as_json, lambda console: console.print(f"{private}, {public}: {key}"))


def sign(
    bundle: Annotated[Path, typer.Argument(help="Folder NAME.detheads.")],
    key: Annotated[Path, typer.Option(help="Private key, Ed25519 in PEM, without a password.")],
    as_json: JsonFlag = False,
) -> None:
    """Sign a bundle as it is now, in bundle.sig.json. What changes the manifest later asks for a new signature."""
    from detheads.deploy.signature import sign as sign_bundle
    from detheads.foundation.bundle import read_manifest
    from detheads.foundation.contents import SIGNATURE_NAME

    made_with = sign_bundle(bundle, key)
    state = read_manifest(bundle).state
    if state != "verified":
        remark(f"{bundle} is {state}: the signature says who made it, not that it is right")
    answer = {"signature": str(bundle / SIGNATURE_NAME), "key": made_with, "state": state}
    emit(answer, as_json, lambda console: console.print(f"{bundle / SIGNATURE_NAME}: signed with {made_with}"))


def check_integrity(bundle: Path, public_key: Path | None, as_json: bool) -> None:
    """Print which files of a bundle are not as its manifest describes them, and whose signature it has.

    Raises:
        Exit: with code 1, when it is not as it was made, or not as it was signed.
    """
    from detheads.foundation.bundle import read_manifest
    from detheads.foundation.contents import SIGNATURE_NAME, compare

    contents = compare(bundle, read_manifest(bundle))
    signature: Signature | None = None
    if public_key is not None:
        from detheads.deploy.signature import check_signature

        signature = check_signature(bundle, public_key)
    signed = (bundle / SIGNATURE_NAME).is_file()
    good = contents.intact and (signature is None or signature.holds)

    def render(console: Console) -> None:
        verdict = "as it was made" if contents.intact else "NOT as it was made"
        scope = "" if contents.whole else "; an older bundle, which lists graph and engines alone"
        console.print(f"{bundle}: {verdict}, {contents.checked} files compared with their digests{scope}")
        for line in (*contents.told(), *_signature_lines(signed, signature)):
            console.print(line)

    answer = {
        **contents.to_dict(),
        "signed": signed,
        "signature": None
        if signature is None
        else {
            "holds": signature.holds,
            "key": signature.key,
            "changed": list(signature.changed),
            "added": list(signature.added),
        },
    }
    emit(answer, as_json, render)
    if not good:
        raise typer.Exit(1)


def _signature_lines(signed: bool, signature: "Signature | None") -> list[str]:
    if signature is None:
        return [f"{'signed; give --public-key to know by whom' if signed else 'not signed: nothing says who made it'}"]
    return [
        f"signature {'holds' if signature.holds else 'does NOT hold'}: {signature.key}",
        *(f"changed since it was signed: {name}" for name in signature.changed),
        *(f"not signed, added later: {name}" for name in signature.added),
    ]
