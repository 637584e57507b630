"""Request parsing as in RFC 9110 and 9112, where uvicorn's differs.

No protocol is upgraded to: `Upgrade` is ignored, and what follows the head is the body. Trailers are dropped. Blanks
around a value are stripped. A client of HTTP/1.0 gets no `100 Continue`.
"""

from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_FIELDS = 256  # headers of a request and trailers of a body, each of them
BLANKS = b" \t"
DROPPED = frozenset({b"cookie"})  # unused by the service, and expensive to parse


class TooLongError(ValueError):
    """A head that exceeds a limit."""


class RequestReader(HttpToolsProtocol):
    """Protocol that parses requests."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._fields = 0  # of this head, or of the trailers of this body
        self._in_body = False

    def read(self, data: bytes) -> None:
        """Parse the next bytes; an HttpParserError if they are no request."""
        self._unset_keepalive_if_required()
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self._parse_without_upgrade()
            else:
                return

    def _parse_without_upgrade(self) -> None:
        """Parse the head again without `Upgrade`: the parser leaves the body to the protocol that it names."""
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                options = [option.strip(BLANKS) for option in value.split(b",")]
                lines.append(b"connection: " + b", ".join(each for each in options if each.lower() != b"upgrade"))
            elif name != b"upgrade":
                lines.append(name + b": " + value)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._fields, self._in_body = 0, False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header, or drop a trailer; a TooLongError if there are too many."""
        self._fields += 1
        if self._fields > MOST_FIELDS:
            raise TooLongError
        if not self._in_body and name.lower() not in DROPPED:
            super().on_header(name, value.strip(BLANKS))

    def on_headers_complete(self) -> None:
        """Serve the request unless its head is parsed again without `Upgrade`; a ValueError for a tunnel."""
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise ValueError("this is no proxy")
            return
        self._fields, self._in_body = 0, True
        self.expect_100_continue &= self.parser.get_http_version() != "1.0"
        self.serve()

    def serve(self) -> None:
        """Serve the request of this head or, behind the one that is served, queue it."""
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Complete the request unless its head is parsed again."""
        if not self.parser.should_upgrade():
            self.complete()

    def complete(self) -> None:
        """Note that the body is complete."""
        super().on_message_complete()
