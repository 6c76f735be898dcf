"""Signed bundles: an Ed25519 signature over the manifest, which holds the digest of every file.

``bundle.sig.json`` is a DSSE envelope (secure-systems-lab/dsse, protocol 1.0.2) whose payload is the manifest as it was
signed, as JSON with sorted keys and without spaces, in UTF-8. Carrying the payload, it also tells what came later: an
engine that was built on the device is no forgery, but nobody signed it.
"""

import base64
import binascii
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from detheads.foundation import atomic
from detheads.foundation.bundle import read_manifest
from detheads.foundation.contents import MANIFEST_NAME, SIGNATURE_NAME, require_intact
from detheads.foundation.errors import UserError
from detheads.foundation.reading import read_bytes, read_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PAYLOAD_TYPE: Final = "application/vnd.detheads.bundle+json"
LARGEST_KEY: Final = 1 << 20
"""Bytes; an Ed25519 key in PEM has about 120."""


@dataclass(frozen=True)
class Signature:
    """A signature that was checked.

    Attributes:
        key: fingerprint of the key that it was made with: SHA-256 of the public key, base64.
        changed: parts of the manifest that are not as they were signed; empty where it holds.
        added: files that came later and that nobody signed.
    """

    key: str
    changed: tuple[str, ...]
    added: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.changed


def make_keys(private: Path, public: Path) -> str:
    """Write a new key pair as PEM files, the private one readable by its owner alone; returns the fingerprint.

    Raises:
        UserError: when one of the files exists.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    for path in (private, public):
        if path.exists():
            raise UserError(f"{path} exists; a key is never overwritten, choose another name.")
        atomic.try_output(path)
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    shown = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    descriptor = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(secret)
    atomic.write_bytes(public, shown)
    return fingerprint(key.public_key())


def sign(bundle: Path, key_file: Path) -> str:
    """Sign a bundle as it is; returns the key's fingerprint.

    Raises:
        UserError: when the key cannot be used, or a file of the bundle is not the one that the manifest describes.
    """
    key = _private_key(key_file)
    if not require_intact(bundle, read_manifest(bundle)).whole:
        raise UserError(
            f"{bundle} was made by an older version and lists not all of its files; export it again to sign it."
        )
    payload = _canonical(read_json(bundle / MANIFEST_NAME))
    signature = key.sign(_encoded(payload))
    print_of_key = fingerprint(key.public_key())
    envelope = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": print_of_key, "sig": base64.b64encode(signature).decode()}],
    }
    atomic.write_json(bundle / SIGNATURE_NAME, envelope)
    return print_of_key


def check_signature(bundle: Path, key_file: Path) -> Signature:
    """Whether a bundle is as the holder of a key signed it. Files are held against the manifest elsewhere.

    Raises:
        UserError: when the bundle is not signed, the key cannot be used or is another one than it was signed with, or
            the signature is not of that key.
    """
    from cryptography.exceptions import InvalidSignature

    key = _public_key(key_file)
    path = bundle / SIGNATURE_NAME
    if not path.is_file():
        raise UserError(f"{bundle} is not signed: it has no {SIGNATURE_NAME}; sign it with 'detheads bundle sign'.")
    payload, signature, made_with = _opened(path)
    own = fingerprint(key)
    if made_with != own:
        raise UserError(
            f"{bundle} was signed with another key ({made_with}) than that of {key_file} ({own}); ask its maker for "
            "the public key."
        )
    try:
        key.verify(signature, _encoded(payload))
        signed = json.loads(payload)
    except (InvalidSignature, ValueError):
        raise UserError(f"{path} was changed: the signature does not hold; get the bundle again.") from None
    read_manifest(bundle)  # what is compared is the file itself, since reading adds what newer versions know
    return _compared(own, signed, read_json(bundle / MANIFEST_NAME))


def fingerprint(key: "Ed25519PublicKey") -> str:
    """SHA-256 of a public key, as OpenSSH writes it."""
    digest = hashlib.sha256(key.public_bytes_raw()).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def _compared(key: str, signed: Any, found: dict[str, Any]) -> Signature:
    """What differs between the manifest as it was signed and as it is. Engines may have been added, and their files."""
    changed = [name for name in sorted(signed.keys() | found.keys()) if signed.get(name) != found.get(name)]
    added: list[str] = []
    if "engines" in changed and all(entry in found["engines"] for entry in signed["engines"]):
        changed.remove("engines")
    if "files" in changed and signed["files"].items() <= found["files"].items():
        changed.remove("files")
        added = sorted(found["files"].keys() - signed["files"].keys())
    return Signature(key, tuple(changed), tuple(added))


def _opened(path: Path) -> tuple[bytes, bytes, str]:
    """Payload, signature and key id of an envelope."""
    document = read_json(path)
    try:
        (entry,) = document["signatures"]
        payload = base64.b64decode(document["payload"], validate=True)
        signature = base64.b64decode(entry["sig"], validate=True)
        if document["payloadType"] != PAYLOAD_TYPE:
            raise ValueError
        return payload, signature, str(entry["keyid"])
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise UserError(f"{path} is not a signature of 'detheads bundle sign'; get the bundle again.") from None


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode(
        "utf-8", "surrogatepass"
    )


def _encoded(payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _private_key(path: Path) -> "Ed25519PrivateKey":
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        key = serialization.load_pem_private_key(read_bytes(path, LARGEST_KEY), password=None)
    except TypeError:
        raise UserError(f"{path} is encrypted with a password; give a key without one.") from None
    except ValueError:
        raise UserError(f"{path} is not a private key in PEM; make one with 'detheads bundle keygen'.") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"{path} is not an Ed25519 key; make one with 'detheads bundle keygen'.")
    return key


def _public_key(path: Path) -> "Ed25519PublicKey":
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = serialization.load_pem_public_key(read_bytes(path, LARGEST_KEY))
    except ValueError:
        raise UserError(f"{path} is not a public key in PEM; 'detheads bundle keygen' makes a pair.") from None
    if not isinstance(key, Ed25519PublicKey):
        raise UserError(f"{path} is not an Ed25519 key; 'detheads bundle keygen' makes a pair.")
    return key
