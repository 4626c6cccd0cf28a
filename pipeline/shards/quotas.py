"""Shares of several sources as a fixed pattern: who serves which position, error below 1.

Weights of 0.7 and 0.3 become the quotas 7 and 3, and a pattern of 10 positions that repeats. Up to
any position each source has served its share, to less than one sample; of two sources that holds in
any window too. (For three and more it cannot: shares of 1/2, 1/3 and 1/6 leave no such pattern; any
window then errs by less than two.) Plain integers: reading a run file imports this.
"""

import math
from collections.abc import Sequence
from fractions import Fraction


def quotas(weights: Sequence[float]) -> tuple[int, ...]:
    """The smallest whole numbers in the proportion of the weights, taken as they are written.

    Args:
        weights: Above 0; 0.1 means one tenth, not its nearest binary fraction.
    """
    exact = [Fraction(repr(weight)) for weight in weights]
    common = math.lcm(*(each.denominator for each in exact))
    whole = [int(each * common) for each in exact]
    divisor = math.gcd(*whole)
    return tuple(each // divisor for each in whole)


def pattern(quotas: Sequence[int]) -> list[int]:
    """Which source serves each position of one period.

    Source k has served between ``n * share - 1 + 1/(2K - 2)`` and ``n * share + 1 - 1/(2K - 2)`` of
    the first n positions. Source: Tijdeman 1980, The chairman assignment problem.

    Args:
        quotas: Positions of each source in a period; their sum is its length.
    """
    total, num_sources = sum(quotas), len(quotas)
    if num_sources == 1:
        return [0] * total
    slack = 2 * num_sources - 2  # everything below is times total * slack, so that it stays whole
    served = [0] * num_sources
    chosen = []
    for position in range(1, total + 1):
        due = [quota * position - total * done for quota, done in zip(quotas, served, strict=True)]
        open_sources = [k for k in range(num_sources) if due[k] * slack >= total]
        source = min(
            open_sources,
            key=lambda k: (Fraction(total * (slack - 1) - due[k] * slack, quotas[k]), k),
        )
        served[source] += 1
        chosen.append(source)
    return chosen
