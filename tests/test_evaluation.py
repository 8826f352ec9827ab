from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from megen.cli.main import main
from megen.errors import InputError
from megen.evaluation import backbone as bench_backbone
from megen.evaluation import link, pictures
from megen.halves import halves
from megen.models.embedded import EmbeddedBackbone
from megen.scenes import judge
from megen.scenes.captions import HELD_OUT, parse, sample_scene
from megen.scenes.render import render
from megen.training.adversarial_health import octaves, strong_edges
from tests.conftest import make_tiny


def picture() -> np.ndarray:
    drawn = render([sample_scene(np.random.default_rng(0))], 128)[0]
    return (drawn.permute(1, 2, 0) * 255).round().byte().numpy()


def test_a_file_is_found_at_its_psnr() -> None:
    kind = link.file_kinds(10)["webp"]
    bits, db, data = link.file_at(kind, picture(), 35.0)
    assert db == 35.0
    opened = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert link.psnr_db(opened, picture()) >= 35.0
    assert 0.8 * 8 * len(data) < bits <= 8 * len(data)
    least, found, _ = link.file_at(kind, picture(), 0.0)
    assert least < bits
    assert found > 0
    assert link.file_at(kind, picture(), 98.0)[1] < 98.0


def test_psnr_and_ssim_of_equal_and_unequal_images() -> None:
    image = picture()
    assert link.psnr_db(image, image) == 99.0
    assert link.ssim(image, image) == pytest.approx(1)
    off = np.clip(image.astype(int) + 5, 0, 255).astype(np.uint8)
    assert link.psnr_db(off, image) == pytest.approx(20 * np.log10(255 / 5), abs=0.3)


def test_a_file_takes_its_bits_over_the_links_rate() -> None:
    rng = np.random.default_rng(0)
    near, whole = link.airtime(200_000, 24.0, 1e6, rng)
    far, _ = link.airtime(200_000, 0.0, 1e6, rng)
    assert whole
    assert 200_000 / 1e6 / 8 < near < far
    assert not link.airtime(200_000, -30.0, 1e6, rng)[1]


def test_bench_link_prints_the_table(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "bench",
        "link",
        "--prompts",
        "2",
        "--sweep",
        "1",
        "--steps",
        "1",
        "--avif-speed",
        "10",
        "--backbone",
        str(tiny_folder),
        "--json",
        "-",
    ]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bits_ratio_avif_equal_psnr"] > 0
    assert told["bits_ratio_int8_latent"] > 0
    assert len(told["bits_ratio_avif_each"]) == 2
    for scheme in ("digital 0", "analog 0.5", "int8 latent", "reference fp16, ratio 0.5", "png", "avif", "jpeg", "webp"):
        rows = told["schemes"][scheme]
        assert set(rows) == {f"{s:g}" for s in link.SNRS_DB}
        assert set(rows["24"]) == {"bits", "airtime_s", "psnr_db", "ssim", "delivered"}
        assert rows["24"]["delivered"] == 1
    analog = [told["schemes"]["analog 0"][f"{s:g}"]["psnr_db"] for s in link.SNRS_DB if s >= 0]
    assert all(b > a for a, b in itertools.pairwise(analog))


def test_frechet_distance_of_shifted_and_of_scaled_sets() -> None:
    a = torch.randn(2000, judge.N_FEATURES, generator=torch.Generator().manual_seed(0))
    a = a - a.mean(0)
    assert bench_backbone.frechet_distance(a, a) == pytest.approx(0, abs=1e-3)
    assert bench_backbone.frechet_distance(a, a + 2) == pytest.approx(4 * judge.N_FEATURES, rel=1e-4)
    variance = float(torch.cov(a.T.double()).trace())  # between N(0, S) and N(0, 9 S): tr S (1 + 9 - 2 * 3)
    assert bench_backbone.frechet_distance(a, 3 * a) == pytest.approx(4 * variance, rel=1e-4)


def test_prompts_of_unseen_combinations_ask_for_them() -> None:
    for index in range(6):
        for unseen in (False, True):
            drawn, text = judge.held_out_prompt(index, unseen)
            named = parse(text)
            assert all(named[k] == getattr(drawn, k) for k in named)
            assert ((drawn.object, drawn.time, drawn.weather) in HELD_OUT) == unseen
            assert {"object", "time", "weather"} <= named.keys()


def test_accuracy_counts_what_prompts_name() -> None:
    prompts = bench_backbone.Prompts.of(3, 0)
    perfect = [parse(text) for text in prompts.texts]
    blind = [dict.fromkeys(right, "nothing") for right in perfect]
    for unseen in (False, True):
        assert bench_backbone.accuracy(prompts, perfect, unseen)[:2] == (1.0, 0.0)
        assert bench_backbone.accuracy(prompts, blind, unseen)[0] == 0.0
    half = [right if i % 3 else wrong for i, (right, wrong) in enumerate(zip(perfect, blind, strict=True))]
    share, error, _ = bench_backbone.accuracy(prompts, half, False)
    assert 0.3 < share < 0.95
    assert error > 0


def test_coverage_and_density_of_sets_that_are_alike_and_of_those_that_are_far_apart() -> None:
    real, again = torch.randn(2, 200, 4, generator=torch.Generator().manual_seed(0))
    density, coverage = pictures.density_and_coverage(real, again)
    assert density == pytest.approx(1, abs=0.15)
    assert coverage == pytest.approx(1 - 0.5**5, abs=0.06)  # of two sets of one law: 1 - P(none of the other set before the k-th own)
    assert pictures.density_and_coverage(real, real + 100) == (0.0, 0.0)
    assert pictures.density_and_coverage(real, real[:1].expand(200, -1))[1] < 0.1  # one picture again and again


def test_short_prompts_are_right_by_what_they_name() -> None:
    texts = ("a cabin at night, rain", "a lake", "nothing that is known")
    seen = [
        {"object": "cabin", "time": "night", "weather": "rain", "water": "sea"},
        {"object": "castle", "time": "noon", "weather": "fog", "water": "sea"},
        {"object": "castle", "time": "noon", "weather": "clear", "water": "sea"},
    ]
    found = pictures.short_figures(texts, seen, [True, True, False])
    assert found["right_short"] == pytest.approx(3 / 4)
    assert found["all_right_short"] == pytest.approx(1 / 2)
    assert found["unasked_weather"] == pytest.approx(1 / 2)
    assert found["one_object_short"] == 1  # one prompt asks for an object
    assert pictures.short_figures(texts, seen, [False, True, True])["one_object_short"] == 0
    assert pictures.short_figures(texts, seen)["one_object_short"] is None
    assert pictures.rights(texts[2:], seen[2:]) == {"right": None, "right_error": None, "all_right": None}


def test_two_backbones_are_compared_prompt_by_prompt() -> None:
    texts, seen = ("a castle", "rain"), [{"object": "castle", "weather": "clear"}, {"object": "castle", "weather": "fog"}]
    assert pictures.all_right(texts, seen) == [True, False]
    assert pictures.paired([True, False], [True, False]) == {"only_ours": 0, "only_theirs": 0, "p": 1.0}
    found = pictures.paired([True] * 6 + [False], [False] * 6 + [True])
    assert (found["only_ours"], found["only_theirs"]) == (6, 1)
    assert found["p"] == pytest.approx(2 * 8 / 2**7)  # P(0 or 1 of 7 coins) on either side
    real, near, far = torch.randn(3, 32, 256, generator=torch.Generator().manual_seed(1)).unbind()
    gain = bench_backbone.frechet_difference(real, near, far + 2)
    assert gain["lower_by"] > 5 * gain["standard_error"] > 0


def test_short_prompts_are_completed_unless_they_are_taken_as_typed() -> None:
    full, typed = bench_backbone.Prompts.of(4, 0), bench_backbone.Prompts.of(4, 0, as_typed=True)
    assert full.short == typed.short == typed.drawn
    assert all(parse(short).items() <= parse(drawn).items() for short, drawn in zip(full.short, full.drawn, strict=True))
    assert all("ridges" in parse(drawn) for drawn in full.drawn)


def test_a_backbone_is_measured_beside_its_teacher(tiny: EmbeddedBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_backbone, "frechet_error", lambda a, b: 0.0)
    monkeypatch.setattr(bench_backbone, "TEACHER_STEPS", 3)
    other = make_tiny(1)
    found, sheet = bench_backbone.compare(tiny, [1, 2], bench_backbone.Prompts.of(2, 0), tiny, other, skipped=2)
    assert sheet.size == (4 * 256, 3 * 256)
    assert found["steps"].keys() == {"1", "2"}
    for row in (*found["steps"].values(), *found["consistency"].values()):
        assert row.keys() >= {"scene_fd", "attribute_accuracy", "attribute_accuracy_unseen", "psnr_teacher_db", "seconds", "gflops"}
        assert row["scene_fd_excess"] == row["scene_fd"] - row["scene_fd_floor"]
        assert row.keys() >= {"right_full", "all_right_full", "coverage", "density", "sharpness"}
    for row in found["steps"].values():
        assert row.keys() >= {"right_short", "all_right_short", "unasked_weather"}
    assert found["renders"]["sharpness"].keys() == found["steps"]["1"]["sharpness"].keys()
    assert found["steps"]["2"]["gflops"] > 1.8 * found["steps"]["1"]["gflops"] - 0.1
    assert found["reduced depth"]["2"]["gflops"] < found["steps"]["2"]["gflops"]
    assert found["teacher, midpoint"]["2"]["gflops"] > 1.9 * found["teacher, Euler"]["2"]["gflops"] - 0.1
    assert found["teacher, Euler"]["2"]["psnr_teacher_db"] == pytest.approx(found["steps"]["2"]["psnr_teacher_db"], abs=0.01)
    json.dumps(found)


class Interrupted(Exception):
    pass


def after(parts: int) -> Callable[[str], object]:
    """A progress function that interrupts after some parts."""
    said = itertools.count(1)

    def say(text: str) -> None:
        if next(said) > parts:
            raise Interrupted

    return say


def test_a_bench_of_a_backbone_goes_on_where_it_was_interrupted(
    tiny: EmbeddedBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_backbone, "BOOTSTRAPS", 2)
    monkeypatch.setattr(bench_backbone, "seconds", lambda sampler, steps: 1.0)
    prompts, other = bench_backbone.Prompts.of(2, 0), make_tiny(1)
    whole, sheet = bench_backbone.compare(tiny, [1, 2], prompts, tiny, other, other, batch=3)
    for parts in (1, 5, 9):
        with pytest.raises(Interrupted):
            bench_backbone.compare(tiny, [1, 2], prompts, tiny, other, other, batch=3, say=after(parts), work=tmp_path)
    files = sorted(tmp_path.glob("*.npz"))
    assert len(files) == 9  # the progress function is called before each part
    written = [path.stat().st_mtime_ns for path in files]
    found, again = bench_backbone.compare(tiny, [1, 2], prompts, tiny, other, other, batch=3, work=tmp_path)
    assert json.dumps(found) == json.dumps(whole)
    assert again.tobytes() == sheet.tobytes()
    assert [path.stat().st_mtime_ns for path in files] == written
    with pytest.raises(InputError, match=r"another training or measurement \(prompts is"):
        bench_backbone.compare(tiny, [1], bench_backbone.Prompts.of(2, 1), tiny, other, other, batch=3, work=tmp_path)
    renders = torch.stack([torch.tensor(octaves(render([s], tiny.config.image_px[0]))) for s in prompts.scenes])
    assert found["renders"]["sharpness"]["finest"] == pytest.approx(float(renders[:, 0].square().mean().sqrt()), rel=1e-4)
    files[0].write_bytes(b"not what it was")
    with pytest.raises(InputError, match=r"is damaged .*: remove it"):
        bench_backbone.compare(tiny, [1], prompts, tiny, other, other, batch=3, work=tmp_path)


def test_strong_edges_are_the_pixels_at_a_step() -> None:
    picture = torch.zeros(1, 3, 16, 16)
    picture[..., 8:] = 0.5
    assert strong_edges(picture) == pytest.approx(1 / 15)  # one column of fifteen
    assert strong_edges(0.25 * picture) == 0
    each = bench_backbone._sharp(torch.cat([picture, 0 * picture]))
    assert bench_backbone._sharpness(*each)["strong_edges"] == pytest.approx(1 / 30)


def test_a_bench_of_the_link_goes_on_where_it_was_interrupted(tiny_folder: Path, tmp_path: Path) -> None:
    def compare(prompts: int, seed: int = 0, **options: Any) -> dict[str, Any]:
        return link.compare(*pair, prompts, 1, seed, 1, avif_speed=10, **({"on_progress": lambda text: None} | options))

    pair = halves(str(tiny_folder))
    whole = compare(2)
    for parts in (1, 3):
        with pytest.raises(Interrupted):
            compare(2, on_progress=after(parts), work=tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*-0*.json")}
    assert {path.name for path in kept} >= {"payload-00000.json", "payload-00001.json", "files-00000.json"}
    assert json.dumps(compare(2, work=tmp_path)) == json.dumps(whole)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert compare(1, work=tmp_path)["prompts"] == 1  # fewer or more of the same prompts may be asked for
    with pytest.raises(InputError, match="seed is 0 there, 1 here"):
        compare(2, seed=1, work=tmp_path)
