"""Paired timings: two ways of doing the same thing, in turn, so that a busy machine slows both; and its name."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")


@dataclass(frozen=True)
class Ratio:
    """How many times longer the peer takes: the median over rounds, and the smallest and largest of them."""

    median: float
    low: float
    high: float
    ours: float
    peer: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def interleaved(calls: dict[str, Callable[[], object]], rounds: int = 5) -> dict[str, list[float]]:
    """Seconds of each call in every round, all of them in turn, after one unmeasured round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio(ours: list[float], peer: list[float]) -> Ratio:
    """The peer's seconds over ours, round by round."""
    ratios = sorted(theirs / own for own, theirs in zip(ours, peer, strict=True))
    return Ratio(statistics.median(ratios), ratios[0], ratios[-1], statistics.median(ours), statistics.median(peer))


def paired(ours: Callable[[], object], peer: Callable[[], object], rounds: int = 5) -> Ratio:
    """Time both in every round, after one unmeasured call of each; seconds are medians."""
    seconds = interleaved({"ours": ours, "peer": peer}, rounds)
    return ratio(seconds["ours"], seconds["peer"])


def processor() -> str:
    """What the system calls its processor."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
