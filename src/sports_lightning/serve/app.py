"""The web application: its addresses, and what each answers."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import HTTPException
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.requests import ClientDisconnect

from sports_lightning import __version__
from sports_lightning.reports.html import render_page
from sports_lightning.serve.answers import Health, Neighbours, Predictions, Problem, VideoAnswer
from sports_lightning.serve.model_info import Info, describe_server, page_values
from sports_lightning.serve.network import NetworkStopped
from sports_lightning.serve.refusal import Refusal
from sports_lightning.serve.service import Service
from sports_lightning.serve.uploads import read_uploads

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; "
        "media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "a malformed request, or none of the images in it"},
    408: {"model": Problem, "description": "the request arrives too slowly (limits.seconds)"},
    413: {"model": Problem, "description": "too large a body, too many images or too many pixels"},
    415: {"model": Problem, "description": "another type of content, or of image"},
    422: {"model": Problem, "description": "an image that is damaged or can't be converted"},
    503: {"model": Problem, "description": "too many requests are in progress (limits.requests)"},
    504: {"model": Problem, "description": "no answer within limits.seconds"},
}
_UNEXPLAINED: dict[int | str, dict[str, Any]] = {501: {"model": Problem, "description": "there is none, and why"}}


def build_app(service: Service) -> FastAPI:
    """The application that answers by `service`. Its documentation is `/openapi.json` only: pages would need a CDN."""
    app = FastAPI(title="sports_lightning", version=__version__, docs_url=None, redoc_url=None)
    app.middleware("http")(_with_headers)
    if service.cfg.host in _LOOPBACK:
        app.middleware("http")(_for_this_machine)
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    _add_questions(app, service)
    _add_descriptions(app, service)
    return app


def _add_questions(app: FastAPI, service: Service) -> None:
    """Add the addresses that take images."""

    @app.post("/predict", responses=_REFUSALS, openapi_extra=_body("one or more images"), tags=["images"])
    async def predict(request: Request) -> Predictions:
        """Predict the classes of images, with the numbers of the command `predict`."""
        async with service.answering():
            return await service.predict(await read_uploads(request, service.limits))

    @app.post(
        "/heatmap",
        responses={**_REFUSALS, **_UNEXPLAINED, 200: {"content": {"image/png": {}}}},
        openapi_extra=_body("one image"),
        response_class=Response,
        tags=["images"],
    )
    async def heatmap(request: Request) -> Response:
        """The Grad-CAM heat map of the most probable class, over the part of the image that the network sees."""
        async with service.answering():
            (upload,) = await read_uploads(request, service.limits, most=1)
            return Response(await service.heatmap(upload), media_type="image/png")

    @app.post("/video", responses={**_REFUSALS, **_UNEXPLAINED}, openapi_extra=_body("one video"), tags=["videos"])
    async def video(request: Request) -> VideoAnswer:
        """What a video shows, and when: the segments that the command `predict` finds."""
        async with service.answering():
            (upload,) = await read_uploads(request, service.limits, most=1)
            return await service.video(upload)

    @app.post("/neighbours", responses={**_REFUSALS, **_UNEXPLAINED}, openapi_extra=_body("one image"), tags=["images"])
    async def neighbours(request: Request) -> Neighbours:
        """The training images whose features are most similar to those of an image."""
        async with service.answering():
            (upload,) = await read_uploads(request, service.limits, most=1)
            return await service.similar_images(upload)


def _add_descriptions(app: FastAPI, service: Service) -> None:
    """Add the addresses that take nothing."""
    described = describe_server(service)
    page = render_page("serve.html", **page_values(described))

    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page)

    @app.get("/info", tags=["server"])
    async def info() -> Info:
        """The classifier, its metrics with intervals, and the limits of a request."""
        return described

    @app.get("/health", responses={503: {"model": Health, "description": "the network has stopped"}}, tags=["server"])
    async def health(response: Response) -> Health:
        """Whether the server answers."""
        network = service.network
        if not network.is_running:
            response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
        status = "ok" if network.is_running else "the network has stopped"
        return Health(status=status, requests=service.requests, images=network.images, batches=network.batches)


def _body(described: str) -> dict[str, Any]:
    """The description of a request's body, which FastAPI does not read itself, for OpenAPI."""
    file = {"type": "string", "format": "binary"}
    form = {"type": "object", "properties": {"images": {"type": "array", "items": file}}, "required": ["images"]}
    texts = {"type": "array", "items": {"type": "string"}, "description": "content of image files, in base64"}
    plain = {"type": "object", "properties": {"images": texts}, "required": ["images"]}
    content = {"multipart/form-data": {"schema": form}, "application/json": {"schema": plain}}
    return {"requestBody": {"description": described, "required": True, "content": content}}


async def _with_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await call_next(request)
    response.headers.update(_HEADERS)
    return response


async def _for_this_machine(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Refuse other host names: a page of another site would read answers by a name that resolves to this machine."""
    if request.url.hostname not in _LOOPBACK:
        return _problem(HTTPStatus.BAD_REQUEST, f"this server answers to the hosts {', '.join(_LOOPBACK)} only")
    return await call_next(request)


def _problem(status: int, reason: str) -> JSONResponse:
    headers = {"Retry-After": "1"} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    return JSONResponse(Problem(error=reason).model_dump(), status, headers)


async def _refused(_: Request, error: Any) -> JSONResponse:
    return _problem(error.status, error.reason)


async def _stopped(_: Request, error: Exception) -> JSONResponse:
    return _problem(HTTPStatus.INTERNAL_SERVER_ERROR, f"{error}: see the log of the server")


async def _unknown(_: Request, error: Any) -> JSONResponse:
    return _problem(error.status_code, str(error.detail))


async def _failed(_: Request, __: Exception) -> JSONResponse:
    return _problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed: see its log")


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=HTTPStatus.BAD_REQUEST)  # nobody reads it


_HANDLERS: dict[Any, Callable[[Request, Any], Awaitable[Response]]] = {
    Refusal: _refused,
    NetworkStopped: _stopped,
    HTTPException: _unknown,
    404: _unknown,
    405: _unknown,
    ClientDisconnect: _gone,
    Exception: _failed,
}
