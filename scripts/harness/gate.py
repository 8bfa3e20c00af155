"""A gate that speaks TLS before the simulated exchange, with whatever certificate a fault wants it to show."""

import asyncio
import contextlib
import ssl
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

_READ = 1 << 16
_HERE = "IP:127.0.0.1,IP:::1"
#: What the gate may show: the names in the certificate, and for how many days it is valid.
_SHOWN = {"good": (_HERE, "2"), "other": ("DNS:other.example", "2"), "expired": (_HERE, "-1"), "stranger": (_HERE, "2")}


def certificates(folder: Path) -> None:
    """Make an authority, `ca.pem`, and the certificates of `_SHOWN`; nobody vouches for the stranger's.

    Raises:
        RuntimeError: openssl cannot.
    """

    def openssl(*arguments: str) -> None:
        done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"openssl: {done.stderr[-200:]}")

    new = ("req", "-newkey", "rsa:2048", "-nodes")
    usage = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
    for name in ("ca", "nobody"):
        openssl(
            *new, "-x509", "-days", "2", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem", *usage
        )
    for name, (names, days) in _SHOWN.items():
        (folder / "names").write_text(f"subjectAltName={names}\n")
        openssl(*new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signer = "nobody" if name == "stranger" else "ca"
        by = ("-CA", f"{signer}.pem", "-CAkey", f"{signer}.key", "-CAcreateserial", "-days", days)
        openssl("x509", "-req", "-in", f"{name}.csr", *by, "-extfile", "names", "-out", f"{name}.pem")


class Gate:
    """A context manager: `port` is open, and everything that comes is passed on to the port `to`, without TLS.

    `shows` is the certificate of new connections; "cut" ends them in the middle of the handshake.
    """

    def __init__(self, folder: Path) -> None:
        certificates(folder)
        self.shows = "good"
        self.to = 0
        self.port = 0
        self.authority = folder / "ca.pem"
        self._contexts = {name: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for name in _SHOWN}
        for name, context in self._contexts.items():
            context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._enter, "127.0.0.1", 0), self._loop).result(
            10
        )
        self.port = server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def urls(self) -> dict[str, str]:
        """Return the variables that lead through the gate."""
        place = f"127.0.0.1:{self.port}"
        return {
            "OKX_WS_URL": f"wss://{place}",
            "OKX_REST_URL": f"https://{place}",
            "SSL_CERT_FILE": str(self.authority),
        }

    async def _enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shows = self.shows
        inside: asyncio.StreamWriter | None = None
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if shows == "cut":
                await reader.readexactly(1)
                writer.transport.abort()
                return
            await writer.start_tls(self._contexts[shows])
            source, inside = await asyncio.open_connection("127.0.0.1", self.to)
            ways = [asyncio.ensure_future(_pass_on(reader, inside)), asyncio.ensure_future(_pass_on(source, writer))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
        for one in (writer, inside):
            if one is not None:
                one.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_READ):
            writer.write(data)
            await writer.drain()
