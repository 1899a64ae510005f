"""Why a training diverged, and which setting to change in which direction. The guide is docs/tuning.md."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from sivae.training.config import Phase

_RECENT = 20  # records that speak for how the training was before
_FAR = 5.0  # a KL this many times another is far above it
_GROWN = 3.0  # a reconstruction error this many times its best has exploded
_SATURATED = 1e-6  # an exp-ELBO below this gives the encoder no gradient worth the name


def diagnose(records: Sequence[Mapping[str, Any]], losses: Mapping[str, float], phase: Phase) -> str:
    """Sentences that name the cause and the remedy.

    Args:
        records: what the run recorded before, by step.
        losses: of an iteration whose update could not be applied.
        phase: what that iteration trained.
    """
    before = [record for record in records if record.get("phase") == phase][-_RECENT:]

    def usual(name: str) -> float:
        values = [record[name] for record in before if record.get(name) is not None]
        return statistics.median(values) if values else math.nan

    best_rec = min((record["rec"] for record in before if record.get("rec") is not None), default=math.nan)
    rec, kl_real, kl_fake = usual("rec"), usual("kl_real"), usual("kl_fake")
    exp_elbo = usual("exp_elbo_fake")
    broken = [name for name, value in losses.items() if not math.isfinite(value)]
    findings: list[tuple[str, str]] = []
    last_rec = losses.get("rec", math.nan)
    if last_rec > _GROWN * best_rec or rec > _GROWN * best_rec:  # one that is NaN may have its cause anywhere
        findings.append(
            (
                f"rec exploded (best {best_rec:.4g}, lately {rec:.4g}, in the end {last_rec:.4g})",
                "lower --learning-rate, to a half or a fifth; with --precision bf16 try fp32",
            )
        )
    if phase == "soft-intro":
        if exp_elbo < _SATURATED:
            findings.append(
                (
                    f"the exp-ELBO of fakes is saturated at 0 (lately {exp_elbo:.2g}), so the encoder learns nothing "
                    "from them",
                    "lower --beta-neg, to a quarter",
                )
            )
        elif kl_fake > _FAR * kl_real:
            findings.append(
                (
                    f"the KL of fakes runs away (kl_fake {kl_fake:.4g} against kl_real {kl_real:.4g})",
                    "raise --beta-neg, to double: the exponential then lets go of fakes sooner",
                )
            )
    if phase == "intro" and kl_fake > _FAR * kl_real:
        findings.append(
            (
                f"the KL of fakes runs away (kl_fake {kl_fake:.4g} against kl_real {kl_real:.4g})",
                "lower --margin, or --alpha",
            )
        )
    if phase != "lord" and (kl_real > _FAR * kl_fake or (math.isnan(kl_fake) and kl_real > _FAR * rec)):
        beside = "rec" if math.isnan(kl_fake) else "kl_fake"
        value = rec if math.isnan(kl_fake) else kl_fake
        findings.append(
            (
                f"the KL of real samples is far above {beside} (kl_real {kl_real:.4g} against {value:.4g})",
                "raise --beta-kl, to double",
            )
        )
    if not findings:
        findings.append(
            (
                "the records before show no cause",
                "check that the data is finite; lower --learning-rate, to a half; with --precision bf16 try fp32",
            )
        )
    terms = f"Not finite: {', '.join(broken)}. " if broken else ""
    return terms + " ".join(f"Finding: {cause}; {remedy}." for cause, remedy in findings)
