"""The live page in a real browser.

Skipped unless ``SPLITLEAK_BROWSER`` names a chromium, as Debian's /usr/bin/chromium, and playwright is installed
(``pip install playwright``).
"""

import itertools
import json
import os
import threading
import time

import pytest
import torch
from PIL import Image

from splitleak.attacker.rebuilders import linear_gauge
from splitleak.attacker.tap import TapConfig, tap
from splitleak.attacker.watch.page import new_token, page_address, serve_page
from splitleak.attacker.watch.watcher import Watcher
from splitleak.cloud.service import CloudConfig, cloud
from splitleak.defenses.artifact import load_cloud, load_edge, save
from splitleak.defenses.training import TargetConfig, train
from splitleak.edge.client import EdgeClient, EdgeConfig
from splitleak.wire.files import captures
from splitleak.wire.protocol.paths import INFERENCE

CHROMIUM = os.environ.get("SPLITLEAK_BROWSER")
if not CHROMIUM:
    pytest.skip("set SPLITLEAK_BROWSER to a chromium", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.slow

PATIENCE_S = 60.0
IMAGES = 200
RATE = 25
MARKUP = "<img src=x onerror=\"document.title='owned'\"><b>&amp;\x1b[31m</script>"


def until(true, what):
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"expected {what} within {PATIENCE_S:.0f} s"
        time.sleep(0.05)


@pytest.fixture
def context():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        made = browser.new_context(viewport={"width": 1280, "height": 900})
        made.set_default_timeout(1000 * PATIENCE_S)
        yield made
        browser.close()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory, small_splits):
    folder = tmp_path_factory.mktemp("browser") / "toy"
    model = {"architecture": "cnn", "width": 0.5, "channels": 1, "size": 16, "classes": 10}
    config = TargetConfig.parse({"model": model, "training": {"epochs": 1}}, source="test")
    save(folder, "toy", train(config, small_splits, device=torch.device("cpu")))
    return folder


@pytest.fixture
def stream(artifact, small_splits, tmp_path):
    """``stream(names)`` sends a picture for each name from an edge through a tap; with the tap's capture."""
    path, cpu = tmp_path / "tap.capture", torch.device("cpu")
    half, images = load_edge(artifact / "edge", cpu), small_splits.test.floats().numpy()
    with (
        cloud(CloudConfig(), load_cloud(artifact / "cloud", cpu)) as behind,
        tap(TapConfig(upstream=f"127.0.0.1:{behind}", capture=path)) as port,
    ):
        config = EdgeConfig(cloud=f"127.0.0.1:{port}", model=half.name)

        def paced(names):
            for name, image in zip(names, itertools.cycle(images), strict=False):
                time.sleep(1 / RATE)
                yield name, image[None]

        def send(names):
            with EdgeClient(half, config) as client:
                return list(client.stream(paced(names)))

        yield send, path


def number(page, name):
    return int(page.inner_text(f"#{name}").replace(",", ""))


def test_a_browser_sees_the_stream_as_it_passes(context, stream, artifact, small_splits, tmp_path):
    send, path = stream
    watcher, token = Watcher(path, linear_gauge(small_splits.public, encoder=artifact / "edge")), new_token()
    board = watcher.board
    complaints = []

    def tab():
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        return page

    with watcher.watching(), serve_page(board, token) as port:
        address = page_address(port, token)
        refused = context.new_page().goto(page_address(port, new_token()))
        assert refused.status == 403
        page = tab()
        until(lambda: board.viewers == 1, "one viewer")

        # 200 images are streamed: each picture is there within two seconds of its request.
        page.evaluate(
            """() => {
              window.delays = [];
              new MutationObserver((changes) => {
                for (const change of changes) for (const item of change.addedNodes) {
                  const found = sights.get(Number(item.querySelector(".meta").textContent.match(/#(\\d+)/)[1]));
                  const delay = Date.now() - found.time_ns / 1e6;
                  if (item.querySelector(".rebuilt img")) window.delays.push([found.number, delay]);
                }
              }).observe(document.getElementById("cards"), { childList: true });
            }"""
        )
        names = [f"a-{place}" for place in range(IMAGES - 1)]
        streaming = threading.Thread(target=send, args=(itertools.chain(names, [MARKUP]),))
        streaming.start()
        until(lambda: number(page, "requests") > 40, "a stream")

        # Pause holds what is shown, while more comes.
        page.click("#pause")
        held = page.inner_text("#cards"), number(page, "requests")
        until(lambda: "new" in page.inner_text("#state"), "new requests")
        assert (page.inner_text("#cards"), number(page, "requests")) == held
        page.click("#pause")
        until(lambda: number(page, "requests") > held[1], "more requests")

        # A second tab sees the stream as well.
        second = tab()
        second.wait_for_selector(".card")
        assert board.viewers == 2
        streaming.join(PATIENCE_S)
        for each in (page, second):
            until(lambda page=each: number(page, "drawn") == IMAGES, "all requests")
        delays = dict(page.evaluate("window.delays"))
        assert len(delays) > IMAGES / 2  # others passed during the pause
        late = {one: delay for one, delay in delays.items() if delay > 2000}
        assert not late, f"after more than two seconds: {late}"

        # The counters agree with the capture.
        records = [record for record in captures.read(path) if record.method in INFERENCE]
        assert number(page, "requests") == number(second, "requests") == IMAGES
        assert sum(record.direction == "request" for record in records) == IMAGES
        assert board._counts["bytes"] == sum(len(record.message) for record in records)
        assert number(page, "passed") == 0

        # An id with markup and escapes is text; a click enlarges.
        page.fill("#filter", "onerror")
        until(lambda: page.locator(".card").count() == 1, "one card")
        assert page.text_content(".card .id") == MARKUP
        page.click(".card")
        page.wait_for_selector("#large[open]")
        assert page.text_content("#large-facts tr:first-child td") == MARKUP
        width = page.evaluate("document.querySelector('#large-pictures img').getBoundingClientRect().width")
        assert width > 200
        page.click("#close")
        assert page.title() == "splitleak: what the eavesdropper sees"
        assert page.evaluate("document.querySelectorAll('img[src=x], #cards script, #cards b').length") == 0

        # What is shown is saved.
        page.fill("#filter", "")
        until(lambda: page.locator(".card").count() == 60, "all cards")
        for button, name in (("#save-json", "shown.json"), ("#save-png", "shown.png")):
            with page.expect_download() as download:
                page.click(button)
            download.value.save_as(tmp_path / name)
        assert [each["number"] for each in json.loads((tmp_path / "shown.json").read_text())["requests"]] == list(
            range(IMAGES, IMAGES - 60, -1)
        )
        with Image.open(tmp_path / "shown.png") as saved:
            assert saved.width > 500

        # On a phone nothing is wider than the screen; a closed tab leaves nothing behind.
        page.set_viewport_size({"width": 360, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        second.close()
        until(lambda: board.viewers == 1, "one viewer")
        page.close()
        until(lambda: board.viewers == 0, "no viewer")
    assert complaints == []


def test_what_is_wrong_with_the_page_is_said_when_its_process_ends(context, tmp_path):
    with captures.CaptureWriter(tmp_path / "c"):
        watcher, token = Watcher(tmp_path / "c"), new_token()
    with watcher.watching():
        with serve_page(watcher.board, token) as port:
            page = context.new_page()
            page.goto(page_address(port, token))
            until(lambda: page.inner_text("#state") == "live", "a live page")
            assert "Nothing has crossed the wire yet" in page.inner_text("#empty")
        until(lambda: page.inner_text("#state") == "disconnected", "a page that is disconnected")
