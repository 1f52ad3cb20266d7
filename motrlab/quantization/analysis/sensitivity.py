"""Which groups cost accuracy, and which of them to leave in float: ranking and greedy search.

The noise share of a setting is its squared output error on a `probe.Probe` in units of that with every group on, mean
of the four outputs: 0 is float, 1 is everything in int8.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence

from tqdm import tqdm

from motrlab.quantization.analysis.groups import INPUTS, group_costs, groups_of, switched_on
from motrlab.quantization.analysis.probe import OutputError, Probe
from motrlab.quantization.analysis.sensitivity_tables import GroupRow, PathPoint
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.tracking.step import Graphs

Scores = Mapping[str, float]  # `mota`, `idf1`, fractions; empty where they are not measured
Score = Callable[[Graphs], Scores]  # measures graphs on the short clips
_LEAST_SHARE = 1e-3  # of the operations: below, groups count as equally cheap
_LEAST_GAIN = 5e-3  # of the noise: any change draws the rounding errors behind it again, and makes a little of it


def measure_groups(quantised: QuantizedMotr, probe: Probe, score: Score = lambda _: {}) -> list[GroupRow]:
    """A row for each group, most noise alone first.

    `probe` is of the float model. The noise of boxes, constants and rounded weights is there whatever is on; it is not
    taken for that of a group that changes nothing else.
    """
    groups, costs = groups_of(quantised), group_costs(quantised)
    whole, least = _error(quantised, groups, probe), _error(quantised, (), probe)
    rows = []
    for name, group in tqdm(groups.items(), desc="sensitivity", disable=None, unit="group"):
        rest = _error(quantised, groups.keys() - {name}, probe)
        with switched_on(quantised, {name}) as graphs:
            alone, scores = probe.output_error(graphs).unlike(least), score(graphs)
        shares = {"alone_noise_share": alone.share_of(whole), "rest_noise_share": rest.share_of(whole)}
        rows.append(GroupRow(name, len(group), costs[name], **alone.each_db(), **shares, **scores))
    return sorted(rows, key=lambda row: -row.alone_noise_share)


def _error(quantised: QuantizedMotr, names: Collection[str], probe: Probe) -> OutputError:
    """With these groups on and all others off."""
    with switched_on(quantised, names) as graphs:
        return probe.output_error(graphs)


def search(
    measure: Callable[[frozenset[str]], OutputError],
    costs: Mapping[str, float],
    max_float_share: float,
    gains: Mapping[str, float] | None = None,
    enough: Callable[[frozenset[str]], bool] = lambda _: False,
) -> list[PathPoint]:
    """Greedy search from all-int8: each round leaves the group in float that takes away most noise for its operations.

    `measure`: error with these groups in float and all others on. `costs`: share of the multiply-accumulates (0 to 1)
    of each candidate, and of what is float anyway as ""; at most `max_float_share` of all leave int8. `gains`: noise
    share that each group takes away alone, where it is known. Gains seldom grow as others are raised, so a round
    measures candidates in the order of what is last known of them and stops at the first that could not win (lazy
    greedy; Minoux, "Accelerated greedy algorithms", 1978). Returns the start, then a point for each round, until it
    is `enough` that these groups are raised, nothing more fits, or nothing gains.
    """
    known = {name: (gains or {}).get(name, math.inf) for name in costs if name}

    def rate(name: str) -> float:
        return known[name] / max(costs[name], _LEAST_SHARE)

    raised: frozenset[str] = frozenset()
    start = measure(raised)
    path = [PathPoint(0, "", costs[""], start.share_of(start), **start.each_db())]
    for number in tqdm(itertools.count(1), desc="mixed precision", disable=None, unit="round"):
        if enough(raised):
            break
        last, best = path[-1], ""
        room = max_float_share - last.float_share + 1e-12
        for name in sorted((n for n in known if n not in raised and costs[n] <= room), key=rate, reverse=True):
            if best and rate(name) <= rate(best):
                break
            found = measure(raised | {name})
            known[name] = last.noise_share - found.share_of(start)
            if known[name] >= _LEAST_GAIN and (not best or rate(name) > rate(best)):
                best, error = name, found
        if not best:
            break
        raised |= {best}
        share = last.float_share + costs[best]
        path.append(PathPoint(number, best, share, error.share_of(start), **error.each_db()))
    return path


def search_groups(
    quantised: QuantizedMotr,
    probe: Probe,
    rows: Sequence[GroupRow],
    max_float_share: float,
    enough: Callable[[frozenset[str]], bool] = lambda _: False,
) -> list[PathPoint]:
    """`search` over the groups of a model that make noise alone; `rows` are those of `measure_groups`."""
    # An input in float gains nothing: the products that read it put it on its grid.
    noisy = {row.group for row in rows if row.group != INPUTS and row.alone_noise_share >= _LEAST_GAIN}
    costs = {name: share for name, share in group_costs(quantised).items() if name in noisy or not name}
    names = groups_of(quantised).keys()
    gains = {row.group: 1 - row.rest_noise_share for row in rows}
    return search(lambda raised: _error(quantised, names - raised, probe), costs, max_float_share, gains, enough)
