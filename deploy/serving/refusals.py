"""Requests that are answered with a sentence instead of a result."""

from collections.abc import Mapping


class Refused(Exception):  # noqa: N818 - an answer that was meant, not a failure
    """A request that is not carried out.

    Args:
        status: HTTP status, 4xx or 503.
        sentence: what is wrong and what to do, for the person behind the client.
        headers: of the answer, such as ``Retry-After``.
    """

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, sentence, dict(headers or {})
