"""TLS for both protocols: the server's certificate and, for mutual TLS, which clients it accepts.

OVMS has no TLS of its own (it wants a proxy in front); the flags have uvicorn's names: --ssl_certfile, --ssl_keyfile
and --ssl_ca_certs. With the last one a client must show a certificate that one of these authorities signed.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from loadproof_server.errors import UsageError


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM; without `ca_certs` every client is accepted."""

    certfile: Path
    keyfile: Path
    ca_certs: Path | None = None

    def context(self, protocol: str) -> ssl.SSLContext:
        """The context for a protocol by its ALPN name; raises UsageError that names the flag of a wrong file."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # TLS 1.2 and 1.3
        context.set_alpn_protocols([protocol])
        for flag, path in (("keyfile", self.keyfile), ("certfile", self.certfile), ("ca_certs", self.ca_certs)):
            if path:
                _read(flag, path)
        try:
            context.load_cert_chain(self.certfile, self.keyfile, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            raise UsageError(
                f"--ssl_certfile, --ssl_keyfile: {self.certfile} and {self.keyfile} are no certificate and its key "
                f"without a passphrase, in PEM ({_reason(error)})"
            ) from None
        if self.ca_certs:
            try:
                context.load_verify_locations(self.ca_certs)
            except ssl.SSLError as error:
                raise UsageError(f"--ssl_ca_certs: {self.ca_certs} has no PEM certificate ({_reason(error)})") from None
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def _read(flag: str, path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise UsageError(f"--ssl_{flag}: {path} cannot be read ({error.strerror})") from None


def _no_password() -> str:
    raise ValueError("the key has a passphrase")  # else OpenSSL would ask the terminal


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)
