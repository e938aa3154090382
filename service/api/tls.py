"""TLS and mutual TLS of both servers, from the same three files."""

import ssl
from typing import Any

import grpc

from service.errors import InvalidRequest
from service.settings import Settings


def check_tls(settings: Settings) -> None:
    """InvalidRequest if the settings name a part of what TLS needs, or files that are no good."""
    cert, key, client_ca = settings.tls_cert, settings.tls_key, settings.tls_client_ca
    if (cert is None) != (key is None):
        raise InvalidRequest("set both DIFFPLUGIN_TLS_CERT and DIFFPLUGIN_TLS_KEY, or neither")
    if cert is None:
        if client_ca is not None:
            raise InvalidRequest("DIFFPLUGIN_TLS_CLIENT_CA needs DIFFPLUGIN_TLS_CERT and its key")
        return
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(cert, key)
        if client_ca is not None:
            context.load_verify_locations(client_ca)
    except (OSError, ssl.SSLError) as error:
        raise InvalidRequest(f"the TLS files cannot be used: {error}") from error


def uvicorn_tls(settings: Settings) -> dict[str, Any]:
    """Options of uvicorn.Config; none without TLS."""
    if settings.tls_cert is None:
        return {}
    options: dict[str, Any] = {
        "ssl_certfile": str(settings.tls_cert),
        "ssl_keyfile": str(settings.tls_key),
    }
    if settings.tls_client_ca is not None:
        options["ssl_ca_certs"] = str(settings.tls_client_ca)
        options["ssl_cert_reqs"] = ssl.CERT_REQUIRED
    return options


def grpc_tls(settings: Settings) -> grpc.ServerCredentials | None:
    """None without TLS."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    pair = (settings.tls_key.read_bytes(), settings.tls_cert.read_bytes())
    if settings.tls_client_ca is None:
        return grpc.ssl_server_credentials([pair])
    roots = settings.tls_client_ca.read_bytes()
    return grpc.ssl_server_credentials([pair], roots, require_client_auth=True)
