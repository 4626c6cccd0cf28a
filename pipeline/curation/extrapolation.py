r"""From counts and sums of a sample to those of the whole, with 95 % intervals.

A sample of m pairs stands for M = k m. A count d of it becomes k d, with Wilson's interval (1927)
for the share d / m. Pictures of one registered domain fail together, so for what the crawl saw the
sample counts as smaller, by the design effect (Kish 1965; over H domains with n_h addresses each,
of which d_h fall):

.. math:: \frac{H}{H - 1} \frac{\sum_h (d_h - p n_h)^2}{n p (1 - p)}, \quad p = d / n

A sum of bytes becomes k times the sum, with a normal interval from the same residuals. CPU time
grows along a line through the tasks, whose fixed costs stay as they are.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline import storage
from pipeline.candidates import urls
from pipeline.images.config import CrawlConfig
from pipeline.shards.manifest import SHARDS, VIEWS
from pipeline.shards.writer import read_table

Z95 = 1.959963984540054
KEPT, BYTES = "kept", "bytes"
NUM_TASKS_FOR_A_LINE = 8
SCALES = {
    "bytes": (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)),
    "hours": (("h", 1.0), ("min", 1 / 60), ("s", 1 / 3600)),
}


@dataclass(frozen=True)
class Estimate:
    """A number of the whole run."""

    value: float
    low95: float
    high95: float
    unit: str
    """``pairs``, ``pictures``, ``bytes``, ``hours`` or ``money``."""
    note: str = ""
    """What the number does not say."""

    def __str__(self) -> str:
        """Value and interval as people say them."""
        if self.low95 == self.high95:
            return say(self.value, self.unit)
        low, high = say(self.low95, self.unit), say(self.high95, self.unit)
        return f"{say(self.value, self.unit)} ({low} to {high})"


def say(value: float, unit: str) -> str:
    """A number with its unit: ``12,345 pairs``, ``1.23 GB``, ``4.5 h``."""
    if unit == "money":
        return f"{value:,.2f}" if value >= 1 else f"{value:.2g}"
    if unit not in SCALES:
        return f"{value:,.0f} {unit}"
    scales = SCALES[unit]
    name, size = next((each for each in scales if value >= each[1]), scales[-1])
    return f"{value / size:,.3g} {name}"


@dataclass
class DomainSums:
    """Sums over registered domains of what the crawl saw: n addresses each, d of one kind.

    A kind is a drop reason, ``kept``, or ``bytes``, of which d is then the number.
    """

    num_domains: int = 0
    num: int = 0
    num_squared: int = 0
    found: Counter[str] = field(default_factory=Counter)
    found_squared: Counter[str] = field(default_factory=Counter)
    found_times_num: Counter[str] = field(default_factory=Counter)
    largest_host: int = 0
    """Addresses of the host that has most."""
    request_s: float = 0.0
    """Mean time of a request to it."""

    def add(self, num: int, found: Counter[str]) -> None:
        """Add a domain."""
        self.num_domains += 1
        self.num += num
        self.num_squared += num * num
        for kind, count in found.items():
            self.found[kind] += count
            self.found_squared[kind] += count * count
            self.found_times_num[kind] += count * num

    def residual(self, kind: str) -> float:
        """Variance of the sum of a kind, beyond what the number of addresses explains."""
        if self.num_domains < 2:
            return 0.0
        rate = self.found[kind] / self.num
        squares = self.found_squared[kind] + rate * rate * self.num_squared
        correction = self.num_domains / (self.num_domains - 1)
        return max(0.0, correction * (squares - 2 * rate * self.found_times_num[kind]))

    def design_effect(self, kind: str) -> float:
        """How many addresses of the sample are worth one independent address; at least 1."""
        rate = self.found[kind] / self.num if self.num else 0.0
        expected = self.num * rate * (1 - rate)
        return max(1.0, self.residual(kind) / expected) if expected > 0 else 1.0


def domain_sums(uri: str) -> DomainSums:
    """Sums over the crawl log; a registered domain stands in one of its files alone."""
    sums = DomainSums()
    folder = storage.join(uri, "crawl_log")
    columns = ["url", "drop_reason", "num_bytes", "duration_s"]
    for name in storage.list_names(folder):
        num: Counter[str] = Counter()
        seconds: Counter[str] = Counter()
        on_host: Counter[str] = Counter()
        found: dict[str, Counter[str]] = {}
        for row in read_table(storage.join(folder, name), columns).to_pylist():
            domain, host = urls.registered_domain(row["url"]), urls.host(row["url"])
            num[domain] += 1
            on_host[host] += 1
            seconds[host] += row["duration_s"]
            kinds = found.setdefault(domain, Counter())
            kinds[row["drop_reason"] or KEPT] += 1
            kinds[BYTES] += row["num_bytes"] or 0
        for domain, count in num.items():
            sums.add(count, found[domain])
        for host, count in on_host.items():
            if host and count > sums.largest_host:
                sums.largest_host, sums.request_s = count, seconds[host] / count
    return sums


@dataclass(frozen=True)
class Scale:
    """From the sample to the whole."""

    factor: float
    """Pairs of the whole per pair of the sample."""
    num_used: int
    domains: DomainSums

    def count(self, kind: str, count: int, unit: str) -> Estimate:
        """A number of pairs or pictures; ``kind`` is a drop reason or ``kept``."""
        low, high = _wilson(count, self.num_used, self.domains.design_effect(kind))
        whole = self.factor * self.num_used
        return Estimate(self.factor * count, whole * low, whole * high, unit)

    def downloaded(self) -> Estimate:
        """Bytes that the crawl receives."""
        total = float(self.domains.found[BYTES])
        variance = self.domains.residual(BYTES) + total * total / max(1, self.domains.num)
        return self._sum(total, math.sqrt(variance), "bytes")

    def stored(self, content: Mapping[str, Any]) -> Estimate:
        """Shards and views; as uncertain, relatively, as what was downloaded."""
        entries = [*content[SHARDS], *(e for each in content[VIEWS].values() for e in each)]
        total = float(sum(entry["num_bytes"] for entry in entries))
        seen = self.downloaded()
        relative = (seen.value - seen.low95) / Z95 / seen.value if seen.value else 0.0
        return self._sum(total, relative * total, "bytes")

    def cpu_hours(self, tasks: Mapping[str, Sequence[Mapping[str, Any]]]) -> Estimate:
        """CPU time of all tasks: what the pilot took, and more for every further pair."""
        total, variance = 0.0, 0.0
        for each in tasks.values():
            nums = [task["num_pairs"] for task in each]
            growing = [task["cpu_s"] - task["fixed_cpu_s"] for task in each]
            rate, of_rate = _per_pair(growing, nums, self.num_used)
            further = (self.factor - 1) * sum(nums)
            total += sum(task["cpu_s"] for task in each) + rate * further
            variance += of_rate * further * further
        half = Z95 * math.sqrt(variance)
        return Estimate(total / 3600, max(0.0, total - half) / 3600, (total + half) / 3600, "hours")

    def least_crawl_hours(self, crawl: CrawlConfig) -> Estimate:
        """Time that the host with most pictures takes at the pace that spares it."""
        sums = self.domains
        pace_s = max(crawl.per_host_delay_s, sums.request_s / crawl.per_host_concurrency)
        low, high = _wilson(sums.largest_host, max(1, sums.num), 1.0)
        shares = (sums.largest_host / max(1, sums.num), low, high)
        hours = [self.factor * sums.num * share * pace_s / 3600 for share in shares]
        return Estimate(hours[0], hours[1], hours[2], "hours")

    def _sum(self, total: float, deviation: float, unit: str) -> Estimate:
        half = Z95 * deviation
        low, high = max(0.0, total - half), total + half
        return Estimate(self.factor * total, self.factor * low, self.factor * high, unit)


def _wilson(count: int, num: int, design_effect: float) -> tuple[float, float]:
    """Bounds of a share whose sample counts as ``num / design_effect`` independent draws."""
    effective, share = num / design_effect, count / num
    spread = Z95 * math.sqrt(share * (1 - share) / effective + Z95**2 / (4 * effective**2))
    centre, scale = share + Z95**2 / (2 * effective), 1 + Z95**2 / effective
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def _per_pair(values: Sequence[float], nums: Sequence[int], num_used: int) -> tuple[float, float]:
    """What a further pair costs, and the variance of that: a line through the tasks.

    Where tasks are few or alike, their fixed costs cannot be told apart: then the quotient of the
    sums, which a small pilot takes for too much.
    """
    num_tasks, total, num = len(values), sum(values), sum(nums)
    if num == 0:
        return 0.0, 0.0
    centre = num / num_tasks
    spread = sum((each - centre) ** 2 for each in nums)
    pairs = list(zip(values, nums, strict=True))
    if num_tasks >= NUM_TASKS_FOR_A_LINE and spread > 0:
        slope = sum((n - centre) * value for value, n in pairs) / spread
        if slope > 0:
            start = total / num_tasks - slope * centre
            squares = sum((value - start - slope * n) ** 2 for value, n in pairs)
            return slope, squares / (num_tasks - 2) / spread
    rate = total / num
    if num_tasks == 1:
        return rate, rate * rate / num_used
    squares = sum((value - rate * n) ** 2 for value, n in pairs)
    return rate, squares * num_tasks / (num_tasks - 1) / (num * num)
