"""Security headers of responses: a page may run its own scripts and styles, and nothing that was injected."""

import base64
import hashlib
import re
from collections.abc import Sequence

from fastapi.openapi.docs import get_swagger_ui_html
from starlette.types import Scope

from deepergatgnn.service.http.page import PAGE

DOCUMENTS = bytes(get_swagger_ui_html(openapi_url="openapi.json", title="DeeperGATGNN").body).decode()
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
NOTHING = "default-src 'none'; frame-ancestors 'none'"
INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)
EXTERNAL = re.compile(r"<(script|link)\b[^>]*?\b(?:src|href)=\"(https://[^\"]+)\"")


def header(scope: Scope, name: bytes) -> str | None:
    """Return the first request header with this name, in lower case; cheaper than Starlette's `Headers`."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return None


def policy_of(html: str, *, inline_styles: bool = False) -> str:
    """Return the Content-Security-Policy that allows what a page contains.

    Args:
        html: the page.
        inline_styles: whether its scripts write style attributes into the page's text.
    """
    allowed: dict[str, list[str]] = {"script": ["'self'"], "style": ["'self'"], "link": ["'self'", "data:"]}
    for element, text in INLINE.findall(html):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        allowed[element].append(f"'sha256-{digest}'")
    for element, url in EXTERNAL.findall(html):
        allowed["style" if url.endswith(".css") else element].append(url)
    if inline_styles:
        # A digest beside it would disable it.
        allowed["style"] = [each for each in allowed["style"] if not each.startswith("'sha256-")] + ["'unsafe-inline'"]
    return (
        f"default-src 'none'; script-src {' '.join(allowed['script'])}; style-src {' '.join(allowed['style'])}; "
        f"img-src {' '.join(allowed['link'])}; connect-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    )


POLICIES = {"/": policy_of(PAGE), "/docs": policy_of(DOCUMENTS, inline_styles=True)}


def headers_for(path: str) -> dict[str, str]:
    """Return the security headers of a response."""
    return SECURITY_HEADERS | {"Content-Security-Policy": POLICIES.get(path, NOTHING)}


def raw_headers_for(path: str) -> Sequence[tuple[bytes, bytes]]:
    """Return the same in the form of ASGI, names in lower case."""
    return _RAW.get(path, _RAW[""])


_RAW = {
    path: tuple((name.lower().encode(), value.encode()) for name, value in headers_for(path).items())
    for path in (*POLICIES, "")
}
