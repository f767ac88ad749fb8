"""A quick check whether a server is reachable; its client library would retry for a minute."""

import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any


def _head(url: str, timeout: float) -> None:
    urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=timeout).close()


def why_unreachable(url: str, timeout: float = 3, head: Callable[[str, float], Any] = _head) -> str | None:
    """The reason why the server of `url` does not answer, or None if it does.

    Args:
        url: address of the service.
        timeout: in seconds.
        head: sends a HEAD request with the library that will be used later, so that it finds the same proxies and
            certificates (HTTPS_PROXY, REQUESTS_CA_BUNDLE, SSL_CERT_FILE); by default urllib.
    """
    try:
        head(url, timeout)
    except urllib.error.HTTPError:
        return None  # an HTTP error is an answer
    except Exception as error:  # each library has types of its own
        return _innermost(error)
    return None


def _innermost(error: BaseException) -> str:
    """The message of the first of a chain of errors, such as "Name or service not known"."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return str(getattr(error, "reason", error)) or type(error).__name__
