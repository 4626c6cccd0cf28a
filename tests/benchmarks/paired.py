"""Paired timings: ours and the peer's in turn, the median ratio and its lower bound.

Each pair runs both sides, the order swapped from pair to pair, so that a slow moment of the machine
meets both. A claim holds where the lower end of the 90 % interval of the median ratio (bootstrap
over pairs) reaches the bar less 0.02.
"""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

NUM_PAIRS = 5
NUM_PAIRS_NEAR_THE_BAR = 15
NEAR = 0.10
TOLERANCE = 0.02
BOOTSTRAPS = 10_000

Side = Callable[[], float]
"""Runs one side once; returns its rate, larger is better."""


def compare(
    benchmark: str,
    ours: Side,
    peer: Side,
    *,
    unit: str,
    at_least: float,
    peer_named: dict[str, Any],
    num_pairs: int = NUM_PAIRS,
    **also: Any,
) -> dict[str, Any]:
    """Measure in pairs, print each, and return the result.

    Args:
        benchmark: Name of what is compared.
        ours: Our side.
        peer: The peer's.
        unit: Of both rates.
        at_least: The bar: ours over peer's.
        peer_named: The peer's command, settings, version and the input's hash.
        num_pairs: Pairs at first; 15 where the median lies within 10 % of the bar.
        also: More fields of the result, such as absolute overheads.
    """
    pairs: list[tuple[float, float]] = []
    wanted = num_pairs
    while len(pairs) < wanted:
        first, second = (ours, peer) if len(pairs) % 2 == 0 else (peer, ours)
        rates = first(), second()
        pairs.append(rates if first is ours else (rates[1], rates[0]))
        a, b = pairs[-1]
        _say(f"{benchmark}: pair {len(pairs)}: ours {a:,.4g}, peer {b:,.4g} {unit}: {a / b:.3f}")
        ratio = float(np.median([a / b for a, b in pairs]))
        if len(pairs) == wanted and abs(ratio - at_least) <= NEAR * at_least:
            wanted = max(wanted, NUM_PAIRS_NEAR_THE_BAR)
    return verdict(benchmark, pairs, unit=unit, at_least=at_least, peer_named=peer_named, also=also)


def verdict(
    benchmark: str,
    pairs: Sequence[tuple[float, float]],
    *,
    unit: str,
    at_least: float,
    peer_named: dict[str, Any],
    also: dict[str, Any],
) -> dict[str, Any]:
    """The result of pairs of rates, ours first, that were measured in turn."""
    ratios = np.array([a / b for a, b in pairs])
    low90 = lower_bound(ratios)
    return {
        "benchmark": benchmark,
        "ours": float(np.median([a for a, _ in pairs])),
        "peer": float(np.median([b for _, b in pairs])),
        "unit": unit,
        "ratio": float(np.median(ratios)),
        "low90": low90,
        "at_least": at_least,
        "runs": len(pairs),
        "ok": low90 >= at_least - TOLERANCE,
        "peer_is": peer_named,
        **also,
    }


def lower_bound(ratios: np.ndarray) -> float:
    """Lower end of the 90 % interval of the median, by bootstrap with a fixed seed."""
    drawn = np.random.default_rng(0).choice(ratios, (BOOTSTRAPS, len(ratios)))
    return float(np.quantile(np.median(drawn, axis=1), 0.05))


def finish(results: list[dict[str, Any]]) -> int:
    """Print a table and, last, one line of JSON; 0 where every bar holds."""
    for found in results:
        verdict = "holds" if found["ok"] else "MISSED"
        _say(
            f"{found['benchmark']:<28} ours {found['ours']:>12,.4g}  peer {found['peer']:>12,.4g} "
            f"{found['unit']:<14} ratio {found['ratio']:.3f} (low90 {found['low90']:.3f}), "
            f"bar {found['at_least']:g}: {verdict}"
        )
    print(json.dumps(results if len(results) > 1 else results[0]))
    return 0 if all(found["ok"] for found in results) else 1


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
