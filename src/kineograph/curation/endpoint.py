"""Ask a model behind an HTTP endpoint that speaks the OpenAI chat protocol: vLLM, llama.cpp, Ollama, and services.

Answers are read with a limit, failures that may pass are tried again, and the key is read from the environment when it
is needed and stored nowhere.
"""

from __future__ import annotations

import base64
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kineograph.errors import InputError, ResourceError

MAX_ANSWER = 1 << 20
"""Bytes of an answer that are read."""
TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""HTTP states that may pass."""
LONGEST_WAIT = 30.0
"""Seconds, whatever the server asks for."""


@dataclass(frozen=True)
class Endpoint:
    """Where a model answers.

    Attributes:
        url: Up to and with `/v1`, such as `http://localhost:8000/v1`.
        model: Name that the server knows it by.
        api_key_env: Environment variable that holds the key; empty sends none.
        timeout: Seconds to wait for an answer.
        attempts: How often to try.
        pause: Seconds before the second attempt; doubled each time, unless the server says how long.
    """

    url: str
    model: str
    api_key_env: str = ""
    timeout: float = 120.0
    attempts: int = 4
    pause: float = 1.0

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise InputError(f"'{self.url}' is no address: it begins with http:// or https://, and ends with /v1.")
        if self.attempts < 1 or self.timeout <= 0:
            raise InputError(f"attempts {self.attempts} is at least 1, and timeout {self.timeout} above 0 seconds.")

    def ask(self, text: str, pictures: Sequence[bytes] = (), max_tokens: int = 60) -> str:
        """Ask, with pictures.

        Args:
            text: The question.
            pictures: JPEG files, shown after the text.
            max_tokens: Of the answer.

        Returns:
            The answer, without white space around it.

        Raises:
            ResourceError: No answer: the server is not there, refuses, keeps failing, or answers something else.
            InputError: The key's variable is not set.
        """
        body = json.dumps(self._request(text, pictures, max_tokens)).encode()
        for attempt in range(self.attempts):
            try:
                return _content(self._post(body), self.url)
            except _Transient as failure:
                if attempt + 1 == self.attempts:
                    raise ResourceError(
                        f"{self._place} gave no answer in {self.attempts} attempts: {failure}"
                    ) from None
                time.sleep(min(LONGEST_WAIT, failure.wait if failure.wait is not None else self.pause * 2**attempt))
        raise AssertionError("unreachable")

    @property
    def _place(self) -> str:
        return f"The model '{self.model}' at {self.url}"

    def _request(self, text: str, pictures: Sequence[bytes], max_tokens: int) -> dict[str, Any]:
        shown = [f"data:image/jpeg;base64,{base64.b64encode(one).decode()}" for one in pictures]
        parts = [{"type": "text", "text": text}, *({"type": "image_url", "image_url": {"url": url}} for url in shown)]
        content = parts if pictures else text
        message = {"role": "user", "content": content}
        return {"model": self.model, "messages": [message], "max_tokens": max_tokens, "temperature": 0}

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.api_key_env:
            if not os.environ.get(self.api_key_env):
                raise InputError(f"The environment variable {self.api_key_env}, which holds the key, is not set.")
            headers["Authorization"] = f"Bearer {os.environ[self.api_key_env]}"
        url = self.url.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(url, body, headers, method="POST")
        try:
            with _OPENER.open(request, timeout=self.timeout) as answer:
                return answer.read(MAX_ANSWER + 1)
        except urllib.error.HTTPError as error:
            with error:
                told = error.read(400).decode("utf-8", "replace")
            if error.code in TRANSIENT:
                raise _Transient(f"HTTP {error.code}", _wait(error)) from None
            raise ResourceError(f"{self._place} refused with HTTP {error.code}: {told}") from None
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            raise _Transient(str(getattr(error, "reason", error)) or type(error).__name__) from None


class _Transient(Exception):
    """A failure that may pass, and how many seconds to wait if the server said so."""

    def __init__(self, text: str, wait: float | None = None) -> None:
        super().__init__(text)
        self.wait = wait


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected question would carry the key and the pictures elsewhere."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _wait(error: urllib.error.HTTPError) -> float | None:
    """Seconds that a server asks to wait for; None where it says nothing usable."""
    try:
        return max(0.0, float(error.headers.get("Retry-After", "")))
    except ValueError:
        return None


def _content(answer: bytes, url: str) -> str:
    """Take the text out of an answer."""
    if len(answer) > MAX_ANSWER:
        raise ResourceError(f"{url} answered more than {MAX_ANSWER} bytes.")
    try:
        found = json.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        found = None
    if not isinstance(found, str):
        raise ResourceError(f"{url} answered something other than a chat completion: {answer[:200]!r}")
    return found.strip()
