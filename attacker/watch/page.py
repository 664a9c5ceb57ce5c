"""The server of the page, on loopback: files, and what is new as server-sent events; who has no token gets nothing."""

import asyncio
import contextlib
import json
import re
import secrets
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from importlib.resources import files

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from splitleak.attacker.watch.board import Board, Cursor

HOST = "127.0.0.1"
_OURS = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?")  # else a stranger's name was made to lead here
_TYPES = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_EVENT_S = 0.5  # between two events, at least
_LOOK_S = 0.1  # whether there is anything new is asked so often, from then on
_IDLE_S = 3.0  # without anything new: an event all the same, so that a browser that is gone is noticed
_MOST = 60  # requests in an event
_BROWSERS = 32
_START_S, _STOP_S, _POLL_S = 10.0, 2, 0.01


def new_token() -> str:
    """A token for a page's address."""
    return secrets.token_urlsafe(24)


def page_address(port: int, token: str) -> str:
    """Where a browser finds the page."""
    return f"http://{HOST}:{port}/{token}/"


@contextlib.contextmanager
def serve_page(board: Board, token: str, port: int = 0) -> Iterator[int]:
    """Serves the page of ``board`` while the block runs, to whoever knows ``token``; yields the bound port.

    Raises:
        OSError: The port is taken.
        RuntimeError: The server does not start.
    """
    with socket.create_server((HOST, port)) as listening:
        config = uvicorn.Config(
            application(board, token),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            http="h11",
            loop="asyncio",
            server_header=False,
            limit_concurrency=_BROWSERS,
            timeout_graceful_shutdown=_STOP_S,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],), name="page", daemon=True)
        thread.start()
        try:
            deadline = time.monotonic() + _START_S
            while not server.started and thread.is_alive() and time.monotonic() < deadline:
                time.sleep(_POLL_S)
            if not server.started:
                raise RuntimeError(f"expected the page to be served within {_START_S:g} s; why not stands in the log")
            yield int(listening.getsockname()[1])
        finally:
            board.closed = True
            server.should_exit = True
            thread.join()


def application(board: Board, token: str) -> ASGIApp:
    """The page as an ASGI application; all its paths begin with ``/<token>/``."""
    folder = files("splitleak.attacker.watch") / "static"
    contents = {name: (folder / name).read_bytes() for name in _TYPES}

    def file(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in contents:
            return PlainTextResponse("Not found", 404)
        return Response(contents[name], media_type=_TYPES[name])

    def events(_: Request) -> Response:
        return _Events(board)

    prefix = "/{token}/"
    routes = [Route(prefix, file), Route(f"{prefix}events", events), Route(f"{prefix}{{name}}", file)]
    return _Gate(Starlette(routes=routes), token)


class _Gate:
    """Lets those in who know the token and ask for this host by its own name, and sets the headers of all answers."""

    def __init__(self, behind: ASGIApp, token: str) -> None:
        self._behind, self._token = behind, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        if scope["type"] != "http":
            return
        shown = scope["path"].removeprefix("/").partition("/")[0]
        known = secrets.compare_digest(shown.encode(), self._token)
        if known and _OURS.fullmatch(Headers(scope=scope).get("host", "")):
            await self._behind(scope, receive, with_headers)
        else:
            said = "Forbidden: expected the whole address that splitleak printed, with its token.\n"
            await PlainTextResponse(said, 403)(scope, receive, with_headers)


class _Events(StreamingResponse):
    """What is new for one browser, until it or the page is closed.

    There is no queue: a browser that reads slowly is sent the newest when it reads again, and how many it missed.
    """

    def __init__(self, board: Board) -> None:
        super().__init__(self._documents(board), media_type="text/event-stream")
        self._board = board

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._board.viewer():
            await super().__call__(scope, receive, send)

    @staticmethod
    async def _documents(board: Board) -> AsyncIterator[str]:
        cursor = Cursor()
        while not board.closed:
            document, cursor = board.since(cursor, _MOST)
            yield f"data: {json.dumps(document)}\n\n"
            sent = time.monotonic()
            await asyncio.sleep(_EVENT_S)
            while not (board.changed(cursor) or board.closed) and time.monotonic() < sent + _IDLE_S:
                await asyncio.sleep(_LOOK_S)
