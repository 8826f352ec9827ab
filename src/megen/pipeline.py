"""The whole way of one image: prompt, denoise, merge, code, link, decode bits, unmerge, decode image.

Transmitter (edge server)               Link               Receiver (user equipment)
denoise ──> encode ──> Transmission ────send────> Received ──decode──> image
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from megen.accounting import accounts, made_by
from megen.clock import Clock
from megen.codec import QUANTISER_BITS, check_copies, check_order, check_quantiser
from megen.codec.header import decode_header
from megen.cost.energy import ES_W, UE_DECODE_W
from megen.halves import LARGEST_SEED, OnStep, Receives, Transmitter, halves, tokens_of
from megen.link import Link, RadioLink
from megen.report import Report
from megen.scenes import completion
from megen.scenes import drafts as drafting
from megen.scenes.captions import parse
from megen.scenes.completion import Completion
from megen.scenes.understanding import in_plain_words
from megen.types import (
    Budget,
    ChannelState,
    Decision,
    Delivery,
    Features,
    InputError,
    Observation,
    Policy,
    Transmission,
    check_array,
    check_number,
    check_type,
)
from megen.words import check_words, words

LINK_STREAM = 1  # of a request's seed
WORLD = "scenes"  # whose prompts can be completed
# from this SNR on and up to this ratio merged tokens are worth more than coefficients (experiments/analog_airtime)
MERGING_DB, MERGING_MOST = 3.0, 0.5
CALM = 1  # the arrival phase of a lone request: between bursts


@dataclass(frozen=True)
class Result:
    """The received image [H, W, 3] in bytes, its report, what was sent and what was delivered."""

    image: np.ndarray
    report: Report
    transmission: Transmission
    delivery: Delivery


@dataclass(frozen=True)
class Pipeline:
    """Both halves, the link between them, and the policy that decides where the caller does not.

    `complete` draws what a prompt leaves open from its seed; None: prompts are taken as they are typed.
    """

    transmitter: Transmitter
    receiver: Receives
    link: Link = field(default_factory=RadioLink)
    policy: Policy | None = None
    analog: bool = False
    copies: int = 1  # of each analog symbol
    reduction: str | None = None  # of analog features; None: tokens from `MERGING_DB` on and up to `MERGING_MOST`
    complete: Callable[[str, int], Completion] | None = None
    order: str = "band"  # of a digital payload's parts, as in `FeatureCodec.encode`

    @classmethod
    def load(
        cls,
        backbone: str = "scenes",
        *,
        link: Link | None = None,
        policy: Policy | None = None,
        analog: bool = False,
        copies: int = 1,
        reduction: str | None = None,
        order: str = "band",
        device: str = "auto",
        as_typed: bool = False,
    ) -> Pipeline:
        """A bundled backbone by name, or one from its folder; prompts of the bundled world are completed, or with `as_typed` not.

        Errors: InputError.
        """
        transmitter, receiver = halves(backbone, device)
        complete = completion.complete if transmitter.backbone.spec.name == WORLD and not as_typed else None
        return cls(transmitter, receiver, RadioLink() if link is None else link, policy, analog, copies, reduction, complete, order)

    def __post_init__(self) -> None:
        if not isinstance(self.link, Link):
            raise InputError(f"link must have a method send(transmission, rng), got {self.link!r}")
        check_copies(self.copies, self.analog)
        check_order(self.order, self.analog)
        self.transmitter.transforms(self.reduction, self.analog)  # refuses one that cannot be

    def completed(self, prompt: str, seed: int) -> Completion:
        """The prompt with what it leaves open. Errors: InputError on a prompt without words and on a seed that is none."""
        check_words(prompt)
        check_number("seed", seed, 0, LARGEST_SEED, whole=True)
        if self.complete is None:
            return Completion(prompt)
        full = self.complete(prompt, int(seed))
        if len(words(full.text)) <= self.transmitter.backbone.spec.max_words:
            return full
        return replace(full, text=in_plain_words(parse(full.text)))  # as long as it must be

    def decide(
        self,
        prompt: str,
        *,
        steps: int | None = None,
        merge_ratio: float | None = None,
        quantiser_bits: float | None = None,
        budget: Budget | None = None,
        backlog_s: float = 0.0,
    ) -> Decision:
        """What of the decision is not given the policy decides where it is asked for steps or merge ratio; without one, four steps,
        no merging and the default quantiser.

        `backlog_s` is the work ahead of the request at the edge server. Errors: InputError.
        """
        spec = self.transmitter.backbone.spec
        check_words(prompt)
        state = self._state()
        observation = Observation(state, backlog_s, arrival_phase=CALM, prompt=prompt, budget=Budget() if budget is None else budget)
        chosen = spec.default if self.policy is None or None not in (steps, merge_ratio) else self.policy(observation)
        check_type("what the policy returns", chosen, Decision)
        given: dict[str, Any] = {"steps": steps, "merge_ratio": merge_ratio, "quantiser_bits": quantiser_bits}
        return spec.check(replace(chosen, **{name: value for name, value in given.items() if value is not None}))

    def _is_given(self, steps: int | None, merge_ratio: float | None, drafts: int) -> bool:
        """Whether the caller decides and not the policy. Errors: InputError where one is asked that does not plan for what is wanted."""
        if self.policy is None or None not in (steps, merge_ratio):
            return True
        if drafts > 1:
            raise InputError("a policy does not plan for drafts: give steps and merge ratio, or ask for one draft")
        if self.order == "layer":
            raise InputError("a policy does not plan for layers, which take more bits: give steps and merge ratio, or another order")
        return False

    def _way(self, ratio: float) -> dict[str, Any]:
        """How features cross that are reduced by a ratio."""
        reduction, es = self.reduction, self.transmitter
        if reduction is None and es.transforms(None, self.analog):  # the codec can do both
            snr_db = self._state().snr_db
            tokens = 0 < ratio <= MERGING_MOST and (snr_db is None or snr_db >= MERGING_DB)
            reduction = "merging" if tokens else "transform"
        return {"analog": self.analog, "copies": self.copies, "reduction": reduction or "merging", "order": self.order}

    def _state(self) -> ChannelState:
        """What is known of the link."""
        state: ChannelState = getattr(self.link, "state", lambda: ChannelState(None))()
        return state

    def _noise_seed(self, prompt: str, seed: int, drafts: int, clock: Clock) -> int:
        """The seed of the noise that goes on: the best of `drafts` one-step drafts of a completed prompt, or the request's own."""
        if drafts == 1:
            return seed
        seeds = drafting.seeds_of(seed, drafts)
        latents = self.transmitter.denoise([prompt] * drafts, seeds, 1, clock)
        with clock.stage("denoise"):
            return seeds[drafting.best(prompt, latents)]

    def __call__(
        self,
        prompt: str,
        *,
        seed: int = 0,
        drafts: int = 1,
        steps: int | None = None,
        merge_ratio: float | None = None,
        budget: Budget | None = None,
        backlog_s: float = 0.0,
        quantiser_bits: float | None = None,
        bits_budget: int | None = None,
        on_step: OnStep = lambda done: None,
    ) -> Result:
        """One request; with `bits_budget` the quantiser is the finest whose payload fits it, whatever was decided. The best of `drafts`
        one-step drafts goes on.

        Errors: InputError; RunError where the link lost too much or the weights are broken.
        """
        check_quantiser(QUANTISER_BITS if quantiser_bits is None else quantiser_bits, bits_budget, self.analog)  # before any work
        drafting.check(self.transmitter.backbone, drafts)
        given = self._is_given(steps, merge_ratio, drafts)
        full = self.completed(prompt, seed)
        decision = self.decide(
            full.text, steps=steps, merge_ratio=merge_ratio, quantiser_bits=quantiser_bits, budget=budget, backlog_s=backlog_s
        )
        check_order(self.order, self.analog, None if bits_budget is not None else decision.quantiser_bits)
        es, clock = self.transmitter, self.transmitter.clock()
        noise_seed = self._noise_seed(full.text, int(seed), int(drafts), clock)
        latent = es.denoise([full.text], [noise_seed], decision.steps, clock, on_step)
        bits, way = decision.quantiser_bits, self._way(decision.merge_ratio)
        sent = es.encode(latent, decision.merge_ratio, quantiser_bits=bits, bits_budget=bits_budget, clock=clock, **way)
        delivery = self.link.send(sent, np.random.default_rng([int(seed), LINK_STREAM]))
        check_type("what the link's send returns", delivery, Delivery)
        with clock.stage("decode"):
            image = self.receiver.decode(delivery.received)
        check_array("what the receiver's decode returns", image, np.uint8, (None, None, 3))
        powers_w = getattr(self.policy, "powers_w", (ES_W, UE_DECODE_W))  # the report's are those that auto decided by
        report = Report(
            prompt=prompt,
            completed_prompt=full.text,
            added=full.added,
            understood=dict(full.understanding.taken),
            missing=full.understanding.foreign + full.understanding.unknown,
            seed=int(seed),
            drafts=int(drafts),
            noise_seed=noise_seed,
            backbone=es.backbone.spec.name,
            decision=decision,
            decided_by="given" if given else getattr(self.policy, "__name__", type(self.policy).__name__),
            image={"width_px": image.shape[1], "height_px": image.shape[0]},
            **accounts(clock.seconds, sent, delivery, self.link, backlog_s, powers_w),
            quantiser_bits=None if self.analog or bits_budget is not None else bits,
            bits_budget=bits_budget,
            reduction=way["reduction"],
            copies=int(self.copies),
            order=None if self.analog else decode_header(sent.payload.header).order,
            made_by=made_by(es.backbone),
        )
        return Result(image, report, sent, delivery)

    def reference(self, prompt: str, *, seed: int = 0, steps: int | None = None, on_step: OnStep = lambda done: None) -> np.ndarray:
        """The image of the same seed without merging, quantiser and link, in `steps` steps or the most."""
        return reference(self.transmitter, self.receiver, self.completed(prompt, seed).text, seed, steps=steps, on_step=on_step)


def reference(
    transmitter: Transmitter, receiver: Receives, prompt: str, seed: int, *, steps: int | None = None, on_step: OnStep = lambda done: None
) -> np.ndarray:
    """The image of a seed without merging, quantiser and link, in `steps` steps or the most."""
    most = max(transmitter.backbone.spec.steps)
    latent = transmitter.denoise([prompt], [seed], most if steps is None else steps, on_step=on_step)
    return receiver.image_of(Features.clean(tokens_of(latent)))
