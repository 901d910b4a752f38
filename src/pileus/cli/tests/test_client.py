"""The small client against a small server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pileus.cli.background import READY, exports
from pileus.cli.client import ApiError, Client, Credentials, Unreachable

ERRORS = {
    "/compute/nova": {"itemNotFound": {"code": 404, "message": "Instance x could not be found."}},
    "/compute/neutron": {"NeutronError": {"type": "X", "message": "No such port", "detail": ""}},
    "/compute/placement": {"errors": [{"status": 404, "detail": "No provider", "code": "c"}]},
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status: int, body: object, **headers: str) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if self.path in ERRORS:
            self.answer(404, ERRORS[self.path])
        else:
            self.answer(200, {"token": self.headers["X-Auth-Token"], "path": self.path})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        user = asked["auth"]["identity"]["password"]["user"]
        if user["password"] != "right":
            self.answer(401, {"error": {"code": 401, "message": "The password is wrong."}})
            return
        url = f"http://{self.headers['Host']}/compute/"
        endpoints = [{"interface": i, "url": url + i} for i in ("internal", "public")]
        endpoints[1]["url"] = url
        catalog = [{"type": "compute", "endpoints": endpoints}]
        token = {"project": {"id": "p1"}, "catalog": catalog}
        self.answer(201, {"token": token}, X_Subject_Token="secret")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/identity"
    server.shutdown()
    server.server_close()
    thread.join()


def client(url: str, password: str = "right") -> Client:
    return Client(Credentials(url, "admin", password, "admin"), timeout_s=5)


def test_the_first_call_logs_in_and_goes_where_the_catalog_says(url: str) -> None:
    answer = client(url).call("GET", "compute", "/servers?name=a")
    assert answer == {"token": "secret", "path": "/compute/servers?name=a"}


def test_a_wrong_password_is_told_in_the_clouds_own_words(url: str) -> None:
    with pytest.raises(ApiError, match=r"answered 401: The password is wrong\."):
        client(url, "wrong").login()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/nova", "Instance x could not be found."),
        ("/neutron", "No such port"),
        ("/placement", "No provider"),
    ],
)
def test_the_message_is_found_in_every_dialect(url: str, path: str, words: str) -> None:
    with pytest.raises(ApiError) as caught:
        client(url).call("GET", "compute", path)
    assert (caught.value.status, caught.value.message) == (404, words)


def test_a_cloud_that_is_not_there_is_unreachable() -> None:
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9"):
        client("http://127.0.0.1:9/identity").login()


def test_the_lines_of_pileus_env_are_read_as_a_shell_reads_them() -> None:
    text = "export OS_USERNAME=admin\nexport OS_PASSWORD='a b'\"'\"'c'\n"
    assert exports(text) == {"OS_USERNAME": "admin", "OS_PASSWORD": "a b'c"}


def test_the_ready_line_gives_the_url_and_the_time() -> None:
    found = READY.search("noise\nready http://127.0.0.1:5000 in 812 ms\n")
    assert found is not None and found.groups() == ("http://127.0.0.1:5000", "812")
