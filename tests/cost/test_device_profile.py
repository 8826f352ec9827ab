"""When a machine is measured again, and what is said of a profile that is not as good as it could be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from megen.cli.main import main
from megen.control.controller import Controller
from megen.cost import device_profile
from megen.cost.device_profile import BUSY, DeviceProfile, ProfileError
from megen.evaluation.device_profile import cleaning
from megen.halves import halves
from megen.types import Decision


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DeviceProfile:
    """What this machine's profile could be; its cache folder is empty, and nothing else runs on it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(device_profile, "load_a_core", lambda: 0.0)
    return replace(device_profile.load("cpu"), name=device_profile.BY_ITSELF)


def keep(profile: DeviceProfile) -> None:
    device_profile.cached().parent.mkdir(parents=True, exist_ok=True)
    device_profile.save(profile, device_profile.cached(), {})


def test_a_machine_is_measured_once(own: DeviceProfile) -> None:
    assert device_profile.to_measure() == "for auto to decide by"
    keep(own)
    assert device_profile.to_measure() == ""


def test_a_machine_that_was_busy_is_measured_again_when_it_is_not(own: DeviceProfile, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(replace(own, load=2 * BUSY))
    assert "busy the last time" in device_profile.to_measure()
    monkeypatch.setattr(device_profile, "load_a_core", lambda: 2 * BUSY)
    assert device_profile.to_measure() == ""
    assert any("busy when it was measured (load 0.5 a core)" in line for line in Controller.load().assumptions)


def test_a_profile_that_somebody_asked_for_stays_however_busy_the_machine_was(own: DeviceProfile) -> None:
    keep(replace(own, name="mine", load=2 * BUSY))
    assert device_profile.to_measure() == ""


def test_a_broken_profile_or_one_of_another_backbone_plays_no_part_where_it_is_not_needed(own: DeviceProfile) -> None:
    keep(replace(own, backbone="mine"))
    assert any("no profile of this machine" in line for line in Controller.load().assumptions)
    device_profile.cached().write_text("{")
    assert not Controller.load(server="cpu", phone="phone").assumptions


def test_what_is_cleaned_takes_longer_at_the_user_equipment(own: DeviceProfile) -> None:
    own = replace(own, clean_s=0.0, fine_bits=0.0)
    cleaning = replace(own, clean_s=0.02, fine_bits=4.5)
    assert cleaning.ue_s() == cleaning.ue_s(Decision(4)) == cleaning.ue_s(Decision(4, 0.0, 4.5)) == own.ue_s()
    for coarse in (Decision(4, 0.0, 4.25), Decision(4, 0.25)):
        assert cleaning.ue_s(coarse) == pytest.approx(own.ue_s() + 0.02)
        assert own.ue_s(coarse) == own.ue_s()
        assert cleaning.scaled(2.0, 0.0, "a test").ue_s(coarse) == pytest.approx(2 * cleaning.ue_s(coarse))
    with pytest.raises(ProfileError, match="clean_s must be a number in"):
        replace(own, clean_s=-1.0)


@pytest.mark.parametrize("name", device_profile.COMPARED)
def test_a_profile_of_other_weights_is_measured_again(own: DeviceProfile, name: str) -> None:
    keep(replace(own, **{name: 0.85 * getattr(own, name)}))
    assert "of other weights" in device_profile.to_measure()
    assert any("of other weights" in line for line in Controller.load().assumptions)
    assert not Controller.load(server="cpu", phone="phone").assumptions  # it plays no part then


def test_a_profile_that_does_not_tell_decoding_from_cleaning_is_measured_again(own: DeviceProfile) -> None:
    keep(replace(own, clean_s=0.0, fine_bits=0.0))
    assert bool(device_profile.to_measure()) == bool(device_profile.load("cpu").fine_bits)
    keep(replace(own, name="mine", clean_s=0.0, fine_bits=0.0))
    assert device_profile.to_measure() == ""


def test_a_profile_that_does_not_tell_what_can_run_while_parts_cross_is_measured_again(own: DeviceProfile) -> None:
    keep(replace(own, code_first_s=0.0))
    assert "while parts cross" in device_profile.to_measure()
    keep(replace(own, name="mine", code_first_s=0.0))
    assert device_profile.to_measure() == ""


def test_a_profile_of_another_backbone_is_nobodys_of_this_one(own: DeviceProfile) -> None:
    keep(replace(own, backbone="mine", decode_gflop=1.0))
    assert "of another backbone" in device_profile.to_measure()
    assert device_profile.this_machine() is None


def test_a_broken_profile_is_for_its_reader_to_name(own: DeviceProfile) -> None:
    keep(own)
    device_profile.cached().write_text("{")
    assert device_profile.to_measure() == ""
    with pytest.raises(device_profile.ProfileError, match="is not a device profile"):
        Controller.load()


def test_a_forecast_says_what_is_wrong_with_this_machines_profile(own: DeviceProfile, capsys: pytest.CaptureFixture[str]) -> None:
    forecast = ["capacity", "--requests-an-hour", "20000", "--requests", "2000"]
    said = {}
    for name, profile in (("none", None), ("good", own), ("busy", replace(own, load=2 * BUSY)), ("other", replace(own, step_gflop=1.0))):
        if profile is not None:
            keep(profile)
        assert main(forecast) == 0
        said[name] = capsys.readouterr().err
    assert main([*forecast, "--server", "cpu"]) == 0
    assert (said["good"], capsys.readouterr().err) == ("", "")
    assert [word in said[name] for name, word in (("none", "no profile"), ("busy", "busy when"), ("other", "other weights"))] == 3 * [True]


def test_the_load_of_this_machine_is_a_number() -> None:
    assert 0 <= device_profile.load_a_core() < 1e4


def test_the_bundled_backbones_coarse_features_are_cleaned() -> None:
    transmitter, receiver = halves("scenes", "cpu")
    clean_s, fine_bits = cleaning(transmitter, receiver, transmitter.denoise(["a castle at dawn"], [0], 1), 1)
    assert clean_s > 0
    assert 0 < fine_bits <= transmitter.backbone.spec.default.quantiser_bits
