"""What only the bus over NATS has: outages, tokens, TLS."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pileus.kernel.faults import Unavailable
from pileus.kernel.nats_bus import NatsBus, NatsSettings
from pileus.kernel.world import World
from pileus.testing.nats_server import nats_server


async def echo(payload: bytes) -> bytes:
    return b"echo " + payload


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 (there is no event to wait for)
            await asyncio.sleep(0.01)


def test_nats_reconnects_after_an_outage_and_serves_again(tmp_path: Path) -> None:
    server = nats_server(tmp_path)

    async def main() -> None:
        here, there = NatsBus(World(), server.settings()), NatsBus(World(), server.settings())
        await here.start()
        await there.start()
        await there.serve("echo", echo)
        await asyncio.to_thread(server.stop)
        await until(lambda: not here.is_connected and not there.is_connected)
        with pytest.raises(Unavailable):
            await here.request("echo", b"", timeout_s=1)
        await here.publish("hint", b"")
        await asyncio.sleep(0.5)
        await asyncio.to_thread(server.start)
        await until(lambda: here.is_connected and there.is_connected)
        assert await here.request("echo", b"back", timeout_s=5) == b"echo back"
        await here.stop()
        await there.stop()

    asyncio.run(main())
    server.stop()


def test_nats_wants_the_right_token_and_start_waits_for_it(tmp_path: Path) -> None:
    server = nats_server(tmp_path, "--auth", "secret")

    async def main() -> None:
        wrong = NatsBus(World(), server.settings(token="guess"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await wrong.start()
        await wrong.stop()
        right = NatsBus(World(), server.settings(token="secret"))
        await right.start()
        await right.serve("echo", echo)
        assert await right.request("echo", b"", timeout_s=5) == b"echo "
        await right.stop()

    asyncio.run(main())
    server.stop()


def test_nats_is_reached_again_after_it_refused_us_for_a_while(tmp_path: Path) -> None:
    server = nats_server(tmp_path)

    async def restart(*options: str) -> None:
        await asyncio.to_thread(server.stop)
        server.options = options
        await asyncio.to_thread(server.start)

    async def main() -> None:
        bus = NatsBus(World(), server.settings())
        await bus.start()
        await bus.serve("echo", echo)
        await restart("--auth", "secret")
        await asyncio.sleep(0.7)
        with pytest.raises(Unavailable):
            await bus.request("echo", b"", timeout_s=0.2)
        await restart()
        await until(lambda: bus.is_connected)
        await asyncio.sleep(0.1)
        assert await bus.request("echo", b"again", timeout_s=5) == b"echo again"
        await bus.stop()

    asyncio.run(main())
    server.stop()


def test_a_connection_that_nats_closes_for_good_is_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rights = "authorization: {users: [{user: pileus, password: %s}]}"
    config = tmp_path / "nats.conf"
    config.write_text(rights % "old")
    server = nats_server(tmp_path, "-c", str(config))

    async def change(password: str) -> None:
        config.write_text(rights % password)
        server.reload()
        await asyncio.sleep(0.5)

    async def main() -> None:
        bus = NatsBus(World(), server.settings(user="pileus", password="old"))
        await bus.start()
        await bus.serve("echo", echo)
        await change("new")
        assert not bus.is_connected
        await change("old")
        await until(lambda: bus.is_connected)
        await asyncio.sleep(0.1)
        assert await bus.request("echo", b"anew", timeout_s=5) == b"echo anew"
        await bus.stop()

    asyncio.run(main())
    server.stop()
    assert "NATS closed the connection" in caplog.text


def test_a_start_before_nats_waits_for_it(tmp_path: Path) -> None:
    server = nats_server(tmp_path)
    server.stop()

    async def main() -> None:
        bus = NatsBus(World(), server.settings())
        starting = asyncio.create_task(bus.start())
        await asyncio.sleep(0.3)
        assert not starting.done()
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(5):
            await starting
        await bus.stop()

    asyncio.run(main())
    server.stop()


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed one for localhost, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, keyfile = folder / "cert.pem", folder / "key.pem"
    pem.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    keyfile.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return pem, keyfile


def test_nats_speaks_tls_and_checks_the_certificate(tmp_path: Path) -> None:
    pem, key = certificate(tmp_path)
    server = nats_server(tmp_path, "--tls", "--tlscert", str(pem), "--tlskey", str(key))
    servers = (f"tls://localhost:{server.port}",)

    async def main() -> None:
        trusting = ssl.create_default_context(cafile=str(pem))
        bus = NatsBus(World(), NatsSettings(servers=servers, tls=trusting))
        await bus.start()
        await bus.serve("echo", echo)
        assert await bus.request("echo", b"tls", timeout_s=5) == b"echo tls"
        await bus.stop()
        strict = ssl.create_default_context()
        suspicious = NatsBus(World(), NatsSettings(servers=servers, tls=strict))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await suspicious.start()
        await suspicious.stop()

    asyncio.run(main())
    server.stop()
