"""A route of FastAPI's that documents its endpoint as any other, and calls it with the request and nothing else.

FastAPI finds, converts and validates the parameters of an endpoint at every request, which takes as long as all that
the endpoints of predictions do before they hand a crystal on; these read the few that they have themselves.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.routing import request_response

Endpoint = Callable[[Request], Awaitable[Response]]


class DirectRoute(APIRoute):
    """A POST route; add it to the routes of the application itself, not through a router that is included.

    Args:
        path: of the route.
        endpoint: takes the request, gives the response.
        parameters: of the OpenAPI operation.
        body: of the OpenAPI operation, by media type.
        documented: as FastAPI's routes take it: `response_model`, `responses`, `summary`.
    """

    def __init__(
        self,
        path: str,
        endpoint: Endpoint,
        *,
        parameters: Sequence[dict[str, Any]],
        body: dict[str, Any],
        **documented: Any,
    ) -> None:
        operation = {"parameters": [*parameters], "requestBody": {"required": True, "content": body}}
        super().__init__(path, endpoint, methods=["POST"], openapi_extra=operation, **documented)
        self.app = request_response(endpoint)
