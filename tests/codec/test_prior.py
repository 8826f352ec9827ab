from __future__ import annotations

import decimal
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from megen import codec, merging
from megen.codec import FeatureCodec, prior
from megen.codec.header import decode_header
from megen.training import prior as training
from megen.types import Received
from tests.codec.helpers import BACKBONE

SCENES = Path(prior.__file__).parents[1] / "assets" / "scenes"


def net(w1: float = 0, b1: float = 0, w2: float = 0, b2: float = 0, inputs: int = 7, hidden: int = 4) -> prior.Net:
    return prior.Net(*(np.full(shape, float(v)) for shape, v in (((inputs, hidden), w1), (hidden, b1), ((hidden, 2), w2), (2, b2))))


def test_the_table_of_levels_is_whole_symmetric_and_complete() -> None:
    counts = prior.logistic_levels()
    np.testing.assert_array_equal(counts, counts[:, ::-1])
    assert (counts >= 1).all()
    assert (counts.sum(1) == 2**16).all()


def test_the_table_does_not_depend_on_the_callers_decimal_context() -> None:
    expected = prior.logistic_levels()
    with decimal.localcontext() as context:
        context.prec, context.rounding = 5, decimal.ROUND_UP
        np.testing.assert_array_equal(prior.logistic_levels.__wrapped__(), expected)


@pytest.mark.parametrize(
    ("weights", "layer"),
    [({"w1": 32767, "inputs": 17}, 1), ({"b1": 2.0**31}, 1), ({"w2": 32767, "hidden": 3}, 2), ({"b2": 2.0**31}, 2), ({"w1": np.nan}, 1)],
)
def test_a_net_that_could_overflow_32_bits_is_refused(weights: dict[str, float], layer: int) -> None:
    with pytest.raises(prior.PriorError, match=f"a sum in layer {layer} of a net could reach"):
        net(**weights)  # type: ignore[arg-type]


def test_a_net_at_the_bound_is_taken() -> None:
    largest = net(w1=32767, inputs=16, w2=32767, hidden=2)
    _, scale = prior.predict(largest, np.full((1, 16), float(prior.LIMIT)))
    assert scale[0, 0] == 2 * 32767 * prior.ACTIVATION // prior.WEIGHT
    mean, _ = prior.predict(largest, np.full((1, 16), -float(prior.LIMIT)))
    assert mean[0, 0] == 0


@pytest.mark.parametrize("n", [1, 2, 25, 26, 27, 300])
def test_a_product_in_pieces_is_the_product(n: int) -> None:
    rng = np.random.default_rng(n)
    inputs, weights = (np.rint(1000 * rng.standard_normal(shape)) for shape in ((n, 159), (159, 128)))
    np.testing.assert_array_equal(prior._product(inputs, weights), inputs.astype(np.int64) @ weights.astype(np.int64))


def test_small_products_stay_on_the_callers_thread() -> None:
    work = """
import time, numpy as np
from megen.codec import prior
inputs, weights = np.ones((192, 159)), np.ones((159, 128))
time.sleep(0.5)  # threads that NumPy started spin a little before they wait
process, own = time.process_time(), time.thread_time()
for _ in range(300):
    prior._product(inputs, weights), prior._product(inputs[:1], weights)
process, own = time.process_time() - process, time.thread_time() - own
assert process < 1.1 * own, (process, own)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", work], env=environment, check=True)


@pytest.mark.parametrize("change", [{"step": np.array([0])}, {"step": np.array([1025])}, {"levels": np.ones((24, 49), np.int64)}])
def test_steps_and_tables_are_checked(change: dict[str, np.ndarray]) -> None:
    with pytest.raises(prior.PriorError, match="must"):
        replace(prior.plain(1), **change)


def test_another_table_gives_other_bits_and_another_digest() -> None:
    own = prior.plain(3)
    levels = own.levels.copy()
    levels[:, [10, 38]] += [[1, -1]] * (levels[:, 38:39] > 1)
    other = replace(own, levels=levels)
    assert other.digest != own.digest
    with pytest.raises(prior.PriorError, match="must hold 24 rows"):
        replace(own, levels=levels[:, :48])


def test_the_bundled_prior_fits_32_bits_and_carries_its_table() -> None:
    own = prior.load(SCENES, 32)
    np.testing.assert_array_equal(own.levels, prior.logistic_levels())
    with safe_open(SCENES / prior.FILE, framework="np") as file:
        assert file.metadata()["format"] == prior.FORMAT
        assert "levels" in file.keys()  # noqa: SIM118


def test_a_file_of_the_older_format_gets_the_table_that_it_was_made_with(tmp_path: Path) -> None:
    with safe_open(SCENES / prior.FILE, framework="np") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys() if key != "levels"}  # noqa: SIM118
    save_file(tensors, tmp_path / prior.FILE, {"format": prior.OLDER})
    assert prior.load(tmp_path, 32).digest == prior.load(SCENES, 32).digest


def smooth_latents(n: int) -> torch.Tensor:
    """Fields whose tokens resemble their neighbours, with a channel that does not."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.nn.functional.interpolate(torch.randn(n, 4, 4, 4, generator=generator), size=(16, 16), mode="bilinear")
    return torch.cat([coarse, torch.randn(n, 1, 16, 16, generator=generator)], 1)


def test_a_trained_prior_spends_fewer_bits_than_an_untrained_one_and_returns_from_its_file(tmp_path: Path) -> None:
    fields = smooth_latents(72)
    step = np.full(5, prior.UNIT, np.int64)
    trained = training.train(fields[:64], step, steps=80, batch=8)
    untrained = training.train(fields[:64], step, steps=1, batch=8)
    ours, before = (training.measured_bits(p, fields[64:], 18, 0.25) for p in (trained, untrained))
    assert ours < 0.8 * before
    prior.save(trained, tmp_path, {})
    loaded = prior.load(tmp_path, 5)
    assert loaded.digest == trained.digest != prior.plain(5).digest
    with pytest.raises(prior.PriorError, match="is of 5 channels"):
        prior.load(tmp_path, 6)
    (tmp_path / prior.FILE).write_bytes((tmp_path / prior.FILE).read_bytes()[:300])
    with pytest.raises(prior.PriorError, match="not a whole prior"):
        prior.load(tmp_path, 5)


def test_a_trained_net_whose_sums_are_too_large_is_scaled_into_32_bits() -> None:
    trained = training._Net(60, 2)
    with torch.no_grad():
        trained.first.weight.fill_(31.0)
        trained.second.weight.fill_(-31.0)
    whole = trained.whole()
    assert prior.bound(whole.w1, whole.b1, prior.LIMIT).max() <= prior.INT32
    assert np.abs(whole.w1).min() > 0


def test_own_scales_cost_far_fewer_bits_than_one_scale_for_all() -> None:
    tokens = smooth_latents(1)[0].flatten(1).T.numpy()
    merged = merging.merged(tokens, (16, 16), 0.0)
    own = FeatureCodec(None, BACKBONE)
    sent = own.encode(merged).payload
    header = decode_header(sent.header)
    assert len(header.scales) == prior.KINDS * 5
    assert own.decode(Received(sent)).rows.shape == (256, 5)
    assert sent == FeatureCodec(prior.plain(5), BACKBONE).encode(merged).payload
    # the fourth channel is noise, the others are smooth: their scales differ where the grid is fine
    finest = np.frombuffer(header.scales, np.uint8).reshape(prior.KINDS, 5)[-1]
    assert finest[4] > max(finest[:4]) + 8
    one_scale = replace(header, scales=bytes([max(header.scales)] * len(header.scales)))
    assert sent.bits()["features"] < 0.7 * bits_with(merged, one_scale.scales)


def bits_with(merged: merging.Merged, scales: bytes) -> int:
    """Bits of the features where every stage and channel has the given scales."""
    from megen.codec import features

    best = features._best_scales
    try:
        features._best_scales = lambda blocks, own: np.frombuffer(scales, np.uint8).reshape(prior.KINDS, -1).astype(np.int64)
        return FeatureCodec(None, BACKBONE).encode(merged).payload.bits()["features"]
    finally:
        features._best_scales = best


def test_a_trained_payload_needs_the_trained_prior_and_own_scales_do_not() -> None:
    tokens = np.random.default_rng(0).standard_normal((16, 32)).astype(np.float32)
    merged = merging.merged(tokens, (4, 4), 0.0)
    trained, plain = FeatureCodec(prior.load(SCENES, 32), BACKBONE), FeatureCodec(None, BACKBONE)
    with pytest.raises(codec.CodecError, match="this receiver has none"):
        plain.decode(Received(trained.encode(merged).payload))
    same_steps = FeatureCodec(replace(prior.plain(32), step=prior.load(SCENES, 32).step), BACKBONE)
    sent = Received(same_steps.encode(merged).payload)
    np.testing.assert_array_equal(trained.decode(sent).rows, same_steps.decode(sent).rows)


def test_the_training_loss_is_the_share_of_a_logistic() -> None:
    mean, log2_scale, target, step = (torch.tensor(v, dtype=torch.float64) for v in (0.3, -1.0, 1.1, 0.5))
    below = torch.sigmoid((target - mean - step / 2) / 0.5)
    above = torch.sigmoid((target - mean + step / 2) / 0.5)
    torch.testing.assert_close(training.bits(mean, log2_scale, target, step), -torch.log2(above - below))
    assert torch.isfinite(training.bits(mean, log2_scale - 10, target + 50, step))
