"""A quick check whether a server is reachable; its client library would retry for a minute."""

import urllib.error
import urllib.request


def why_unreachable(url: str, timeout: float = 3) -> str | None:
    """The reason why the server of `url` does not answer, or None if it does. Proxy variables are respected.

    Args:
        url: address of the service.
        timeout: in seconds.
    """
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=timeout).close()
    except urllib.error.HTTPError:
        return None  # an HTTP error is an answer
    except OSError as error:
        return str(getattr(error, "reason", error))
    return None
