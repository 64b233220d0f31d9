"""TLS: who is told apart by a certificate, what is renewed without a restart, which files are refused."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import impasto
from impasto_server import app
from tests.integration.contract.test_operations import value

Png = Callable[..., bytes]


USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def certificate(name: str, signer: tuple[Any, Any] | None = None, begin: datetime.datetime | None = None) -> tuple[Any, Any]:
    """Return a key and a certificate for two days, signed by itself or by a signer's."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begin = begin or datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer[1].subject if signer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key((signer[0] if signer else key).public_key()), critical=False
        )
    )
    if signer is None:
        usage = dict.fromkeys(USAGES, False) | {"digital_signature": True, "key_cert_sign": True, "crl_sign": True}
        builder = builder.add_extension(x509.KeyUsage(**usage), critical=True)
    return key, builder.sign(signer[0] if signer else key, hashes.SHA256())


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, str]:
    """Return the paths of a CA, and of keys and certificates that it signed for a server, for ann and for bob."""
    authority = certificate("CA")
    made = {"ca": authority, **{name: certificate(name, authority) for name in ("server", "ann", "bob")}}
    paths = {}
    for name, (key, cert) in made.items():
        (tmp_path / f"{name}.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        plain = serialization.NoEncryption()
        pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        (tmp_path / f"{name}.key").write_bytes(key.private_bytes(pem, form, plain))
        paths[name], paths[f"{name}_key"] = str(tmp_path / f"{name}.pem"), str(tmp_path / f"{name}.key")
    return paths


async def test_clients_speak_tls_and_are_told_apart_by_their_certificates(service: Any, png: Png, tls: dict[str, str]) -> None:
    """The certificate's name owns the jobs; without one, or without TLS, nobody gets in; the client's errors say so."""
    settings = {"tls_cert": tls["server"], "tls_key": tls["server_key"], "tls_client_ca": tls["ca"]}
    async with service(**settings) as running:
        address = running.running.address

        def credentials(name: str) -> impasto.Credentials:
            return impasto.Credentials(tls_ca=tls["ca"], tls_cert=tls[name], tls_key=tls[f"{name}_key"])

        async with impasto.AsyncClient(address, credentials=credentials("ann")) as ann:
            job = await ann.submit(png(), png(seed=1), steps=2, size_px=48)
            assert (await job.info()).owner == "ann"
        async with impasto.AsyncClient(address, credentials=credentials("bob")) as bob:
            with pytest.raises(impasto.NotFound):
                await bob.job(job.job_id).info()
        for wrong, text in (
            (impasto.Credentials(), "does it require TLS"),
            (impasto.Credentials(tls_ca=tls["ca"]), "does it require a"),
            (impasto.Credentials(tls_ca=tls["ann"]), "is not trusted"),
        ):
            async with impasto.AsyncClient(address, credentials=wrong, patience_s=0) as nobody:
                with pytest.raises(impasto.Unavailable, match=text):
                    await nobody.server_info()


async def test_certificates_are_renewed_without_a_restart(service: Any, tls: dict[str, str], tmp_path: Path) -> None:
    """New connections see the new one; files that do not fit leave the old one; when it expires is a metric."""
    settings = {"tls_cert": tls["server"], "tls_key": tls["server_key"]}
    async with service(**settings) as running:
        address = running.running.address

        async def serial() -> int:
            host, port = address.split(":")
            trusting = ssl.create_default_context(cafile=tls["ca"])
            _, writer = await asyncio.open_connection(host, int(port), ssl=trusting)
            der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.close()
            return x509.load_der_x509_certificate(der).serial_number

        before = await serial()
        Path(tls["server_key"]).write_bytes(Path(tls["bob_key"]).read_bytes())
        await asyncio.sleep(1.1)
        assert await serial() == before
        Path(tls["server"]).write_bytes(Path(tls["bob"]).read_bytes())
        await asyncio.sleep(1.1)
        bob = x509.load_pem_x509_certificate(Path(tls["bob"]).read_bytes())
        assert await serial() == bob.serial_number != before
        for _ in range(100):
            await asyncio.sleep(0.05)
            if value(running.running.metrics, "impasto_tls_certificate_expiry_timestamp_seconds"):
                break
        expiry = value(running.running.metrics, "impasto_tls_certificate_expiry_timestamp_seconds")
        assert expiry == bob.not_valid_after_utc.timestamp()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"tls_key": "ann_key"}, "tls_key does not belong to the first certificate in tls_cert"),
        ({"tls_key": "ca"}, "tls_key: is not a PEM private key"),
        ({"tls_cert": "server_key"}, "tls_cert: has no PEM certificate"),
        ({"tls_client_ca": "picture"}, "tls_client_ca: has no PEM certificate"),
        ({"tls_cert": "nowhere"}, "tls_cert: .*nowhere: No such file or directory"),
    ],
)
async def test_files_that_no_server_can_use_are_named(
    service: Any, tls: dict[str, str], tmp_path: Path, png: Png, given: dict[str, str], text: str
) -> None:
    """By their setting, before anything is served."""
    (tmp_path / "picture").write_bytes(png())
    paths = {**tls, "picture": str(tmp_path / "picture"), "nowhere": str(tmp_path / "nowhere")}
    settings = {"tls_cert": "server", "tls_key": "server_key", **given}
    with pytest.raises(app.StartError, match=text):
        async with service(**{name: paths[file] for name, file in settings.items()}):
            pytest.fail("it serves")


async def test_an_expired_certificate_is_told(service: Any, tls: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    """In the log, at start: the server serves all the same, for who does not look."""
    monday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=3)
    key, expired = certificate("late", begin=monday)
    Path(tls["server"]).write_bytes(expired.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    Path(tls["server_key"]).write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    async with service(tls_cert=tls["server"], tls_key=tls["server_key"]):
        assert "the certificate of CN=late has expired" in caplog.text
