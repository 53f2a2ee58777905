"""The page for browsers: its files, and the samples that it offers."""

import asyncio
from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from sttm.server import samples
from sttm.server.errors import ApiError
from sttm.view.page import SCRIPT

_TYPES = {"css": "text/css", "html": "text/html", "js": "text/javascript", "svg": "image/svg+xml"}
_FILES = {
    each.name: each
    for each in (*files("sttm.server").joinpath("page").iterdir(), files("sttm.view") / SCRIPT)
    if each.name.rpartition(".")[2] in _TYPES
}
# The page runs what this server sends, and nothing that was in a file name or an answer.
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
PATHS = ("/", *(f"/page/{name}" for name in _FILES))  # hold nothing of the server's videos
router = APIRouter()


@router.get("/")
async def index() -> Response:
    """Return the page."""
    return _file("index.html")


@router.get("/page/{name}")
async def page_file(name: str) -> Response:
    """Return a file of the page."""
    return _file(name)


@router.get("/v1/samples")
async def sample_list(request: Request) -> Response:
    """List clips that the model knows, with questions and the right answers."""
    offered = request.app.state.service.config.samples
    return JSONResponse({"object": "list", "data": samples.list_samples() if offered else []})


@router.get("/v1/samples/{name}")
async def sample(name: str) -> Response:
    """Return a clip."""
    clip = await asyncio.to_thread(samples.sample_file, name)
    return Response(clip, media_type="video/mp4")


def _file(name: str) -> Response:
    if name not in _FILES:
        raise ApiError(404, "got the name of no file of the page.", "not_found")
    kind = _TYPES[name.rpartition(".")[2]]
    return Response(_FILES[name].read_bytes(), media_type=kind, headers=_HEADERS)
