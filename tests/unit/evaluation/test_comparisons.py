import numpy as np
import pytest
from safetensors.numpy import save

from pipeline.evaluation import comparisons, metrics


def cosines(values):
    return {"cosines": {name: list(values) for name in comparisons.TARGETS}}


def test_a_prior_is_held_against_the_linear_one_sample_by_sample():
    rng = np.random.default_rng(0)
    linear = rng.uniform(0, 1, 64)
    arms = {"linear_prior": cosines(linear), "prior": cosines(linear + 0.01)}
    arms["linear_prior_with_residuals"] = cosines(linear - 0.1)
    found = comparisons.cosines(arms, seed=0)
    assert set(found) == {
        "cosine_to_z_img",
        "cosine_to_z_img_centred",
        "cosine_to_z_txt",
        "cosine_to_other_z_img",
        "cosine_over_linear_prior",
        "cosine_over_linear_prior_with_residuals",
    }
    (draws,) = found["cosine_over_linear_prior_with_residuals"].values()
    assert draws.value == pytest.approx(0.11)
    (over,) = found["cosine_over_linear_prior"].values()
    assert (over.value, over.num) == (pytest.approx(0.01), 64)
    assert over.low95 == pytest.approx(over.high95)
    assert found["cosine_to_z_img"]["prior_cosine_to_z_img"].low95 < linear.mean()


def test_without_a_linear_prior_nothing_is_over_it():
    found = comparisons.cosines({"prior": cosines([0.1, 0.2])}, 0)
    assert not any(group.startswith("cosine_over") for group in found)


def test_a_rise_is_paired_and_codes_know_their_uniform_loss():
    as_is = np.random.default_rng(1).uniform(1, 3, 50)
    losses = {"as_is": as_is.tolist(), "caption_shuffled": (as_is + 0.25).tolist()}
    found = comparisons.conditions("m", {"losses": losses, "num_buckets": 64}, seed=0)
    assert found["m_loss_rise_caption_shuffled"].low95 == pytest.approx(0.25)
    assert found["m_loss_as_is"].value == pytest.approx(as_is.mean())
    assert found["m_loss_of_uniform"].value == pytest.approx(np.log(64))
    gaussian = {"losses_of_linear_gaussian": (as_is + 0.5).tolist()}
    found = comparisons.conditions("m", {"losses": losses, **gaussian}, seed=0)
    assert found["m_loss_below_linear_gaussian"].low95 == pytest.approx(0.5)
    coding = {"coding": {"coded": [0.01, 0.03]}}
    found = comparisons.conditions("m", {"losses": losses, **coding}, seed=0)
    assert found["m_squared_error_coded"].value == pytest.approx(0.02)
    assert "m_loss_of_uniform" not in found


def test_an_inversion_is_told_per_number_of_steps():
    rows = {"psnr": [20.0, 30.0], "mae": [5.0, 7.0]}
    found = comparisons.inversion({"round_trips": {"10": rows}, "other_noise": rows}, seed=0)
    assert found["inversion_10_steps_psnr_db"].value == 25
    assert found["other_noise_mean_absolute_error"].value == 6


def test_a_share_of_right_pictures_per_prior_and_attribute():
    arms = {"prior": {"right": {"colour": [True, False, True, True]}}, "mean": {"right": {}}}
    found = comparisons.pictures(arms)
    assert list(found) == ["prior_colour_right"]
    assert (found["prior_colour_right"].value, found["prior_colour_right"].num) == (0.75, 4)


def features(num, noise, seed=0):
    real = np.random.default_rng(seed).standard_normal((num, 2, 4))
    return real + noise * np.random.default_rng(seed + 1).standard_normal(real.shape)


def test_of_two_ways_the_closer_one_gains_and_equal_ways_gain_nothing():
    real, close, far = features(60, 0), features(60, 0.3), features(60, 2)
    found = metrics.compared_frechet(close, far, real, seed=0, num_resamples=100)
    assert found.gain.low95 > 0
    assert found.gain.value == pytest.approx(found.second.value - found.first.value)
    assert found.first.num == 60
    expected = metrics.frechet_distance(
        metrics.moments([close.reshape(-1, 4)]), metrics.moments([real.reshape(-1, 4)])
    )
    assert found.first.value == pytest.approx(expected)
    same = metrics.compared_frechet(close, close, real, seed=0, num_resamples=100)
    assert same.gain == metrics.Estimate(0.0, 0.0, 0.0, 60)
    swapped = metrics.compared_frechet(far, close, real, seed=0, num_resamples=100)
    assert swapped.gain.high95 < 0


def test_upsamplers_join_the_features_of_all_shards(tmp_path):
    sets = {"originals": features(40, 0), "made": features(40, 0.3), "bicubic": features(40, 2)}
    uris = []
    for half in (slice(0, 20), slice(20, 40)):
        uris.append(str(tmp_path / f"{half.start}.safetensors"))
        part = {name: np.ascontiguousarray(rows[half]) for name, rows in sets.items()}
        (tmp_path / f"{half.start}.safetensors").write_bytes(save(part))
    row = {"low_px": 8, "high_px": 16, "psnr": [30.0] * 20, "psnr_bicubic": [28.0] * 20}
    found = comparisons.upsamplers([row, row], {"8_16": uris}, seed=0, num_resamples=100)
    group = found["upsampler_8_16"]
    assert group["upsampler_8_16_psnr_db_over_bicubic"].num == 40
    assert group["upsampler_8_16_frechet_own_clip_40x2"].num == 40
    assert group["upsampler_8_16_frechet_below_bicubic"].low95 > 0


def manipulated(moved, kept, ends):
    return {
        "reconstruction": {"psnr": [20.0, 22.0]},
        "interpolation": ends,
        "variations": {"own noise": {"psnr": [15.0, 16.0], "kept": {"colour": kept}}},
        "edits": {"colour": {"theta 0.50": {"moved": moved, "others_kept": {"background": kept}}}},
        "pca": {
            "1 dimensions": {
                "sharpness": [0.1, 0.2],
                "psnr": [10.0, 11.0],
                "kept": {"colour": [not each for each in kept]},
            },
            "16 dimensions": {"sharpness": [0.3, 0.5], "psnr": [58.9, 58.9]},
            "4 dimensions": {"sharpness": [0.2, 0.2], "psnr": [20.0, 21.0]},
        },
    }


def test_manipulations_join_tasks_some_of_which_read_nothing():
    rows = [manipulated([True, False], [True], [0, 1]), manipulated([True], [], [3, 0])]
    rows.append({**manipulated([], [], [0, 0]), "edits": {}})
    found = comparisons.manipulations(rows, seed=0)
    assert found["reconstruction"]["reconstruction_psnr_db"].num == 6
    ends = found["interpolation"]["interpolation_ends_largest_difference"]
    assert (ends.value, ends.num) == (3.0, 6)
    moved = found["text_differences"]["text_colour_theta_0_50_moved"]
    assert (moved.value, moved.num) == (pytest.approx(2 / 3), 3)
    assert found["text_differences"]["text_colour_theta_0_50_background_kept"].num == 1
    assert found["variations"]["variation_from_own_noise_colour_kept"].value == 1
    rise = found["principal_components"]["sharpness_rise_with_dimensions"]
    assert rise.value == pytest.approx(0.25)
    kept = found["principal_components"]["colour_kept_by_1_dimensions"]
    assert (kept.value, kept.num) == (0.0, 1)
    assert "psnr_db_of_16_dimensions_to_all" not in found["principal_components"]
    assert "psnr_db_of_4_dimensions_to_all" in found["principal_components"]


def test_without_a_judge_there_are_no_text_differences():
    rows = [{**manipulated([], [], [0, 0]), "edits": {}}]
    assert "text_differences" not in comparisons.manipulations(rows, seed=0)
