"""Which groups cost accuracy, and which of them to leave in float: ranking and greedy search.

Errors are measured on a `probe.Probe`; the noise share of a setting is its squared output error in units of that with
every group on, mean of the four outputs: 0 is float, 1 is everything in int8.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from tqdm import tqdm

from motrlab.quantization.analysis.groups import INPUTS, group_macs, groups_of, switched_on
from motrlab.quantization.analysis.probe import OutputError, Probe
from motrlab.quantization.analysis.sensitivity_tables import GroupRow, PathPoint, ranked
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.tracking.step import Graphs

Scores = Mapping[str, float]  # `mota`, `idf1`, fractions; empty where they are not measured
_LEAST_SHARE = 1e-3  # of the operations: below, groups count as equally cheap
# Of the noise. Any change draws the rounding errors behind it again, and with them a few percent of the noise: that
# much is found even for groups that alone make none.
_LEAST_GAIN = 5e-3


@dataclass(frozen=True)
class Costs:
    """Shares of the multiply-accumulates (0 to 1): of each group, and of what no rule quantises."""

    groups: Mapping[str, float]
    always_float: float

    @staticmethod
    def of(macs: Mapping[str, int]) -> Costs:
        """From `group_macs`."""
        total = max(1, sum(macs.values()))
        return Costs({name: n / total for name, n in macs.items() if name}, macs.get("", 0) / total)


def measure_groups(
    quantised: QuantizedMotr, probe: Probe, score: Callable[[Graphs], Scores] | None = None
) -> list[GroupRow]:
    """A row for each group, most noise alone first.

    `probe` holds what the float model gives. `score` measures graphs on the short clips. The noise of boxes, constants
    and of weights that calibration has rounded is there whatever is on (a few percent of all); it is not taken for that
    of a group that changes nothing else.
    """
    groups, costs = groups_of(quantised), Costs.of(group_macs(quantised))
    whole, least = _error(quantised, groups, probe), _error(quantised, (), probe)
    rows = []
    for name, group in tqdm(groups.items(), desc="sensitivity", disable=not sys.stderr.isatty(), unit="group"):
        rest = _error(quantised, groups.keys() - {name}, probe)
        with switched_on(quantised, {name}):
            alone = probe.output_error(quantised.graphs).unlike(least)
            scores = score(quantised.graphs) if score else {}
        rows.append(
            GroupRow(
                group=name,
                num_tensors=len(group.tensors),
                macs_share=costs.groups[name],
                **alone.each_db(),
                alone_noise_share=alone.share_of(whole),
                rest_noise_share=rest.share_of(whole),
                mota=scores.get("mota", math.nan),
                idf1=scores.get("idf1", math.nan),
            )
        )
    return ranked(rows)


def _error(quantised: QuantizedMotr, names: Collection[str], probe: Probe) -> OutputError:
    """With these groups on and all others off."""
    with switched_on(quantised, names):
        return probe.output_error(quantised.graphs)


def search(
    measure: Callable[[frozenset[str]], OutputError],
    costs: Costs,
    max_float_share: float,
    gains: Mapping[str, float] | None = None,
) -> list[PathPoint]:
    """Greedy search from all-int8: each round leaves the group in float that takes away most noise for its operations.

    Args:
        measure: error with these groups in float and all others on.
        costs: what each candidate costs; others stay as they are.
        max_float_share: limit of the share of multiply-accumulates that are not int8 (0 to 1).
        gains: noise share that each group takes away alone, where it is known already. Gains seldom grow as others are
            raised, so a round measures candidates in the order of what is last known of them and stops at the first
            that could not win (lazy greedy; Minoux, "Accelerated greedy algorithms", 1978).

    Returns:
        The start, then a point for each round. It ends when nothing more fits, or nothing gains.
    """
    raised: frozenset[str] = frozenset()
    start = measure(raised)
    known = {name: (gains or {}).get(name, math.inf) for name in costs.groups}
    path = [_point(0, "", costs.always_float, start, start)]
    bar = tqdm(desc="mixed precision", disable=not sys.stderr.isatty(), unit="round")
    while True:
        last = path[-1]
        room = max_float_share - last.float_share + 1e-12
        fitting = [name for name in known if name not in raised and costs.groups[name] <= room]
        found = _best_of(fitting, known, costs, partial(_with, measure, raised), start, last.noise_share)
        if found is None:
            break
        name, error = found
        raised |= {name}
        path.append(_point(len(path), name, last.float_share + costs.groups[name], error, start))
        bar.update()
    bar.close()
    return path


def _with(measure: Callable[[frozenset[str]], OutputError], raised: frozenset[str], name: str) -> OutputError:
    return measure(raised | {name})


def _best_of(
    names: Sequence[str],
    known: dict[str, float],
    costs: Costs,
    measure: Callable[[str], OutputError],
    start: OutputError,
    noise_share: float,
) -> tuple[str, OutputError] | None:
    """The group of most gain for its operations, and the error with it raised; `known` gains are brought up to date."""

    def rate(name: str) -> float:
        return known[name] / max(costs.groups[name], _LEAST_SHARE)

    best: tuple[str, OutputError] | None = None
    for name in sorted(names, key=rate, reverse=True):
        if best is not None and rate(name) <= rate(best[0]):
            break
        error = measure(name)
        known[name] = noise_share - error.share_of(start)
        if known[name] >= _LEAST_GAIN and (best is None or rate(name) > rate(best[0])):
            best = (name, error)
    return best


def _point(number: int, raised: str, float_share: float, error: OutputError, start: OutputError) -> PathPoint:
    return PathPoint(
        round=number,
        raised=raised,
        float_share=float_share,
        noise_share=error.share_of(start),
        **error.each_db(),
        mota=math.nan,
        idf1=math.nan,
    )


def search_groups(
    quantised: QuantizedMotr, probe: Probe, rows: Sequence[GroupRow], max_float_share: float
) -> list[PathPoint]:
    """`search` over the groups of a model that make noise alone; `rows` are those of `measure_groups`."""
    costs = Costs.of(group_macs(quantised))
    # An input in float gains nothing: the products that read it put it on its grid.
    noisy = {row.group for row in rows if row.group != INPUTS and row.alone_noise_share >= _LEAST_GAIN}
    candidates = {name: share for name, share in costs.groups.items() if name in noisy}
    names = groups_of(quantised).keys()

    def measure(raised: Collection[str]) -> OutputError:
        return _error(quantised, names - set(raised), probe)

    gains = {row.group: 1 - row.rest_noise_share for row in rows}
    return search(measure, Costs(candidates, costs.always_float), max_float_share, gains)
