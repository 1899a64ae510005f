"""The stages of a growing run, as the method publishes them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sivae.errors import ConfigError
from sivae.settings.growth import PUBLISHED_BATCHES, Growing
from sivae.settings.presets import preset_config


def _published(**changes: object) -> Growing:
    values = {
        "epochs_per_stage": 16.0,
        "warmup_epochs": 1.0,
        "stage_rate_factors": (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 4 / 3, 2.0, 2.0),
        "stage_beta_neg_factors": (4.0, 4.0, 4.0, 2.0, 1.0),
    }
    return Growing(**{**values, **changes})  # type: ignore[arg-type]


def _small(**changes: object) -> Growing:
    """Stages of 4, 8 and 16 pixels: 20, 40 and 60 iterations, 10, 20 and 20 to an epoch."""
    growth = Growing(
        epochs_per_stage=2.0,
        warmup_epochs=1.0,
        stage_batches=(8, 4),
        stage_beta_neg_factors=(4.0, 2.0, 1.0),
    )
    return growth.planned(epochs=7.0, side=16, images=80)


def test_ffhq_on_one_gpu_is_as_published() -> None:
    plan = _published().planned(epochs=300.0, side=256, images=70_000)
    assert plan.stage_batches == PUBLISHED_BATCHES[1]
    assert plan.epoch_steps == tuple(70_000 // batch for batch in PUBLISHED_BATCHES[1])
    assert plan.stage_steps is not None and plan.epoch_steps is not None
    assert plan.stage_steps[:-1] == tuple(16 * steps for steps in plan.epoch_steps[:-1])
    assert plan.stage_steps[-1] == (300 - 6 * 16) * plan.epoch_steps[-1]  # the last stage has the rest
    assert plan.warmup_steps == 70_000 // 128
    final = plan.stage_at(plan.total_steps)
    assert (final.side, final.blend, final.last) == (256, 1.0, True)
    assert math.isclose(final.rate_factor * 0.0015, 0.002)


@pytest.mark.parametrize(("processes", "published"), [(1, 1), (2, 2), (3, 2), (4, 4), (8, 8), (16, 8)])
def test_batches_follow_the_number_of_processes(processes: int, published: int) -> None:
    plan = _published().planned(epochs=300.0, side=1024, images=70_000, processes=processes)
    assert plan.stage_batches is not None and len(plan.stage_batches) == 9
    expected = [*PUBLISHED_BATCHES[published], *[PUBLISHED_BATCHES[published][-1]] * 2][:9]
    for batch, whole in zip(plan.stage_batches, expected, strict=True):
        assert batch % processes == 0
        assert 0 <= batch - whole < processes


def test_stages_follow_each_other_and_count_their_iterations() -> None:
    plan = _small()
    assert (plan.stage_steps, plan.epoch_steps, plan.total_steps) == ((20, 40, 60), (10, 20, 20), 120)
    assert [plan.stage_at(step).side for step in (1, 20, 21, 60, 61, 120, 500)] == [4, 4, 8, 8, 16, 16, 16]
    assert [plan.stage_at(step).index for step in (1, 20, 21, 61)] == [0, 19, 0, 0]
    assert [plan.stage_at(step).batch_size for step in (1, 21, 61)] == [8, 4, 4]
    assert [plan.stage_at(step).last for step in (1, 60, 61)] == [False, False, True]


def test_a_stage_blends_in_over_its_first_half_and_the_first_does_not() -> None:
    plan = _small()
    assert {plan.stage_at(step).blend for step in range(1, 21)} == {1.0}
    blends = [plan.stage_at(step).blend for step in range(21, 61)]
    assert all(0.0 < blend < 1.0 for blend in blends[:20])
    assert blends[:20] == sorted(blends[:20])
    assert set(blends[20:]) == {1.0}
    # A sine: slow at both ends, and half-way in the middle.
    assert blends[9] + blends[10] == pytest.approx(1.0)
    assert blends[0] == pytest.approx(0.5 - 0.5 * math.cos(math.pi / 21))


def test_a_long_last_stage_is_blended_in_as_fast_as_the_others() -> None:
    plan = _published().planned(epochs=300.0, side=64, images=70_000)
    assert plan.stage_steps is not None and plan.epoch_steps is not None
    starts = [sum(plan.stage_steps[:lod]) for lod in range(5)]
    for lod in range(1, 5):
        ends = starts[lod] + 8 * plan.epoch_steps[lod]
        assert plan.stage_at(ends).blend < 1.0, lod
        assert plan.stage_at(ends + 1).blend == 1.0, lod


def test_beta_neg_changes_one_epoch_after_the_switch() -> None:
    plan = _small()
    factors = [plan.stage_at(step).beta_neg_factor for step in (1, 20, 21, 40, 41, 60, 61, 80, 81, 120)]
    assert factors == [4.0, 4.0, 4.0, 4.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0]


def test_images_are_counted_by_their_batches() -> None:
    plan = _small()
    assert [plan.images_after(step) for step in (0, 1, 20, 21, 120, 999)] == [0, 8, 160, 164, 560, 560]


def test_a_short_run_ends_before_the_last_stage() -> None:
    plan = _published().planned(epochs=20.0, side=256, images=70_000)
    assert plan.stage_steps is not None
    assert [steps > 0 for steps in plan.stage_steps] == [True, True, False, False, False, False, False]
    end = plan.stage_at(plan.total_steps)
    assert (end.side, end.last) == (8, False)
    assert plan.stage_at(plan.total_steps + 1).side == 8


def test_steps_compress_the_whole_schedule() -> None:
    plan = _published().planned(epochs=300.0, side=64, images=70_000, total_steps=1_000)
    whole = _published().planned(epochs=300.0, side=64, images=70_000)
    assert plan.stage_steps is not None and whole.stage_steps is not None
    assert plan.total_steps == 1_000
    for mine, theirs in zip(plan.stage_steps, whole.stage_steps, strict=True):
        assert abs(mine - theirs * 1_000 / whole.total_steps) <= 1.0
    assert plan.warmup_steps == max(1, round(whole.warmup_steps * 1_000 / whole.total_steps))


def test_small_sets_have_small_batches() -> None:
    plan = _published().planned(epochs=300.0, side=32, images=100, processes=2, accumulate=3)
    assert plan.stage_batches == (96, 96, 96, 66)


@pytest.mark.parametrize(
    ("batches", "processes", "words"),
    [((128,), 1, "only 100 images"), ((10,), 4, "multiple of 4")],
)
def test_batches_that_cannot_be_are_refused(batches: tuple[int, ...], processes: int, words: str) -> None:
    with pytest.raises(ConfigError, match=f"stage_batches: .*{words}"):
        _published(stage_batches=batches).planned(epochs=9.0, side=8, images=100, processes=processes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stage_steps": (0, 0)}, r"stage_steps = \(0, 0\): it must be 0 or more each, one above 0"),
        ({"stage_steps": (5, -1)}, "stage_steps = .*: it must be 0 or more each"),
        ({"stage_steps": ()}, "stage_steps = .*: it must be 0 or more each"),
        ({"blend_steps": (-1, 2)}, "blend_steps = .*: it must be one or more, each 0 or more"),
        ({"epoch_steps": (4,)}, r"epoch_steps = \[4\]: stage_steps has 2 stages, and each needs a value"),
        ({"stage_rate_factors": (1.0,)}, r"stage_rate_factors = \[1\.0\]: stage_steps has 2 stages"),
    ],
)
def test_a_plan_of_a_file_fits_together(changes: dict[str, Any], words: str) -> None:
    plan = _published().planned(epochs=9.0, side=8, images=1_000)
    with pytest.raises(ConfigError, match=words):
        plan.changed(**changes)


def test_a_plan_is_asked_for_before_its_steps() -> None:
    with pytest.raises(ConfigError, match="known once the data is open"):
        _published().stage_at(1)


@pytest.mark.parametrize("side", [1, 2, 3, 12])
def test_sides_that_no_model_grows_to_are_refused(side: int) -> None:
    with pytest.raises(ConfigError, match=f"resolution = {side}: a growing model needs a power of two, 4 or more"):
        _published().planned(epochs=9.0, side=side, images=1_000)


def test_a_plan_is_checked_against_the_processes_that_go_on_with_it() -> None:
    plan = _published().planned(epochs=300.0, side=256, images=70_000)
    plan.check_shared(4, 1)
    with pytest.raises(ConfigError, match=r"stage_batches: 4 at 256 pixels: 8 processes .* choose a multiple of 8"):
        plan.check_shared(8, 1)


def test_at_a_fixed_resolution_rates_and_warm_up_are_those_of_the_last_stage() -> None:
    fixed = preset_config("ffhq256", growth="none")
    assert fixed.learning_rate == pytest.approx(0.002)
    assert fixed.warmup_fraction == pytest.approx(1 / 300)
    assert preset_config("ffhq1024", growth="none").learning_rate == pytest.approx(0.003)
    assert preset_config("style32", growth="none", epochs=10.0).warmup_fraction == 1.0
    with pytest.raises(ConfigError, match="epochs = 0"):
        preset_config("style32", growth="none", epochs=0.0)


def test_accumulation_is_checked_against_the_batches_of_the_stages() -> None:
    config = preset_config("ffhq256", stage_batches=(16,), accumulate=8)
    assert config.growth.stage_batches == (16,)
    with pytest.raises(ConfigError, match="stage_batches: 16 at 4 pixels: 1 processes with accumulate = 3"):
        config.growth.planned(epochs=300.0, side=256, images=70_000, accumulate=3)
