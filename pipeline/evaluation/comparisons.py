"""Which question a number of ``jobs.evaluate --protocol`` answers: task results → named estimates.

Names are flat and without dots, so that gates can name them. Intervals are percentile bootstrap
over held-out samples, of shares Wilson's; differences are taken sample by sample. Dimension names:
``sample``.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from pipeline.evaluation.metrics import Estimate, bootstrap_mean, compared_frechet, proportion
from pipeline.evaluation.protocols import Estimates, upsampling
from pipeline.evaluation.upsampling_features import SETS, read_features

Rows = Mapping[str, Any]
LINEAR, LINEAR_DRAWS = "linear_prior", "linear_prior_with_residuals"
AS_IS = "as_is"
TARGETS = {"z_img": "z_img", "centred": "z_img_centred", "z_txt": "z_txt", "other": "other_z_img"}
"""What ``DrawHeldOut`` calls it → its name in a metric."""


def _column(rows: Sequence[float]) -> Float[np.ndarray, " sample"]:
    return np.array(rows, np.float64)


def cosines(arms: Mapping[str, Rows], seed: int) -> dict[str, Estimates]:
    """Cosines of every prior's draws, a group per target, and how far each is above the linear one.

    Args:
        arms: Result of ``DrawHeldOut`` per way to draw.
        seed: Seed of the resampling.
    """
    groups: dict[str, Estimates] = {}
    for target, name in TARGETS.items():
        groups[f"cosine_to_{name}"] = {
            f"{arm}_cosine_to_{name}": bootstrap_mean(_column(found["cosines"][target]), seed)
            for arm, found in arms.items()
        }
    for baseline in (LINEAR, LINEAR_DRAWS):
        if baseline in arms:
            of_it = _column(arms[baseline]["cosines"]["z_img"])
            groups[f"cosine_over_{baseline}"] = {
                f"{arm}_over_{baseline}": bootstrap_mean(
                    _column(found["cosines"]["z_img"]) - of_it, seed
                )
                for arm, found in arms.items()
                if arm not in (LINEAR, LINEAR_DRAWS)
            }
    return groups


def pictures(arms: Mapping[str, Rows]) -> Estimates:
    """Share of pictures that show what was asked, per prior and attribute (Wilson intervals).

    Args:
        arms: Result of ``DrawPrompts`` per way to draw.
    """
    return {
        f"{arm}_{attribute}_right": proportion(sum(right), len(right))
        for arm, found in arms.items()
        for attribute, right in found["right"].items()
    }


def conditions(model: str, found: Rows, seed: int) -> Estimates:
    """Held-out loss of one model as is and with other conditions, and by how much each raises it.

    Of an autoregressive prior in nats per code, beside the uniform distribution's and that of a
    linear Gaussian, and what coding costs.

    Args:
        model: Prefix of the names.
        found: Result of ``HeldOutLosses``.
        seed: Seed of the resampling.
    """
    losses = {name: _column(rows) for name, rows in found["losses"].items()}
    estimates = {
        f"{model}_loss_{name}": bootstrap_mean(rows, seed) for name, rows in losses.items()
    }
    for name, rows in losses.items():
        if name != AS_IS:
            rise = bootstrap_mean(rows - losses[AS_IS], seed)
            estimates[f"{model}_loss_rise_{name}"] = rise
    for name, rows in found.get("coding", {}).items():
        estimates[f"{model}_squared_error_{name}"] = bootstrap_mean(_column(rows), seed)
    if "losses_of_linear_gaussian" in found:
        gaussian = _column(found["losses_of_linear_gaussian"])
        estimates[f"{model}_loss_of_linear_gaussian"] = bootstrap_mean(gaussian, seed)
        below = bootstrap_mean(gaussian - losses[AS_IS], seed)
        estimates[f"{model}_loss_below_linear_gaussian"] = below
    if "num_buckets" in found:
        uniform = math.log(found["num_buckets"])
        estimates[f"{model}_loss_of_uniform"] = Estimate(
            uniform, uniform, uniform, len(losses[AS_IS])
        )
    return estimates


def inversion(found: Rows, seed: int) -> Estimates:
    """PSNR (dB) and mean absolute error (of 255) of pictures inverted and drawn again."""
    ways = {f"inversion_{n}_steps": rows for n, rows in found["round_trips"].items()}
    ways["other_noise"] = found["other_noise"]
    names = {"psnr": "psnr_db", "mae": "mean_absolute_error"}
    return {
        f"{way}_{name}": bootstrap_mean(_column(rows[key]), seed)
        for key, name in names.items()
        for way, rows in ways.items()
    }


def upsamplers(
    results: Sequence[Rows], features: Mapping[str, Sequence[str]], seed: int, num_resamples: int
) -> dict[str, Estimates]:
    """PSNR and Fréchet distance of each upsampler and of bicubic, a group per upsampler.

    Args:
        results: Of ``EmbedUpsampled``, all upsamplers and shards.
        features: Files of features per upsampler (``16_64``), in the order of the shards.
        seed: Seed of the resampling.
        num_resamples: Resamples of a Fréchet distance.
    """
    groups: dict[str, Estimates] = {}
    for step, uris in features.items():
        parts = [row for row in results if f"{row['low_px']}_{row['high_px']}" == step]
        found = upsampling(parts, seed)
        files = [read_features(uri) for uri in uris]
        made, bicubic, real = (np.concatenate([file[name] for file in files]) for name in SETS)
        compared = compared_frechet(made, bicubic, real, seed, num_resamples)
        name = f"upsampler_{step}_frechet_own_clip_{len(real)}x{real.shape[1]}"
        found[name] = compared.first
        found[f"{name}_of_bicubic"] = compared.second
        found[f"upsampler_{step}_frechet_below_bicubic"] = compared.gain
        groups[f"upsampler_{step}"] = found
    return groups


def manipulations(results: Sequence[Rows], seed: int) -> dict[str, Estimates]:
    """What manipulations keep, move and lose, a group per kind; none where nothing was read.

    Args:
        results: Of ``ManipulateHeldOut``, all tasks.
        seed: Seed of the resampling.
    """
    ends = [float(value) for row in results for value in row["interpolation"]]
    largest = max(ends)
    groups = {
        "reconstruction": {
            "reconstruction_psnr_db": _joined_mean(results, ("reconstruction", "psnr"), seed)
        },
        "interpolation": {
            "interpolation_ends_largest_difference": Estimate(largest, largest, largest, len(ends)),
            "interpolation_ends_difference": bootstrap_mean(_column(ends), seed),
        },
        "variations": _variations(results, seed),
        "text_differences": _text_differences(results),
        "principal_components": _principal_components(results, seed),
    }
    return {name: found for name, found in groups.items() if found}


def _joined(results: Sequence[Rows], path: Sequence[str]) -> list[Any]:
    """Rows of all tasks at one place; a task may have none there."""
    found: list[Any] = []
    for each in results:
        for name in path:
            each = each.get(name, {})
        found += each
    return found


def _names(results: Sequence[Rows], path: Sequence[str]) -> list[str]:
    """Names at one place, in the order in which tasks state them."""
    return list(dict.fromkeys(_joined(results, path)))


def _joined_mean(results: Sequence[Rows], path: Sequence[str], seed: int) -> Estimate:
    return bootstrap_mean(_column(_joined(results, path)), seed)


def _share(results: Sequence[Rows], path: Sequence[str]) -> Estimate | None:
    rows = _joined(results, path)
    return proportion(sum(rows), len(rows)) if rows else None


def _variations(results: Sequence[Rows], seed: int) -> Estimates:
    found: Estimates = {}
    for way in _names(results, ("variations",)):
        name = f"variation_from_{way.replace(' ', '_')}"
        found[f"{name}_psnr_db_to_reconstruction"] = _joined_mean(
            results, ("variations", way, "psnr"), seed
        )
        for attribute in _names(results, ("variations", way, "kept")):
            kept = _share(results, ("variations", way, "kept", attribute))
            if kept is not None:
                found[f"{name}_{attribute}_kept"] = kept
    return found


def _text_differences(results: Sequence[Rows]) -> Estimates:
    found: Estimates = {}
    for attribute in _names(results, ("edits",)):
        for theta in _names(results, ("edits", attribute)):
            path = ("edits", attribute, theta)
            name = f"text_{attribute}_{theta.replace(' ', '_').replace('.', '_')}"
            shares = {f"{name}_moved": _share(results, (*path, "moved"))}
            for other in _names(results, (*path, "others_kept")):
                shares[f"{name}_{other}_kept"] = _share(results, (*path, "others_kept", other))
            found |= {each: share for each, share in shares.items() if share is not None}
    return found


def _principal_components(results: Sequence[Rows], seed: int) -> Estimates:
    # Tasks that were read from their files state names in the order of the alphabet.
    names = sorted(_names(results, ("pca",)), key=lambda name: int(name.split()[0]))
    found: Estimates = {}
    for name in names:
        short = name.replace(" ", "_")
        found[f"sharpness_of_{short}"] = _joined_mean(results, ("pca", name, "sharpness"), seed)
        for attribute in _names(results, ("pca", name, "kept")):
            kept = _share(results, ("pca", name, "kept", attribute))
            if kept is not None:
                found[f"{attribute}_kept_by_{short}"] = kept
    for name in names[:-1]:
        found[f"psnr_db_of_{name.replace(' ', '_')}_to_all"] = _joined_mean(
            results, ("pca", name, "psnr"), seed
        )
    first, last = (
        _column(_joined(results, ("pca", n, "sharpness"))) for n in (names[0], names[-1])
    )
    found["sharpness_rise_with_dimensions"] = bootstrap_mean(last - first, seed)
    return found
