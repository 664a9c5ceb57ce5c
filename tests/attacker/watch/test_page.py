import asyncio
import contextlib
import json
import urllib.error
import urllib.request

import pytest

from splitleak.attacker.watch.board import Board
from splitleak.attacker.watch.page import application, new_token, page_address, serve_page

TOKEN = "a-token"


def board():
    made = Board(capture="c")
    made.show(SIGHT)
    return made


SIGHT = {
    **{"number": 1, "id": "</script><script>alert(1)</script>\x1b[2J\u2028\ndata: x", "seen": None},
    **{"confidence": None, "time_ns": 10**18},
}


async def ask(app, path, host="127.0.0.1:8000", method="GET", events=0):
    """Status, headers and body of one request; of a stream, after so many parts, the client goes away."""
    parts, gone = [], asyncio.Event()

    async def receive():
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        parts.append(message)
        if events and len(parts) > events:
            gone.set()

    headers = [(b"host", host.encode())] if host is not None else []
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "headers": headers}
    scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "root_path": "", "asgi": {"version": "3.0"}}
    await asyncio.wait_for(app(scope, receive, send), 20)
    start, body = parts[0], b"".join(part.get("body", b"") for part in parts[1:])
    return start["status"], {name.decode(): value.decode() for name, value in start["headers"]}, body


def get(path, app=None, **options):
    return asyncio.run(ask(app or application(board(), TOKEN), path, **options))


@pytest.mark.parametrize(
    "path", ["/", "/other/", "/a-toke/", "/a-token-2/events", "//a-token/", "*", "/events", "/\u0661/"]
)
def test_without_the_token_nothing_is_served(path):
    status, headers, body = get(path)
    assert (status, b"Forbidden" in body) == (403, True)
    assert "default-src 'none'" in headers["content-security-policy"]


@pytest.mark.parametrize("name", ["", "page.css", "page.js", "events"])
@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example:80", "", None])
def test_a_strangers_name_for_this_machine_is_refused_everywhere(name, host):
    assert get(f"/{TOKEN}/{name}", host=host)[0] == 403


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:9", "[::1]:8000", "localhost"])
def test_with_token_and_own_name_the_page_is_served_under_a_strict_policy(host):
    for name, kind in (("", "text/html"), ("page.css", "text/css"), ("page.js", "text/javascript")):
        status, headers, body = get(f"/{TOKEN}/{name}", host=host)
        assert (status, headers["content-type"].split(";")[0], len(body) > 1000) == (200, kind, True)
        policy = headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        assert (headers["referrer-policy"], headers["x-content-type-options"]) == ("no-referrer", "nosniff")


def test_what_is_not_of_the_page_is_not_there():
    assert get(f"/{TOKEN}/page.py")[0] == 404
    assert get(f"/{TOKEN}/..%2fpage.py")[0] == 404
    assert get(f"/{TOKEN}/../page.py")[0] == 404
    assert get(f"/{TOKEN}/page.css", method="POST")[0] == 405


def test_the_page_asks_for_nothing_elsewhere_and_has_no_code_in_its_markup(parsed):
    _, _, body = get(f"/{TOKEN}/")
    page = parsed(body.decode())
    assert set(page.loaded) <= {"page.css", "page.js", "data:,"}
    assert b"style=" not in body
    assert b"onclick" not in body
    script = get(f"/{TOKEN}/page.js")[2]
    assert not [word for word in (b"innerHTML", b"insertAdjacentHTML", b"eval(", b"document.write") if word in script]


def test_an_id_with_markup_and_escapes_stays_text_in_one_line():
    status, headers, body = get(f"/{TOKEN}/events", events=1)
    assert (status, headers["content-type"].split(";")[0]) == (200, "text/event-stream")
    line, *rest = body.split(b"\n\n")[0].split(b"\n")
    assert rest == []
    assert line.startswith(b"data: ")
    assert line.isascii()
    assert b"\x1b" not in line
    assert json.loads(line[6:])["sights"] == [SIGHT]


@pytest.mark.slow
def test_a_browser_that_goes_away_leaves_nothing_behind_and_a_second_one_sees_the_same():
    made = board()
    app = application(made, TOKEN)

    async def two():
        watching = [asyncio.create_task(ask(app, f"/{TOKEN}/events", events=2)) for _ in range(2)]
        await asyncio.sleep(0.1)
        during = made.viewers
        return during, [body for _, _, body in await asyncio.gather(*watching)]

    during, (one, other) = asyncio.run(two())
    assert (during, made.viewers) == (2, 0)
    assert one == other


def test_the_stream_ends_when_the_page_does():
    made = board()
    made.closed = True
    assert get(f"/{TOKEN}/events", application(made, TOKEN))[2] == b""


def test_it_is_served_on_loopback_until_the_block_ends():
    token = new_token()
    assert len(token) >= 32
    assert token != new_token()
    with serve_page(board(), token) as port:
        address = page_address(port, token)
        with urllib.request.urlopen(address, timeout=20) as served:
            assert b"eavesdropper" in served.read()
        stream = urllib.request.urlopen(f"{address}events", timeout=20)
        assert stream.readline().startswith(b"data: ")
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(page_address(port, new_token()), timeout=20)
    with contextlib.closing(stream):
        assert isinstance(stream.read(), bytes)  # it has ended
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address, timeout=20)
