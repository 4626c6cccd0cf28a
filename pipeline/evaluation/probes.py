"""Probes of known limits: prompts by family, who can judge their pictures, and sheets for people.

Dimension names: ``picture``, ``dim`` (joint embedding), ``side`` (pixels).
"""

import textwrap
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np
import yaml

from pipeline.evaluation.config import Probe
from pipeline.evaluation.drawn import PICTURES, Rows, read_rows
from pipeline.evaluation.features import Extractor, FeatureSource
from pipeline.evaluation.metrics import Estimate, bootstrap_mean, normalised, proportion
from pipeline.evaluation.protocols import Estimates
from pipeline.evaluation.sheets import Column, sheet

SHIPPED = "probes.yaml"
SHOWN_PX, PX_PER_CHAR = 160, 6


def shipped_probes() -> tuple[Probe, ...]:
    """The probes of ``probes.yaml``."""
    text = resources.files("pipeline.evaluation").joinpath(SHIPPED).read_text(encoding="utf-8")
    return tuple(
        Probe(family=family, **each)
        for family, found in yaml.safe_load(text).items()
        for each in found
    )


def judged(
    probes: Sequence[Probe],
    drawn: Rows,
    clips: Sequence[FeatureSource],
    num_each: int,
    batch_size: int,
    seed: int,
) -> dict[str, Estimates]:
    """Share of right pictures per family, by each CLIP that reads captions and by the judge.

    Intervals are of resampled prompts, since pictures of one prompt have its difficulty in common;
    of a family of one prompt Wilson's. What neither can judge is left to people.

    Args:
        probes: One per prompt.
        drawn: Result of ``DrawAndRead``: ``num_each`` pictures of each prompt, together.
        clips: Of the networks whose features it took, those that read captions.
        num_each: Pictures per prompt.
        batch_size: Captions computed together.
        seed: Seed of the resampling.
    """
    groups: dict[str, Estimates] = {}
    rows = read_rows(drawn["file_uri"])
    for source in clips:
        right = _by_clip(probes, rows[source.name], source, num_each, batch_size)
        groups[f"probes_{source.name}"] = _by_family(probes, right, source.name, seed)
    right = _by_judge(probes, drawn["readings"], num_each)
    groups["probes_judge"] = _by_family(probes, right, "judge", seed)
    return {group: found for group, found in groups.items() if found}


Right = Mapping[int, np.ndarray]
"""Whether each picture of a probe is right, by the probe's number."""


def _by_clip(
    probes: Sequence[Probe], z_img: np.ndarray, source: FeatureSource, num: int, batch_size: int
) -> Right:
    extractor, found = Extractor(source, batch_size), {}
    for place, probe in enumerate(probes):
        if probe.rivals:
            z_txt = extractor.captions([probe.shows or probe.prompt, *probe.rivals])
            assert z_txt is not None  # a CLIP
            part = normalised(z_img[place * num : (place + 1) * num])
            scores = part @ normalised(z_txt).T
            found[place] = (scores[:, :1] > scores[:, 1:]).all(axis=1)
    return found


def _by_judge(
    probes: Sequence[Probe], readings: Sequence[Mapping[str, str | None]], num: int
) -> Right:
    found = {}
    for place, probe in enumerate(probes):
        part = readings[place * num : (place + 1) * num]
        if part and (probe.truth or probe.wrong):
            found[place] = np.array(
                [
                    all(reading.get(a) == value for a, value in probe.truth.items())
                    and all(reading.get(a) not in (value, None) for a, value in probe.wrong.items())
                    for reading in part
                ]
            )
    return found


def _by_family(probes: Sequence[Probe], right: Right, name: str, seed: int) -> Estimates:
    found: dict[str, list[np.ndarray]] = {}
    for place, rows in right.items():
        found.setdefault(probes[place].family, []).append(rows)
    return {
        f"{family}_right_by_{name}_{len(rows)}_prompts": _share(rows, seed)
        for family, rows in found.items()
    }


def _share(rows: Sequence[np.ndarray], seed: int) -> Estimate:
    if len(rows) == 1:
        return proportion(int(rows[0].sum()), len(rows[0]))
    return bootstrap_mean(np.array([each.mean() for each in rows]), seed)


def sheets(probes: Sequence[Probe], drawn: Mapping[str, Any], num_each: int) -> dict[str, bytes]:
    """One sheet per family: a row per prompt, headed by it and by what people should look for."""
    pictures = read_rows(drawn["file_uri"])[PICTURES]
    found = {}
    for family in dict.fromkeys(probe.family for probe in probes):
        places = [place for place, probe in enumerate(probes) if probe.family == family]
        told = [f"{probes[place].prompt} | {probes[place].expect}" for place in places]
        most = num_each * SHOWN_PX // PX_PER_CHAR
        names = [textwrap.shorten(each, most, placeholder=" …") for each in told]
        columns = [
            Column("", np.stack([pictures[place * num_each + number] for place in places]))
            for number in range(num_each)
        ]
        found[family] = sheet(columns, len(places), SHOWN_PX, names)
    return found
