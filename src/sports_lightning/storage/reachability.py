"""Whether a server answers, found out in seconds, where its client would retry for a minute."""

import urllib.error
import urllib.request


def why_unreachable(url: str, timeout: float = 3) -> str | None:
    """The reason why the server of `url` does not answer, or None where it does. Proxy variables are respected.

    Args:
        url: of the service.
        timeout: seconds.
    """
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=timeout).close()
    except urllib.error.HTTPError:
        return None  # it answers, if only to say no
    except OSError as error:
        return str(getattr(error, "reason", error))
    return None
