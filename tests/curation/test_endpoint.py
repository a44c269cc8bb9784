"""The client against a real server on this machine: what is sent, what is retried, what is an error."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kineograph.curation.endpoint import Endpoint
from kineograph.errors import InputError, ResourceError


class Server(ThreadingHTTPServer):
    """Answers with a list of `(status, headers, body)`, the last one for ever, and remembers what it was asked."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.asked = [], []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.path, dict(self.headers), json.loads(data)))
        status, headers, body = self.server.answers.pop(0) if len(self.server.answers) > 1 else self.server.answers[0]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def said(text):
    return 200, {"Content-Type": "application/json"}, json.dumps({"choices": [{"message": {"content": text}}]}).encode()


@pytest.fixture
def server():
    one = Server()
    thread = threading.Thread(target=one.serve_forever, args=(0.01,))
    thread.start()
    yield one
    one.shutdown()
    thread.join()
    one.server_close()


def test_a_question_with_pictures_in_the_protocols_words(server, monkeypatch):
    monkeypatch.setenv("KG_TEST_KEY", "secret")
    server.answers = [said("  a cat \n")]
    endpoint = Endpoint(server.url, "vlm-7b", api_key_env="KG_TEST_KEY")
    assert endpoint.ask("What?", [b"\xff\xd8one", b"two"], 33) == "a cat"
    ((path, headers, body),) = server.asked
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("vlm-7b", 33, 0)
    text, first, second = body["messages"][0]["content"]
    assert text == {"type": "text", "text": "What?"}
    assert base64.b64decode(first["image_url"]["url"].removeprefix("data:image/jpeg;base64,")) == b"\xff\xd8one"
    assert second["type"] == "image_url"
    assert "secret" not in repr(endpoint)


def test_text_alone_is_a_plain_string_and_no_key_is_sent(server):
    server.answers = [said("yes")]
    assert Endpoint(server.url + "/", "llm").ask("Is it?") == "yes"
    _, headers, body = server.asked[0]
    assert body["messages"] == [{"role": "user", "content": "Is it?"}]
    assert "Authorization" not in headers


def test_what_may_pass_is_tried_again(server):
    server.answers = [(503, {}, b"busy"), (429, {"Retry-After": "0.01"}, b""), said("at last")]
    assert Endpoint(server.url, "m", pause=0.01).ask("?") == "at last"
    assert len(server.asked) == 3
    server.answers = [(500, {}, b"broken")]
    with pytest.raises(ResourceError, match="gave no answer in 2 attempts: HTTP 500"):
        Endpoint(server.url, "m", attempts=2, pause=0.01).ask("?")
    assert len(server.asked) == 5


def test_the_server_says_how_long_to_wait(server, monkeypatch):
    waits = []
    monkeypatch.setattr("kineograph.curation.endpoint.time.sleep", waits.append)
    server.answers = [(429, {"Retry-After": "7"}, b""), (503, {"Retry-After": "9999"}, b""), (502, {}, b""), said("x")]
    Endpoint(server.url, "m", pause=1.5).ask("?")
    assert waits == [7.0, 30.0, 6.0]


def test_what_will_not_pass_is_not(server):
    server.answers = [(401, {}, b'{"error": "bad key"}')]
    with pytest.raises(ResourceError, match="refused with HTTP 401: .*bad key"):
        Endpoint(server.url, "m").ask("?")
    assert len(server.asked) == 1


def test_a_redirect_is_not_followed(server):
    server.answers = [(307, {"Location": "http://example.invalid/"}, b"")]
    with pytest.raises(ResourceError, match="HTTP 307"):
        Endpoint(server.url, "m").ask("?")


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"choices": []}', b'{"choices": [{"message": {"content": 3}}]}'])
def test_other_answers_are_errors(server, body):
    server.answers = [(200, {}, body)]
    with pytest.raises(ResourceError, match="something other than a chat completion"):
        Endpoint(server.url, "m").ask("?")


def test_an_endless_answer_is_cut(server, monkeypatch):
    monkeypatch.setattr("kineograph.curation.endpoint.MAX_ANSWER", 100)
    server.answers = [said("x" * 200)]
    with pytest.raises(ResourceError, match="more than 100 bytes"):
        Endpoint(server.url, "m").ask("?")


def test_nobody_there(server, monkeypatch):
    server.server_close()
    with pytest.raises(ResourceError, match="gave no answer in 1 attempts: .*(refused|reset)"):
        Endpoint(server.url, "m", attempts=1, timeout=2).ask("?")
    monkeypatch.delenv("KG_TEST_KEY", raising=False)
    with pytest.raises(InputError, match="KG_TEST_KEY, which holds the key, is not set"):
        Endpoint(server.url, "m", api_key_env="KG_TEST_KEY").ask("?")
    with pytest.raises(InputError, match="is no address"):
        Endpoint("localhost:8000", "m")
    with pytest.raises(InputError, match="at least 1"):
        Endpoint(server.url, "m", attempts=0)
