"""What a run on all candidates would give, told from a run on a sample of them.

A pilot reads every candidate and uses a share of the pictures (``SourceSettings.sample``). So what
readers drop is known exactly; everything later is extrapolated (``extrapolation``). Limits per
query shrink with the sample; what depends on copies meeting each other cannot be scaled and is
noted.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.candidates import schema
from pipeline.curation import costs
from pipeline.curation.config import CurateConfig, Prices
from pipeline.curation.extrapolation import KEPT, DomainSums, Estimate, Scale, domain_sums
from pipeline.errors import DataError
from pipeline.results import Result

NOTES = {
    "repeated_caption": "a caption that is repeated among all candidates may stand alone in the "
    "sample: more will fall",
    "exact_duplicate": "two copies are seldom both in the sample: more will fall",
    "near_duplicate": "two copies are seldom both in the sample: more will fall",
    "kept_pairs": "an upper bound, because a sample hides copies and repeated captions",
    "kept_pictures": "an upper bound, because a sample hides copies and repeated captions",
    "cpu_hours": "CPU time alone: a task that waits for the web still occupies its CPU",
    "least_crawl_hours": "the time that the host with most pictures takes at the configured pace, "
    "however many machines there are",
}
"""What a number does not say."""


@dataclass(frozen=True)
class Pilot:
    """What the whole run would give."""

    sample: float
    candidates: int
    """Of the whole run; known, not estimated."""
    num_used: int
    """Pairs of the sample."""
    estimates: dict[str, Estimate]
    dropped: dict[str, Estimate]
    """Per drop reason; reasons of readers have no width."""
    unseen_high95: float
    """Upper bound of the pairs that fall for any one reason that the sample did not show."""

    def as_json(self) -> dict[str, Any]:
        """The pilot as plain values."""
        return asdict(self)


def extrapolate(balanced: Result, curated: Result | None, prices: Prices) -> Pilot:
    """What the whole run would give.

    Args:
        balanced: The finished balance stage of a pilot.
        curated: Its finished curate stage; None where the run stops before the crawl.
        prices: What an hour of a CPU and a stored gigabyte cost.

    Raises:
        DataError: The sample holds no pair.
    """
    sample, funnel = balanced.content["sample"], (curated or balanced).content["funnel"]
    texts = costs.read(balanced.uri)
    by_reader = dict(texts["dropped_by_reader"])
    left_out = by_reader.pop(schema.NOT_IN_SAMPLE, 0)
    whole = funnel["candidates"] - sum(by_reader.values())
    num_used = whole - left_out
    if num_used == 0:
        raise DataError(
            f"the sample of {sample:g} holds none of {whole} candidates; use a larger share"
        )
    domains = DomainSums() if curated is None else domain_sums(curated.uri)
    scale = Scale(whole / num_used, num_used, domains)
    estimates = {"kept_pairs": scale.count(KEPT, funnel["kept"], "pairs")}
    tasks = texts["tasks"]
    if curated is not None:
        tasks |= costs.read(curated.uri)["tasks"]
        estimates |= _of_pictures(curated, scale)
    estimates["cpu_hours"] = scale.cpu_hours(tasks)
    estimates |= _costs(estimates, prices)
    dropped = {reason: _exact(count) for reason, count in by_reader.items()}
    later = Counter(funnel["dropped"])
    later.subtract({**by_reader, schema.NOT_IN_SAMPLE: left_out})
    for reason, count in later.items():
        if count:
            dropped[reason] = _plus(dropped.get(reason), scale.count(reason, count, "pairs"))
    return Pilot(
        sample=sample,
        candidates=funnel["candidates"],
        num_used=num_used,
        estimates=_noted(estimates),
        dropped=_noted(dropped),
        unseen_high95=scale.count("", 0, "pairs").high95,
    )


def _of_pictures(curated: Result, scale: Scale) -> dict[str, Estimate]:
    """What the crawl and the shards say."""
    config = CurateConfig.model_validate(curated.manifest["config"])
    return {
        "kept_pictures": scale.count(KEPT, curated.content["num_samples"], "pictures"),
        "downloaded_bytes": scale.downloaded(),
        "stored_bytes": scale.stored(curated.content),
        "least_crawl_hours": scale.least_crawl_hours(config.crawl),
    }


def _noted(found: Mapping[str, Estimate]) -> dict[str, Estimate]:
    return {
        name: replace(estimate, note=NOTES.get(name, estimate.note))
        for name, estimate in found.items()
    }


def _exact(count: int) -> Estimate:
    number = float(count)
    return Estimate(number, number, number, "pairs", "counted, not estimated")


def _plus(known: Estimate | None, found: Estimate) -> Estimate:
    """A reason that readers and later steps share."""
    if known is None:
        return found
    return Estimate(
        known.value + found.value, known.low95 + found.low95, known.high95 + found.high95, "pairs"
    )


def _costs(estimates: Mapping[str, Estimate], prices: Prices) -> dict[str, Estimate]:
    """What CPU hours and stored bytes cost; what has no price is left out."""
    parts = []
    if prices.per_cpu_hour is not None:
        parts.append((estimates["cpu_hours"], prices.per_cpu_hour))
    if prices.per_gb is not None and "stored_bytes" in estimates:
        parts.append((estimates["stored_bytes"], prices.per_gb / 1e9))
    if not parts:
        return {}
    value, low95, high95 = (
        sum(getattr(estimate, bound) * price for estimate, price in parts)
        for bound in ("value", "low95", "high95")
    )
    note = "in the currency of the prices: " + ", ".join(
        f"{price:g} per {name}"
        for name, price in (("CPU hour", prices.per_cpu_hour), ("stored GB", prices.per_gb))
        if price is not None
    )
    return {"cost": Estimate(value, low95, high95, "money", note)}
