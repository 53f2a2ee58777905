"""The HTTP application: its routes, and what they give."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Coroutine
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from sttm.chat.store_folder import StoredVideo
from sttm.errors import SttmError
from sttm.server import browser_page
from sttm.server.answering import Reply, Service
from sttm.server.errors import ApiError, as_api_error, bad_request
from sttm.server.openai_schema import ChatRequest, Completion, parse_request, refuse_model
from sttm.server.security import Gate, log
from sttm.server.views import no_video

T = TypeVar("T")
_GONE = 499  # what proxies log for a client that has left; nobody reads it
router = APIRouter()


def create_app(service: Service) -> FastAPI:
    """Make the application of a service; it closes the service when the server stops."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(title="sttm", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.service = service
    app.include_router(router)
    for kind in (ApiError, SttmError, HTTPException, Exception):
        app.add_exception_handler(kind, _as_response)
    open_paths: tuple[str, ...] = ()
    if service.config.page:
        app.include_router(browser_page.router)
        open_paths = browser_page.PATHS
    app.add_middleware(Gate, config=service.config, open_paths=open_paths)
    if service.config.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(service.config.origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
        )
    return app


async def _as_response(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        error = ApiError(error.status_code, f"{error.detail}.", "not_possible")
    told = as_api_error(error)
    if told.status >= 500:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    _service(request).metrics.requests.labels(_route(request), told.status).inc()
    return JSONResponse(told.body(), told.status, told.headers())


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _route(request: Request) -> str:
    route = request.scope.get("route")
    return str(getattr(route, "path", "none"))


def _give(request: Request, body: Any) -> JSONResponse:
    _service(request).metrics.requests.labels(_route(request), 200).inc()
    return JSONResponse(body)


def _list(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"object": "list", "data": items, "has_more": False}  # else clients ask on for ever


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Tell that the server is there."""
    return {"status": "ok"}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Return the metrics."""
    return Response(_service(request).metrics.text(), media_type="text/plain; version=0.0.4")


@router.get("/v1/models")
async def models(request: Request) -> Response:
    """List the one model."""
    return _give(request, _list([await _model(request)]))


@router.get("/v1/models/{name:path}")
async def model(name: str, request: Request) -> Response:
    """Return the one model."""
    refuse_model(name, _service(request).config.name)
    return _give(request, await _model(request))


async def _model(request: Request) -> dict[str, Any]:
    service = _service(request)
    about = await asyncio.to_thread(service.about)
    head = {"id": service.config.name, "object": "model", "created": 0, "owned_by": "sttm"}
    return {**head, "sttm": about}


@router.post("/v1/chat/completions")
async def chat_completions(request: Request) -> Response:
    """Answer a question about a video."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        # Also what keeps a web page from sending requests that a browser does not ask about.
        raise ApiError(
            415, "got another content type, expected application/json.", "unsupported_media_type"
        )
    body = await request.body()
    wanted = await asyncio.to_thread(parse_request, body)
    service = _service(request)
    reply = await _unless_gone(request, service.begin(wanted))
    completion = Completion(service.config.name)
    if wanted.stream:
        service.metrics.requests.labels(_route(request), 200).inc()
        return StreamingResponse(
            _stream(reply, completion, wanted),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
    text, reason = await _unless_gone(request, _whole(reply))
    return _give(request, completion.whole(text, reason, reply.usage, reply.details()))


async def _whole(reply: Reply) -> tuple[str, str]:
    texts, reason = [], "stop"
    async with contextlib.aclosing(reply.pieces()) as pieces:
        async for piece in pieces:
            texts.append(piece.text)
            reason = piece.reason or reason
    return "".join(texts), reason


async def _stream(reply: Reply, completion: Completion, wanted: ChatRequest) -> AsyncIterator[str]:
    """Yield server-sent events."""
    try:
        yield _event(completion.piece({"role": "assistant", "content": ""}))
        async with contextlib.aclosing(reply.pieces()) as pieces:
            async for piece in pieces:
                if piece.text:
                    yield _event(completion.piece({"content": piece.text}))
                if piece.reason is not None:
                    yield _event(completion.piece({}, piece.reason, reply.details()))
        if wanted.stream_options is not None and wanted.stream_options.include_usage:
            yield _event(completion.usage(reply.usage))
    except Exception as error:  # noqa: BLE001 (the status is sent already)
        log.error("a streamed answer failed", exc_info=error)
        yield _event(as_api_error(error).body())
    finally:
        reply.close()
    yield "data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, separators=(',', ':'))}\n\n"


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do some work, and cancel it when the client leaves; the body has been read."""
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ApiError(_GONE, "the client has left.", "client_closed_request")
    finally:
        for each in (task, leaving):
            each.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


@router.post("/v1/files")
async def upload(request: Request) -> Response:
    """Store an uploaded file."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise ApiError(
            415,
            "got another content type, expected multipart/form-data with a field 'file'.",
            "unsupported_media_type",
        )
    async with request.form(max_files=1, max_fields=10) as form:
        file = form.get("file")
        if file is None or isinstance(file, str):
            raise bad_request("file: got none, expected the content of a video file.", "file")
        purpose = form.get("purpose", "user_data")
        record = await asyncio.to_thread(
            _service(request).uploads.add, file.file, file.filename or "", str(purpose)
        )
    return _give(request, record.body())


@router.get("/v1/files")
async def files(request: Request) -> Response:
    """List the uploaded files."""
    return _give(request, _list([file.body() for file in _service(request).uploads.list()]))


@router.get("/v1/files/{file_id}")
async def file(file_id: str, request: Request) -> Response:
    """Return what is known of an uploaded file."""
    return _give(request, _service(request).uploads.get(file_id).body())


@router.delete("/v1/files/{file_id}")
async def delete_file(file_id: str, request: Request) -> Response:
    """Delete an uploaded file."""
    await asyncio.to_thread(_service(request).uploads.remove, file_id)
    return _give(request, {"id": file_id, "object": "file", "deleted": True})


@router.get("/v1/videos")
async def videos(request: Request) -> Response:
    """List the videos that were watched."""
    entries = await asyncio.to_thread(_service(request).store.entries)
    return _give(request, _list([_video(entry) for entry in entries]))


@router.get("/v1/videos/{key}")
async def video(key: str, request: Request) -> Response:
    """Return what is known of a watched video, and how its tokens were merged."""
    entry = await _entry(request, key)
    view = await asyncio.to_thread(_service(request).views.facts, key)
    return _give(request, {**_video(entry), **view})


@router.get("/v1/videos/{key}/frames/{index}.jpg")
async def frame(key: str, index: int, request: Request) -> Response:
    """Return a sampled frame of a watched video, counted from 0."""
    picture = await asyncio.to_thread(_service(request).views.frame, key, index)
    return Response(picture, media_type="image/jpeg", headers={"Cache-Control": "private"})


@router.get("/v1/videos/{key}/report.html")
async def report(key: str, request: Request) -> Response:
    """Return a page to look around in a watched video, a file that needs nothing else."""
    html = await asyncio.to_thread(_service(request).views.report, key)
    headers = {"Content-Disposition": 'attachment; filename="report.html"'}
    return Response(html, media_type="text/html; charset=utf-8", headers=headers)


async def _entry(request: Request, key: str) -> StoredVideo:
    entries = await asyncio.to_thread(_service(request).store.entries)
    found = next((entry for entry in entries if entry.key == key), None)
    if found is None:
        raise no_video()
    return found


@router.delete("/v1/videos/{key}")
async def delete_video(key: str, request: Request) -> Response:
    """Forget a video that was watched, and conversations about several that hold it."""
    if not await asyncio.to_thread(_service(request).store.remove, key):
        raise no_video()
    return _give(request, {"id": key, "object": "video", "deleted": True})


def _video(entry: StoredVideo) -> dict[str, Any]:
    """Return the JSON object of a stored video; a file's folder is nobody's business."""
    facts = asdict(entry)
    times = {k: int(v.timestamp()) for k, v in facts.items() if isinstance(v, datetime)}
    facts["videos"] = len(facts.pop("contents"))
    name = Path(facts["name"]).name
    return {"id": facts.pop("key"), "object": "video", **facts, **times, "name": name}
