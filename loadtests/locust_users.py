"""Locust users: callers over HTTP and over gRPC, and one whose upload crawls.

Each sends an edit every `pacing_s` seconds (a closed model: never two at once), or the next one at
once with 0. They also work without the scenarios beside them:
locust -f loadtests/locust_users.py --host http://127.0.0.1:8000
"""

import random
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import gevent
import grpc
import grpc.experimental.gevent
from locust import FastHttpUser, User, constant_pacing, task

from loadtests.traffic import HEADERS, Mix, Wish
from service.pb.diffplugin.v1 import edit_pb2, edit_pb2_grpc

TIMEOUT_S = 120.0
SLOW_PARTS, SLOW_PAUSE_S = 20, 0.2

grpc.experimental.gevent.init_gevent()


class Caller(User):
    """What all callers share; the scenario sets these on the class."""

    abstract = True
    mix: Mix | None = None
    pacing: Callable[[], float] = staticmethod(lambda: 1.0)
    grpc_target = "127.0.0.1:50051"

    def on_start(self) -> None:
        gevent.sleep(random.uniform(0, self.pacing()))  # so that they do not all begin at once

    def wait_time(self) -> float:
        return constant_pacing(self.pacing())(self)

    def wish(self) -> Wish:
        if Caller.mix is None:
            Caller.mix = Mix()
        return Caller.mix.pick()

    def tell(self, kind: str, wish: Wish, began: float, error: Exception | None, size: int) -> None:
        """A request that Locust did not send itself."""
        self.environment.events.request.fire(
            request_type=kind,
            name=name_of(kind, wish),
            response_time=1e3 * (time.perf_counter() - began),
            response_length=size,
            exception=error,
            context={},
        )


def name_of(kind: str, wish: Wish) -> str:
    return f"{kind} {wish.size}"


class HttpCaller(Caller, FastHttpUser):
    """POST /v1/edit."""

    connection_timeout = network_timeout = TIMEOUT_S

    @task
    def edit(self) -> None:
        wish = self.wish()
        sent: dict[str, Any] = {"data": wish.form, "headers": HEADERS, "catch_response": True}
        with self.client.post("/v1/edit", name=name_of("HTTP", wish), **sent) as answer:
            if answer.status_code != 200:
                answer.failure(f"{answer.status_code}: {answer.text!r:.200}")
            elif not (answer.content or b"").startswith(b"\x89PNG"):
                answer.failure("the answer is not a PNG")


class GrpcCaller(Caller):
    """EditService.Edit, on a channel of its own."""

    def on_start(self) -> None:
        self.channel = grpc.insecure_channel(
            self.grpc_target, options=[("grpc.enable_http_proxy", 0)]
        )
        self.stub = edit_pb2_grpc.EditServiceStub(self.channel)
        super().on_start()

    def on_stop(self) -> None:
        self.channel.close()

    @task
    def edit(self) -> None:
        wish = self.wish()
        plugins = [wish.plugin] if wish.plugin else []
        request = edit_pb2.EditRequest(
            image=wish.image, instruction=wish.instruction, plugins=plugins
        )
        began, error, size = time.perf_counter(), None, 0
        try:
            size = len(self.stub.Edit(request, timeout=TIMEOUT_S).image)
        except grpc.RpcError as failed:
            error = failed
        self.tell("gRPC", wish, began, error, size)


class SlowCaller(Caller):
    """Takes four seconds to send its picture; its time counts from the last byte on."""

    @task
    def edit(self) -> None:
        wish = self.wish()
        began, error, size = time.perf_counter(), None, 0
        try:
            with self._connect() as connection:
                self._send_slowly(connection, wish.form)
                began = time.perf_counter()
                size = self._receive(connection)
        except (OSError, ValueError) as failed:
            error = failed
        self.tell("slow", wish, began, error, size)

    def _connect(self) -> socket.socket:
        where = urlsplit(self.environment.host or "")
        return socket.create_connection((where.hostname, where.port), TIMEOUT_S)

    def _send_slowly(self, connection: socket.socket, body: bytes) -> None:
        headers = {
            **HEADERS,
            "Host": "127.0.0.1",
            "Content-Length": len(body),
            "Connection": "close",
        }
        lines = [f"{name}: {value}" for name, value in headers.items()]
        connection.sendall("\r\n".join(["POST /v1/edit HTTP/1.1", *lines, "", ""]).encode())
        step = len(body) // SLOW_PARTS + 1
        for start in range(0, len(body), step):
            connection.sendall(body[start : start + step])
            gevent.sleep(SLOW_PAUSE_S)

    def _receive(self, connection: socket.socket) -> int:
        """Bytes of the answer; ValueError if it is no success."""
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
        if not answer.startswith(b"HTTP/1.1 200"):
            raise ValueError(f"answered {answer[:120]!r}")
        return len(answer)
