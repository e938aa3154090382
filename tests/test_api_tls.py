"""TLS and mutual TLS of a running api, over HTTP and gRPC, with certificates of their own."""

import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service import errors
from service.api.tls import check_tls
from service.client import Client
from service.settings import Settings
from tests.test_api_app import RUN, free_port


@dataclass
class Authority:
    """Files of an authority, a server's certificate and a caller's."""

    folder: Path

    def __post_init__(self) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.folder / "ca.pem")
        for name in ("127.0.0.1", "caller@example.org"):
            issued = authority.issue_cert(name)
            issued.private_key_pem.write_to_path(self.folder / f"{name}.key")
            for i, pem in enumerate(issued.cert_chain_pems):
                pem.write_to_path(self.folder / f"{name}.pem", append=i > 0)

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def context(self, is_caller: bool) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        if is_caller:
            stem = self.folder / "caller@example.org"
            context.load_cert_chain(f"{stem}.pem", f"{stem}.key")
        return context

    def credentials(self, is_caller: bool) -> grpc.ChannelCredentials:
        if not is_caller:
            return grpc.ssl_channel_credentials(self.read("ca.pem"))
        key, cert = self.read("caller@example.org.key"), self.read("caller@example.org.pem")
        return grpc.ssl_channel_credentials(self.read("ca.pem"), key, cert)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(params=[False, True], ids=["tls", "mtls"])
def api(
    redis_url: str, authority: Authority, request: pytest.FixtureRequest
) -> Iterator[tuple[int, int, bool]]:
    """Ports of HTTP and gRPC, and whether callers need a certificate."""
    port, grpc_port = free_port(), free_port()
    variables = {
        "DIFFPLUGIN_REDIS_URL": redis_url,
        "DIFFPLUGIN_PORT": str(port),
        "DIFFPLUGIN_GRPC_PORT": str(grpc_port),
        "DIFFPLUGIN_TLS_CERT": str(authority.folder / "127.0.0.1.pem"),
        "DIFFPLUGIN_TLS_KEY": str(authority.folder / "127.0.0.1.key"),
        "DIFFPLUGIN_TLS_CLIENT_CA": str(authority.folder / "ca.pem") if request.param else "",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", RUN + "asyncio.run(run_api(Settings()))"],
        env={**os.environ, **variables},
    )
    try:
        yield port, grpc_port, request.param
    finally:
        process.kill()
        process.wait()


def wait_until_live(port: int, context: ssl.SSLContext) -> None:
    give_up_at = time.monotonic() + 100
    with httpx.Client(trust_env=False, verify=context) as client:
        while True:
            try:
                assert client.get(f"https://127.0.0.1:{port}/livez").status_code == 200
                return
            except httpx.TransportError:
                assert time.monotonic() < give_up_at, "the api did not start"
                time.sleep(0.05)


def is_answered_over_grpc(port: int, credentials: grpc.ChannelCredentials) -> bool:
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        try:
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            return False
    return True


def test_both_servers_speak_tls_and_ask_for_certificates_if_told_so(
    api: tuple[int, int, bool], authority: Authority
) -> None:
    port, grpc_port, is_mutual = api
    url = f"https://127.0.0.1:{port}"
    wait_until_live(port, authority.context(is_caller=True))
    tls = authority.context(is_caller=True)
    with Client(url, timeout_s=5, tls=tls) as client, pytest.raises(errors.JobNotFound):
        client.get("nobody")
    with Client(url, timeout_s=5, tls=authority.context(is_caller=False)) as client:
        expected = errors.DiffPluginError if is_mutual else errors.JobNotFound
        with pytest.raises(expected) as caught:
            client.get("nobody")
        assert isinstance(caught.value, errors.JobNotFound) is not is_mutual
    assert is_answered_over_grpc(grpc_port, authority.credentials(is_caller=True))
    assert is_answered_over_grpc(grpc_port, authority.credentials(is_caller=False)) is not is_mutual
    with httpx.Client(trust_env=False) as plain, pytest.raises(httpx.TransportError):
        plain.get(f"http://127.0.0.1:{port}/livez")


def test_half_of_tls_is_refused(authority: Authority) -> None:
    cert, key = authority.folder / "127.0.0.1.pem", authority.folder / "127.0.0.1.key"
    check_tls(Settings())
    check_tls(Settings(tls_cert=cert, tls_key=key, tls_client_ca=authority.folder / "ca.pem"))
    for wrong in (
        {"tls_cert": cert},
        {"tls_key": key},
        {"tls_client_ca": cert},
        {"tls_cert": key, "tls_key": cert},
        {"tls_cert": Path("nowhere"), "tls_key": key},
    ):
        with pytest.raises(errors.InvalidRequest, match="TLS"):
            check_tls(Settings(**wrong))
