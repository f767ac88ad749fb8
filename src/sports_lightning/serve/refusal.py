"""Requests that are not answered: each gets a status and one line that says why."""

from http import HTTPStatus


class Refusal(Exception):
    """A request that is refused.

    Args:
        status: of the response.
        reason: one line for the client.
    """

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason
