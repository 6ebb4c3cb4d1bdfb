"""A headless Chromium that is driven over its debugging port, so that one can wait until a page shows something."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.prefect_server import until
from websockets.sync.client import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from websockets.sync.client import ClientConnection

CHROMIUM = Path("/usr/bin/chromium")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1400,1000",
    "--remote-debugging-port=0",
)
_COLOURS = """(async () => {
    const image = await createImageBitmap(await (await fetch("data:image/png;base64,PICTURE")).blob())
    const context = new OffscreenCanvas(image.width, image.height).getContext("2d")
    context.drawImage(image, 0, 0)
    const seen = new Set(), data = context.getImageData(0, 0, image.width, image.height).data
    for (let i = 0; i < data.length && seen.size < 100; i += 4)
        seen.add(data[i] << 16 | data[i + 1] << 8 | data[i + 2])
    return seen.size
})()"""


class Tab:
    """One page."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0

    def text(self) -> str:
        """What a person reads."""
        found = self._call("Runtime.evaluate", expression="document.body ? document.body.innerText : ''")
        return str(found["result"].get("value", ""))

    def colours(self) -> int:
        """Different colours in a picture of the page, up to a hundred."""
        counting = _COLOURS.replace("PICTURE", base64.b64encode(self.picture()).decode())
        found = self._call("Runtime.evaluate", expression=counting, awaitPromise=True)
        return int(found["result"]["value"])

    def picture(self) -> bytes:
        """The page as PNG."""
        return base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._connection.recv(timeout=60))
            if answer.get("id") == self._number:
                assert "result" in answer, answer
                return dict(answer["result"])


@contextmanager
def page(url: str) -> Iterator[Tab]:
    """A page of a browser of its own; everything of it is gone afterwards."""
    profile = Path(tempfile.mkdtemp(prefix="e2e-chromium-"))
    process = subprocess.Popen(
        [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", url],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        told = profile / "DevToolsActivePort"
        until(lambda: told.exists() and len(told.read_text().split()) == 2, 60)
        port = told.read_text().split()[0]

        def tabs() -> list[dict[str, str]]:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=10) as answer:
                return [each for each in json.load(answer) if each["type"] == "page"]

        until(tabs, 60)
        with connect(tabs()[0]["webSocketDebuggerUrl"], max_size=None, proxy=None) as connection:
            yield Tab(connection)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(profile, ignore_errors=True)
