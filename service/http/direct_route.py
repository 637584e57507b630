"""The way of predictions: documented as FastAPI's other routes, and served by a shorter one.

FastAPI finds, converts and validates the parameters of an endpoint at every request, behind a stack of layers that look
for its route and for handlers of its errors. That takes as long as all that the endpoints of predictions do before they
hand a crystal on; these read the few parameters that they have themselves, and raise one kind of error.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepergatgnn.service.errors import ServiceError, unforeseen
from deepergatgnn.service.http.problems import problem_of

log = structlog.get_logger("api")
Endpoint = Callable[[Request], Awaitable[Response]]


class DirectRoute(APIRoute):
    """A POST route that says itself what it takes; `Shortcut` serves it.

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


class Shortcut:
    """ASGI middleware, the innermost one: direct routes are served here, all else by the application.

    Args:
        app: the rest of the application.
        routes: that the application knows too, for its documents and for other methods.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[DirectRoute]) -> None:
        self.app = app
        self._routes = {route.path: route for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or pass it on."""
        route = self._routes.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if route is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = route
        request = Request(scope, receive, send)
        try:
            response = await route.endpoint(request)
        except ServiceError as error:
            response = problem_of(request, error)
        except Exception:
            log.exception("unexpected", request_id=request.state.request_id)
            response = problem_of(request, unforeseen())
        await response(scope, receive, send)


class HeadAsGet:
    """ASGI middleware: HEAD is answered as GET would be; uvicorn leaves the body out.

    Args:
        app: the rest of the application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        inner = {**scope, "method": "GET"}

        async def routed(message: Message) -> None:
            if "route" in inner:
                scope["route"] = inner["route"]  # for logs and metrics
            await send(message)

        await self.app(inner, receive, routed)
