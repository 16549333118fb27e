"""Servers that fail in every way there is: TLS that is wrong, answers that never end, connections that are cut."""

import asyncio
import datetime
import gzip
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HOST = "hooks.example.test"


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def issued(name: str, *, by: Issued | None = None, ca: bool = False, host: str = HOST, days: int = 30) -> Issued:
    """A fresh certificate. Negative days: it expired so long ago."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    start = now - datetime.timedelta(days=60)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if not ca:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
    return Issued(builder.sign(by.key if by else key, hashes.SHA256()), key)


@dataclass(frozen=True, slots=True)
class Authorities:
    """A root that is trusted, and an intermediate below it."""

    root: Issued
    between: Issued
    bundle: Path

    def context(self, folder: Path, leaf: Issued, *, chain: bool = True) -> ssl.SSLContext:
        """A server's TLS with that leaf; without `chain` the intermediate is not served."""
        file = folder / f"{leaf.certificate.serial_number}.pem"
        file.write_bytes(leaf.key_pem() + leaf.pem() + (self.between.pem() if chain else b""))
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(file)
        return made


def authorities(folder: Path) -> Authorities:
    root = issued("root", ca=True)
    bundle = folder / "root.pem"
    bundle.write_bytes(root.pem())
    return Authorities(root, issued("between", by=root, ca=True), bundle)


@asynccontextmanager
async def serving(serve: Serve, *, tls: ssl.SSLContext | None = None):  # type: ignore[no-untyped-def]
    """The port of a server on loopback."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            writer.close()

    async with AsyncExitStack() as leaving:
        server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
        leaving.callback(server.close)
        yield server.sockets[0].getsockname()[1]


async def asked(reader: asyncio.StreamReader) -> None:
    """Reads one request."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    await reader.readexactly(length)


def says(content: bytes) -> Serve:
    """Answers with these bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(content)
        await writer.drain()

    return serve


def status(number: int, *lines: str) -> Serve:
    """Answers with that status."""
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {number} X", "Content-Length: 0", *lines))
    return says(head.encode() + b"\r\n")


async def never(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Reads and says nothing."""
    await reader.read()


def then_hangs(content: bytes) -> Serve:
    """Says this much, and then nothing."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(content)
        await writer.drain()
        await reader.read()

    return serve


def dripping(every_sec: float) -> Serve:
    """A byte of the body every so often, for ever."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(every_sec)

    return serve


drips = dripping(0.1)


async def drips_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A header every twentieth of a second, for ever."""
    await asked(reader)
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-More: yes\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


async def endless_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As many headers as the client takes, up to 20 MB."""
    await asked(reader)
    writer.write(b"HTTP/1.1 200 OK\r\n")
    for _ in range(2000):
        writer.write(b"X-More: " + b"y" * 10_000 + b"\r\n")
        await writer.drain()


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Cuts the connection in the middle of the request."""
    await reader.read(10)
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def fifty_megabytes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As much as the client takes, up to 50 MB."""
    await asked(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 52428800\r\n\r\n")
    for _ in range(800):
        writer.write(b"x" * 65_536)
        await writer.drain()


def gzip_bomb() -> Serve:
    """10 MB in 10 kB."""
    packed = gzip.compress(b"\0" * 10_000_000)
    head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n"
    return says(head.encode() + packed)
