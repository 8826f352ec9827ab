from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest

from megen.cli.main import main
from megen.control.scenarios.main import build_cmdp
from megen.control.scenarios.scenario import Scenario
from megen.cost import device_profile as profile
from megen.cost import quality_grid as quality
from megen.cost.quality_grid import QualityGrid
from megen.evaluation import quality_grid as measuring
from megen.files import write_npz
from megen.halves import halves
from megen.link import NotDeliveredError, PerfectLink
from megen.models import embedded
from megen.types import Decision, Delivery, InputError, Received, Transmission


@pytest.fixture(scope="module")
def measured(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid of the tiny backbone, made by the command and interrupted once."""
    out = tmp_path_factory.mktemp("grid") / "quality.npz"
    options = ["--prompts", "12", "--steps", "1,2", "--backbone", str(tiny_folder), "--out", str(out)]
    assert main(["measure", *options]) == 0
    kept = sorted(out.with_name("quality.npz.work").glob("prompt-*.json"))
    assert len(kept) == 12
    before, times = quality.load(out), {p: p.stat().st_mtime_ns for p in kept}
    kept[3].unlink()
    assert main(["measure", *options]) == 0
    again = quality.load(out)
    np.testing.assert_array_equal(before.log_mse, again.log_mse)
    assert {p for p in kept if p.stat().st_mtime_ns != times[p]} == {kept[3]}
    return out


@pytest.fixture
def grid(measured: Path) -> QualityGrid:
    return quality.load(measured)


def test_a_measured_grid_holds_what_it_should(grid: QualityGrid) -> None:
    assert grid.decisions[:2] == (grid.decisions[0], replace(grid.decisions[0], merge_ratio=0.25))
    coarser = len(measuring.COARSER)
    assert grid.log_mse.shape == (3, 2, 4 + coarser, 11)
    assert grid.counts.sum() == 12
    assert (np.diff(grid.payload_bits[:, :, :4], axis=2) < 0).all()  # more merged, fewer bits
    assert (np.diff(grid.payload_bits[:, :, 4:], axis=2) < 0).all()  # a coarser quantiser, fewer bits
    assert grid.decisions[4] == Decision(1, 0.0, measuring.COARSER[0])
    assert grid.clean is not None
    assert (np.diff(grid.clean[:, :, [0, *range(4, 4 + coarser)], -1], axis=2) <= 0).all()
    assert (np.diff(grid.airtime_s[:, :, (0, -1)].mean(-1), axis=2) < 0).all()  # a better channel is faster
    assert (np.diff(grid.airtime_s, axis=-1) >= 0).all()
    assert (grid.delivered > 0.9).all()
    assert ((grid.fidelity >= 0) & (grid.fidelity <= 1)).all()
    assert grid.about["prompts"] == 12
    assert grid.about["command"].startswith("megen")


def test_each_prompt_is_heard_once_and_in_one_half(measured: Path, tiny_folder: Path) -> None:
    rows = [json.loads(p.read_text()) for p in sorted(measured.with_name("quality.npz.work").glob("prompt-*.json"))]
    for i, row in enumerate(rows):  # an airtime that tells of its prompt
        row["airtime_s"] = np.full(np.shape(row["airtime_s"]), i + 1.0).tolist()
    draws = measuring.grid_of(rows, (1, 2), embedded.load(str(tiny_folder)).spec, {}).airtime_draws_s
    assert draws.shape[:4] == (2, 3, 4 + len(measuring.COARSER), 11)
    of_class = draws[:, :, 0, 0]
    assert len(set(of_class.ravel())) == of_class.size  # [2, P, H]
    assert (draws == of_class[:, :, None, None]).all()


def test_another_link_is_measured_as_it_is(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that never delivers above 0 dB and takes as many seconds as its SNR has decibels."""

    @dataclass(frozen=True)
    class Upside:
        snr_db: float

        def send(self, transmission: Transmission, rng: np.random.Generator) -> Delivery:
            if self.snr_db > 0:
                raise NotDeliveredError("too good", self.snr_db)
            return replace(PerfectLink().send(transmission, rng), latency_s=1.0)

    monkeypatch.setattr(measuring, "SNRS_DB", (-6.0, 18.0))
    monkeypatch.setattr(measuring, "COARSER", ())
    row = measuring.measure_prompt(*halves(str(tiny_folder)), None, (1,), 0, "fog", Upside)
    assert row["delivered"] == [[1.0, 0.0]] * 4
    assert row["airtime_s"] == [[[1.0] * measuring.AIR_DRAWS, [18.0] * measuring.AIR_DRAWS]] * 4


def test_a_link_without_a_name_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    class Nameless(PerfectLink):
        __repr__ = object.__repr__

    with pytest.raises(InputError, match="give the link a repr"):
        measuring.measure(*halves(str(tiny_folder)), (1,), ["fog"], tmp_path / "work", print, lambda snr_db: Nameless())
    assert not (tmp_path / "work").exists()


def test_what_a_link_does_not_tell_of_is_seen_all_the_same(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that loses all parts but the base, and counts none."""

    class Silent:
        def __init__(self, snr_db: float) -> None:
            pass

        def send(self, transmission: Transmission, rng: np.random.Generator) -> Delivery:
            base, *others = transmission.payload.features
            return Delivery(Received(replace(transmission.payload, features=(base, *(b"" for _ in others)))), 1.0)

    monkeypatch.setattr(measuring, "SNRS_DB", (6.0,))
    monkeypatch.setattr(measuring, "COARSER", ())
    lost, whole = (
        measuring.measure_prompt(*halves(str(tiny_folder)), None, (1,), 0, "fog", link_of)
        for link_of in (Silent, lambda snr_db: PerfectLink())
    )
    assert lost["coded_db"][0][0][0] < whole["coded_db"][0][0][0] - 3


def test_a_prompts_class_follows_its_words() -> None:
    words = ("castle", "hills", "snow")
    rng = np.random.default_rng(0)
    bag = (rng.random((3000, 3)) < 0.5).astype(float)
    weights = quality.hardness_weights(bag, bag @ [1.0, 0.0, 2.0] - 5 + 0.1 * rng.standard_normal(3000))
    np.testing.assert_allclose(weights, [1, 0, 2], atol=0.03)
    np.testing.assert_array_equal(quality.bag_of_words(["Snow, snow on a castle.", ""], words), [[1, 0, 1], [0, 0, 0]])


def test_prompt_classes_of_a_grid_are_ordered(grid: QualityGrid) -> None:
    scores = {w: grid.prompt_class(w) for w in grid.words}
    hardest = grid.words[int(grid.word_weights.argmax())]
    assert scores[hardest] == max(scores.values())
    assert grid.prompt_class("") in (0, 1, 2)


def test_a_grid_comes_back_as_it_was_and_broken_ones_are_refused(grid: QualityGrid, tmp_path: Path) -> None:
    path = tmp_path / "q.npz"
    quality.save(grid, path)
    again = quality.load(path)
    assert again.words == grid.words
    np.testing.assert_array_equal(again.reward("seen"), grid.reward("seen"))
    np.testing.assert_array_equal(again.airtime_s, grid.airtime_s)
    path.write_bytes(path.read_bytes()[:-200])
    for wrong, why in ((path, "not a whole quality grid"), (tmp_path / "none.npz", "megen measure")):
        with pytest.raises(quality.QualityError, match=why):
            quality.load(wrong)
    nan = grid.log_mse.copy()
    nan[0, 0, 0, 0] = np.nan
    for change, why in (
        ({"snr_db": grid.snr_db * np.nan}, "snr_db must be a row of finite numbers"),
        ({"counts": -grid.counts}, "counts must be"),
        ({"log_mse": nan}, "finite numbers"),
        ({"log_mse": nan[:1]}, "shape"),
        ({"airtime_s": -grid.airtime_s}, "positive"),
        ({"payload_bits": -grid.payload_bits}, "payload_bits must be positive"),
        ({"delivered": 5 * grid.delivered}, r"delivered must lie in \[0, 1\]"),
        ({"steps": grid.steps[::-1].copy()}, "steps, snr_db and class_edges must rise"),
    ):
        with pytest.raises(quality.QualityError, match=why):
            quality.save(replace(grid, **change), path)


def test_a_grid_of_the_second_version_has_one_quantiser_and_says_nothing_of_what_is_seen(grid: QualityGrid, tmp_path: Path) -> None:
    old = {"sharpness": None, "clean": None, "seen": None, "seen_error": None}
    few, path = replace(grid.with_quantisers([5.0]), **old), tmp_path / "q.npz"
    arrays = {f.name: getattr(few, f.name) for f in fields(few) if f.name not in ("words", "about", "quantiser_bits", *old)}
    write_npz(path, {"format": "megen-quality-2", "words": few.words, "about": few.about}, arrays)
    read = quality.load(path)
    assert read.decisions == few.decisions
    np.testing.assert_array_equal(read.reward("reference"), few.reward("reference"))
    with pytest.raises(quality.QualityError, match="does not say what is seen"):
        read.reward("seen")
    with pytest.raises(quality.QualityError, match="the reward must be one of seen, reference, attributes, got 'x'"):
        read.reward("x")


def test_decisions_of_some_quantisers_alone_have_the_same_figures(grid: QualityGrid) -> None:
    few = grid.with_quantisers([measuring.COARSER[0]])
    assert [d.quantiser_bits for d in few.decisions] == [measuring.COARSER[0]] * 2
    at = [grid.decisions.index(d) for d in few.decisions]
    for kind in quality.REWARDS:
        np.testing.assert_array_equal(few.reward(kind).reshape(3, 2, 11), grid.reward(kind).reshape(3, -1, 11)[:, at])
    np.testing.assert_array_equal(few.airtime_s[:, 0], grid.airtime_s[:, 4])
    np.testing.assert_array_equal(few.airtime_draws_s[:, :, 0], grid.airtime_draws_s[:, :, 4])
    assert grid.with_quantisers([]) is grid
    with pytest.raises(quality.QualityError, match="bits, not 7"):
        grid.with_quantisers([7.0])


@pytest.mark.parametrize(("value", "seen"), [(30.0, 0.0), (36.2, 0.0), (42.65, 0.5), (49.1, 1.0), (99.0, 1.0)])
def test_opinions_are_linear_between_bad_and_unseen(value: float, seen: float) -> None:
    np.testing.assert_allclose(quality.opinion(np.array([value]), quality.CLEAN_DB), [seen], atol=1e-9)


def test_a_profile_is_measured_and_read(tiny_folder: Path, tmp_path: Path, grid: QualityGrid, unchecked: None) -> None:
    out = tmp_path / "p.json"
    assert main(["profile", "--backbone", str(tiny_folder), "--out", str(out), "--repeats", "2", "--name", "here", "--power-w", "25"]) == 0
    here = profile.load(str(out))
    assert here.name == "here"
    assert all(
        getattr(here, name) > 0
        for name in (*sorted({*profile.SECONDS} - {"clean_s", "refine_s"}), "text_gflop", "step_gflop", "decode_gflop", "power_w")
    )
    assert (here.clean_s, here.fine_bits, here.refine_s) == (0, 0, 0)  # it has no denoiser and no refiner
    assert here.power_w == 25 or "power_w" not in here.assumed
    assert here.es_s(3) - here.es_s(1) == pytest.approx(2 * here.step_s)
    cmdp = build_cmdp(grid, here, here, Scenario(backlog_cells=5), radio_w=3.06, radio_w_per_mbps=0.0115)
    assert cmdp.actions == 8  # of the default quantiser alone
    whole = build_cmdp(grid, here, here, Scenario(backlog_cells=5, reward="seen", quantiser_bits=()))
    assert whole.actions == len(grid.decisions)
    np.testing.assert_allclose(whole.reward[2, 1, 5], grid.reward("seen")[1, 0, 5, 2])
    np.testing.assert_allclose(whole.shown["psnr_db"][2, 1, 5], -10 / np.log(10) * grid.log_mse[1, 0, 5, 2])
    np.testing.assert_allclose(whole.shown["attributes"][2, 1, 5], grid.fidelity[1, 0, 5] * grid.delivered[5, 2])
    assert cmdp.shape == (11, 3, 2, 5)
    np.testing.assert_allclose(cmdp.service_s[0, 0, 4].mean() - cmdp.service_s[0, 0, 0].mean(), here.es_s(2) - here.es_s(1))
    np.testing.assert_allclose(cmdp.reward[2, 1, 6], -grid.log_mse[1, 1, 2, 2])
    with pytest.raises(ValueError, match="unlike backbones"):
        build_cmdp(grid, here, replace(here, backbone="another"), Scenario())
    with pytest.raises(ValueError, match="must not be negative, got -1 W"):
        build_cmdp(grid, here, here, Scenario(), radio_w=-1.0)
    told = json.loads(out.read_text())
    out.write_text(json.dumps({**told, "step_s": -1}))
    with pytest.raises(profile.ProfileError, match="step_s"):
        profile.load(str(out))
    for change, why in (({"step_s": True}, "step_s must be a number"), ({"name": None}, "name must be a text")):
        out.write_text(json.dumps({**told, **change}))
        with pytest.raises(profile.ProfileError, match=why):
            profile.load(str(out))
    out.write_bytes(b"\xef\xbb\xbf" + json.dumps(told).encode())  # as some editors save it
    assert profile.load(str(out)) == here
    with pytest.raises(profile.ProfileError, match="no device profile"):
        profile.load("toaster")


def test_wrong_inputs_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    out = str(tmp_path / "q.npz")
    for arguments, why in (
        (["measure", "--prompts", "11", "--out", out], "--prompts must lie in [12"),
        (["measure", "--out", out, "--work", str(tmp_path / "file")], "name a folder"),
        (["measure", "--out", out, "--steps", "1,x"], "--steps takes"),
        (["measure", "--out", out, "--steps", "4,4"], "--steps must rise"),
        (["measure", "--out", out, "--steps", "4,5"], "steps must be one of"),
        (["measure", "--out", out, "--work", out], "name a folder"),
        (["profile", "--out", str(tmp_path / "p.json"), "--repeats", "0"], "--repeats must lie"),
        (["profile", "--out", str(tmp_path / "p.json"), "--power-w", "0"], "--power-w must lie in"),
    ):
        assert main(arguments) == 2
        assert why in capsys.readouterr().err
