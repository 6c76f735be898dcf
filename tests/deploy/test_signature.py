"""A signed bundle is known as its maker's; anything else about it is told in one sentence."""

import json
import shutil
import stat
from pathlib import Path

import pytest

from detheads.deploy.signature import check_signature, make_keys, sign
from detheads.foundation import atomic
from detheads.foundation.bundle import read_manifest, write_manifest
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import EngineEntry
from tests.foundation.test_bundle import change

serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization", reason="needs detheads[sign]")


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    private, public = tmp_path / "maker.pem", tmp_path / "maker.pub.pem"
    make_keys(private, public)
    return private, public


@pytest.fixture
def signed(bundle: Path, keys: tuple[Path, Path], tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(bundle, tmp_path / "signed.detheads"))
    sign(copy, keys[0])
    return copy


def test_a_signed_bundle_holds_under_its_makers_key(signed: Path, keys: tuple[Path, Path]) -> None:
    checked = check_signature(signed, keys[1])
    assert checked.holds
    assert checked.key.startswith("SHA256:")
    assert (checked.changed, checked.added) == ((), ())


def test_the_envelope_is_dsse_that_others_can_check(signed: Path, keys: tuple[Path, Path]) -> None:
    """Written out after the DSSE protocol, 1.0.2, by hand."""
    import base64

    envelope = json.loads((signed / "bundle.sig.json").read_text())
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"].encode()
    said = b" ".join([b"DSSEv1", str(len(kind)).encode(), kind, str(len(payload)).encode(), payload])
    key = serialization.load_pem_public_key(keys[1].read_bytes())
    key.verify(base64.b64decode(envelope["signatures"][0]["sig"]), said)
    assert json.loads(payload) == json.loads((signed / "bundle.json").read_text())


def test_a_changed_manifest_is_named_part_by_part(signed: Path, keys: tuple[Path, Path]) -> None:
    change(signed, "name", "other")
    change(signed, "backbone.licence", "mine")
    assert check_signature(signed, keys[1]).changed == ("backbone", "name")


def test_an_engine_built_later_breaks_nothing_and_is_told(signed: Path, keys: tuple[Path, Path]) -> None:
    engine = signed / "engines" / "own.engine"
    engine.parent.mkdir()
    engine.write_bytes(b"engine")
    entry = EngineEntry(
        file="engines/own.engine",
        sha256=atomic.sha256_of(engine),
        bytes=6,
        builder="tensorrt_rtx 1.7",
        batch=(1, 4, 8),
        compute_capabilities=["SM89"],
        build_seconds=1.0,
        layer_types={},
        status="built, not executed",
    )
    write_manifest(signed, read_manifest(signed).model_copy(update={"engines": [entry]}))
    checked = check_signature(signed, keys[1])
    assert checked.holds
    assert checked.added == ("engines/own.engine",)


def test_another_key_a_forged_signature_and_no_signature_are_refused(
    signed: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    make_keys(tmp_path / "other.pem", tmp_path / "other.pub.pem")
    with pytest.raises(UserError, match=r"was signed with another key \(SHA256:.*\) than that of .*other\.pub\.pem"):
        check_signature(signed, tmp_path / "other.pub.pem")
    envelope = json.loads((signed / "bundle.sig.json").read_text())
    envelope["payload"] = "e30="
    (signed / "bundle.sig.json").write_text(json.dumps(envelope))
    with pytest.raises(UserError, match=r"bundle\.sig\.json was changed: the signature does not hold"):
        check_signature(signed, keys[1])
    (signed / "bundle.sig.json").write_text('{"payload": 1}')
    with pytest.raises(UserError, match="is not a signature of"):
        check_signature(signed, keys[1])
    (signed / "bundle.sig.json").unlink()
    with pytest.raises(UserError, match="is not signed"):
        check_signature(signed, keys[1])


def test_an_altered_bundle_is_not_signed(signed: Path, keys: tuple[Path, Path]) -> None:
    (signed / "report.md").write_text("other")
    with pytest.raises(UserError, match=r"altered: report\.md"):
        sign(signed, keys[0])


def test_keys_that_do_not_fit_are_refused_in_a_sentence(bundle: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    curve = ec.generate_private_key(ec.SECP256R1())
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "curve.pem").write_bytes(curve.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    secret = serialization.BestAvailableEncryption(b"word")
    (tmp_path / "locked.pem").write_bytes(curve.private_bytes(pem, pkcs8, secret))
    (tmp_path / "text.pem").write_text("no key")
    for name, sentence in (("curve", "not an Ed25519 key"), ("locked", "encrypted with a password"),
                           ("text", "not a private key"), ("absent", "does not exist")):  # fmt: skip
        with pytest.raises(UserError, match=sentence):
            sign(bundle, tmp_path / f"{name}.pem")
    with pytest.raises(UserError, match="not a private key"):
        sign(bundle, keys[1])
    with pytest.raises(UserError, match="not a public key"):
        check_signature(bundle, keys[0])


def test_a_private_key_is_its_owners_alone_and_never_overwritten(keys: tuple[Path, Path]) -> None:
    assert stat.S_IMODE(keys[0].stat().st_mode) == 0o600
    with pytest.raises(UserError, match="exists; a key is never overwritten"):
        make_keys(*keys)
