"""The app over HTTP: the images call, health, files, headers."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import openai
import pytest
from PIL import Image

from megen.errors import InputError, RunError
from megen.serving.access import Access, Limits, bearer, check_exposed, read_tokens
from megen.serving.app import HEADERS, App, openapi
from megen.serving.images import ImageRequest

from .helpers import ToldEngine, finished, live, progress, until

Make = Callable[..., App]


def ask(url: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any, Any]:
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urlopen(Request(url, data, headers or {}), timeout=10) as answer:
            return answer.status, answer.read(), answer.headers
    except HTTPError as error:
        return error.code, error.read(), error.headers


def picture(data: str) -> tuple[str | None, tuple[int, int]]:
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    return image.format, image.size


def client(url: str, key: str = "anyone-may") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def test_the_official_client_makes_an_image(tiny_server: str) -> None:
    made = client(tiny_server).images.generate(model="scenes", prompt="a castle at dawn", n=2, size="256x256")
    assert made.data
    assert [picture(entry.b64_json or "") for entry in made.data] == [("PNG", (256, 256))] * 2
    assert "castle" in (made.data[0].revised_prompt or "")


def test_the_official_client_streams_partial_images(told: Make) -> None:
    small = io.BytesIO()
    Image.new("RGB", (8, 8)).save(small, "webp")
    with live(told(ToldEngine(*(progress(k, preview=small.getvalue()) for k in (1, 2, 3)), finished()))) as url:
        stream = client(url).images.generate(prompt="a castle", stream=True, partial_images=2, output_format="webp")
        events = list(stream)
    assert [event.type for event in events] == [*["image_generation.partial_image"] * 2, "image_generation.completed"]
    assert picture(events[0].b64_json)[1] == (8, 8)
    assert picture(events[-1].b64_json) == ("WEBP", (64, 64))


def test_links_and_formats(told: Make) -> None:
    with live(told(ToldEngine(finished()))) as url:
        made = client(url).images.generate(prompt="a castle", response_format="url", output_format="jpeg", output_compression=50)
        assert made.data
        assert made.data[0].url
        status, data, headers = ask(made.data[0].url)
        assert status == 200
        assert headers["content-type"] == "image/jpeg"
        assert Image.open(io.BytesIO(data)).size == (64, 64)
        assert ask(f"{url}/v1/images/guessed.png")[0] == 404


def test_a_quality_is_a_number_of_steps(told: Make) -> None:
    engine = ToldEngine(finished())
    with live(told(engine)) as url:
        client(url).images.generate(prompt="a castle", quality="low")
        client(url).images.generate(prompt="a castle", quality="auto")
        client(url).images.generate(prompt="a castle", quality="high")
        assert [job.decision.steps for job in engine.jobs] == [1, 4, 4]


@pytest.mark.parametrize(
    ("offered", "steps"), [((1, 2, 4, 8, 12), [1, 4, 8]), ((8, 12, 16, 20, 30), [8, 16, 20]), ((1, 2, 4), [1, 2, 4]), ((1,), [1, 1, 1])]
)
def test_qualities_are_steps_that_the_backbone_offers(offered: tuple[int, ...], steps: list[int]) -> None:
    asked = [ImageRequest(prompt="a castle", quality=quality) for quality in ("low", "medium", "high")]
    assert [request.steps(offered) for request in asked] == steps


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"\xff\xfe", "body"),
        (b"[" * 3000, "body"),
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "x" * 2001}, "prompt"),
        ({"prompt": "x", "n": 0}, "n"),
        ({"prompt": "x", "n": 11}, "n"),
        ({"prompt": "x", "size": "512x512"}, "size"),
        ({"prompt": "x", "response_format": "gif"}, "response_format"),
        ({"prompt": "x", "stream": True, "n": 2}, "n"),
        ({"prompt": "x", "seed": -1}, "seed"),
        (b'{"prompt": "' + b"x" * 70_000 + b'"}', "body"),
    ],
)
def test_a_wrong_body_is_named(told: Make, body: Any, said: str) -> None:
    with live(told(ToldEngine(finished()))) as url:
        status, answer, _ = ask(f"{url}/v1/images/generations", body)
        error = json.loads(answer)["error"]
        assert status == 400
        assert said in error["message"]
        assert error["type"] == "invalid_request_error"


def test_errors_of_the_engine_and_of_a_full_queue(told: Make) -> None:
    with live(told(ToldEngine(RunError("the denoiser gave NaN")))) as url:
        with pytest.raises(openai.InternalServerError, match="NaN"):
            client(url).images.generate(prompt="a castle")
        status, body, _ = ask(f"{url}/v1/images/generations", {"prompt": "a castle", "stream": True})
        assert status == 200
        assert b"event: error" in body
    with live(told(ToldEngine(InputError("too many words")))) as url, pytest.raises(openai.BadRequestError, match="words"):
        client(url).images.generate(prompt="a castle")
    with live(told(ToldEngine(finished()), rows=1, capacity=0)) as url:
        status, _, headers = ask(f"{url}/v1/images/generations", {"prompt": "a castle"})
        assert status == 503
        assert int(headers["retry-after"]) >= 1


def test_a_client_that_leaves_frees_the_engine(told: Make) -> None:
    engine = ToldEngine(progress(1), 30.0, finished())
    with live(told(engine)) as url:
        with pytest.raises(openai.APITimeoutError):
            client(url).with_options(timeout=1.0).images.generate(prompt="a castle", stream=True, partial_images=1).__next__()
        until(lambda: engine.running == 0)


def test_tokens(told: Make) -> None:
    access = Access({"one": "a" * 20}, Limits(requests_a_minute=2))
    with live(told(ToldEngine(finished()), access)) as url:
        with pytest.raises(openai.AuthenticationError):
            client(url, "b" * 20).images.generate(prompt="a castle")
        client(url, "a" * 20).images.generate(prompt="a castle", n=2)
        with pytest.raises(openai.RateLimitError):
            client(url, "a" * 20).images.generate(prompt="a castle")


def test_health_readiness_and_figures(told: Make) -> None:
    app = told(ToldEngine(finished()))
    with live(app) as url:
        assert ask(f"{url}/healthz")[0] == 200
        assert ask(f"{url}/readyz")[0] == 200
        status, text, headers = ask(f"{url}/metrics")
        assert status == 200
        assert b"megen_waiting 0.0" in text
        for name, value in HEADERS.items():
            assert headers[name] == value
        app.service.draining = True
        assert ask(f"{url}/readyz")[0] == 503
        assert ask(f"{url}/healthz")[0] == 200
        assert ask(f"{url}/nothing")[0] == 404
        assert ask(f"{url}/../../etc/passwd")[0] == 404
        assert ask(f"{url}/healthz", b"x")[0] == 405


def test_what_decodes_is_served_and_lasts(tiny_app: App, tiny_server: str) -> None:
    from megen.codec import prior

    for path in (tiny_app._offered.receiver, tiny_app._offered.codec):
        status, data, headers = ask(tiny_server + path, headers={"Accept-Encoding": "identity"})
        assert status == 200
        assert data
        assert "immutable" in headers["cache-control"]
    status, _, headers = ask(tiny_server + tiny_app._offered.codec, headers={"Accept-Encoding": "gzip"})
    assert headers["content-encoding"] == "gzip"
    assert prior.FILE in tiny_app._offered.codec


def test_schemathesis_finds_no_failure_of_the_server(told: Make) -> None:
    import schemathesis
    from hypothesis import HealthCheck, given, settings

    with live(told(ToldEngine(finished()), Access(limits=Limits(requests_a_minute=100_000)))) as url:
        schema = schemathesis.openapi.from_dict(openapi())
        schema.config.base_url = url
        for result in schema.get_all_operations():
            operation = result.ok()

            @given(case=operation.as_strategy())
            @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
            def answers(case: Any) -> None:
                assert case.call(timeout=10).status_code < 500

            answers()


def test_token_files(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("# who\nphone abcdefghijklmnopqrstuvwx  # mine\nabcdefghijklmnopqrstuvwy\n\n")
    assert read_tokens(file) == {"phone": "abcdefghijklmnopqrstuvwx", "token-3": "abcdefghijklmnopqrstuvwy"}
    for wrong in ("", "# none\n", "phone short\n", "a b c\n", "phone abcdefghijklmnopqrstuvwx\nphone abcdefghijklmnopqrstuvwy\n"):
        file.write_text(wrong)
        with pytest.raises(InputError, match="token"):
            read_tokens(file)


def test_an_address_that_others_reach_needs_a_token() -> None:
    for host in ("127.0.0.1", "::1", "localhost", "127.9.9.9"):
        check_exposed(host, {}, insecure=False)
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(InputError, match="--token-file"):
            check_exposed(host, {}, insecure=False)
        check_exposed(host, {"one": "a" * 20}, insecure=False)
        check_exposed(host, {}, insecure=True)


@pytest.mark.parametrize(
    ("header", "token"), [("Bearer abc", "abc"), ("bearer  abc ", "abc"), ("Basic abc", None), ("Bearer", None), (None, None)]
)
def test_bearer(header: str | None, token: str | None) -> None:
    assert bearer(header) == token
