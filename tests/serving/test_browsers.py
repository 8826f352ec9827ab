"""The page in the engines of Firefox and Safari; Chromium's has tests of its own in `clients/web/e2e`."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import browsers
from .browsers import Browser

pytestmark = pytest.mark.slow
PROMPT, SEED, STEPS = "a lighthouse at sunset, snowy mountains", 3, 4
FINE, COARSE = {"merge_ratio": 0.0, "quantiser_bits": 5.0}, {"merge_ratio": 0.5, "quantiser_bits": 1.0}
ENGINES = {"firefox": browsers.firefox, "webkit": browsers.webkit}
MEGEN = (sys.executable, "-m", "megen")
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
UNTIL = """
const until = async (test, seconds = 120) => {
  for (const end = Date.now() + 1000 * seconds; Date.now() < end; await new Promise((then) => setTimeout(then, 50)))
    if (await test()) return
  throw new Error(`waited ${seconds} s in vain for ${test}`)
}
const at = (selector) => document.querySelector(selector)
const whole = () => until(() => at('#frame[data-state=whole]') && at('#draw:enabled'))
"""


@contextlib.contextmanager
def serving(log: Path) -> Iterator[str]:
    """An edge server of its own process, which can be stopped."""
    with browsers.process(log, *MEGEN, "serve", "--port", "0"):
        yield browsers.patiently(lambda: re.findall(r"open (http:\S+)", log.read_text())[0], 120)


def asked(url: str, out: Path, choice: dict[str, float]) -> str:
    """The picture that the Python user equipment decodes, a PNG file in base64."""
    options = [text for name, value in choice.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    command = (*MEGEN, "ask", PROMPT, "--server", url, "--seed", str(SEED), "--steps", str(STEPS), "--out", str(out), *options)
    subprocess.run(command, check=True, env=ENV, capture_output=True)
    return base64.b64encode(out.read_bytes()).decode()


def difference(page: Browser, png: str) -> float:
    """The largest difference in levels between the picture on the page and a PNG file."""
    found: float = page.run(f"""{UNTIL}
const bytes = Uint8Array.from(atob('{png}'), (letter) => letter.charCodeAt(0))
const bitmap = await createImageBitmap(new Blob([bytes], {{ type: 'image/png' }}))
const mine = at('canvas'), size = [0, 0, bitmap.width, bitmap.height], other = document.createElement('canvas')
if (mine.width !== bitmap.width || mine.height !== bitmap.height) return 256
Object.assign(other, {{ width: bitmap.width, height: bitmap.height }}).getContext('2d').drawImage(bitmap, 0, 0)
const [a, b] = [mine, other].map((canvas) => canvas.getContext('2d').getImageData(...size).data)
return a.reduce((most, value, k) => Math.max(most, Math.abs(value - b[k])), 0)
""")
    return found


def draw(page: Browser, choice: dict[str, float]) -> None:
    """Fill the form and wait for the whole picture; `choice` is written into what the page asks for."""
    page.run(f"""{UNTIL}
const {{ prototype }} = WebSocket
prototype.plainly ??= prototype.send
prototype.send = function (data) {{
  const asks = typeof data === 'string' && data.includes('"generate"')
  this.plainly(asks ? JSON.stringify({{ ...JSON.parse(data), ...{choice} }}) : data)
}}
at('#prompt').value = '{PROMPT}'
at('#prompt').dispatchEvent(new Event('input', {{ bubbles: true }}))
at('input[name=steps][value="{STEPS}"]').click()
at('#seed').value = '{SEED}'
at('#draw').click()
await until(() => at('#frame:not([data-state=whole])'))
await whole()
""")


def visit(page: Browser, url: str) -> None:
    """Open the page and wait until it has measured how long decoding takes."""
    page.go(url)
    page.run(f"{UNTIL} await until(() => at('#link[data-state=open]') && localStorage.getItem('megen.decode_s') !== null)")


@pytest.mark.parametrize("name", ENGINES)
def test_a_prompt_becomes_the_picture_that_the_python_user_equipment_decodes(name: str, tmp_path: Path) -> None:
    """In threads, and coarse features cleaned too, once the denoiser is there."""
    with ENGINES[name](tmp_path / "profile") as page, serving(tmp_path / "server") as url:
        fine = asked(url, tmp_path / "fine.png", FINE)
        cleaned = asked(url, tmp_path / "cleaned.png", COARSE)
        visit(page, url)
        assert page.run("return crossOriginIsolated")
        draw(page, FINE)
        assert difference(page, fine) <= 1
        draw(page, COARSE)
        assert difference(page, cleaned) > 1
        page.run(f"""{UNTIL}
const names = async () => (await Promise.all((await caches.keys()).map(async (n) => (await caches.open(n)).keys()))).flat()
await until(async () => (await names()).some(({{ url }}) => url.endsWith('denoiser.onnx')))""")
        draw(page, COARSE)
        assert difference(page, cleaned) <= 1


@pytest.mark.parametrize("name", ENGINES)
def test_the_history_opens_when_the_server_is_gone(name: str, tmp_path: Path) -> None:
    with ENGINES[name](tmp_path / "profile") as page:
        with serving(tmp_path / "server") as url:
            fine = asked(url, tmp_path / "fine.png", FINE)
            visit(page, url)
            draw(page, FINE)
            page.run("await navigator.serviceWorker.ready")
        page.go(url)
        page.run(f"{UNTIL} await until(() => at('#link[data-state=waiting]') && at('#pictures button'))")
        page.run(f"{UNTIL} at('#pictures button').click(); await until(() => at('#frame[data-state=whole]'))")
        assert difference(page, fine) <= 1
