"""One recipe trained with several seeds: mean and deviation over trainings, apart from the intervals over images."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from captioncrafter.report.content import System, hundredfold, measured_metrics


@dataclass(frozen=True)
class Repeated:
    """Trainings that differ in their seed only: their names, their seeds, and for each metric mean and deviation."""

    names: Sequence[str]
    seeds: Sequence[int]
    rows: Sequence[tuple[str, str, str]]


def repeated(systems: Sequence[System]) -> list[Repeated]:
    """Each recipe that stands here with two seeds or more, with the metrics that all its trainings were scored by.

    Values are times 100; the deviation is the sample's, over trainings.
    """
    groups: dict[str, dict[int, System]] = {}
    for system in systems:
        if system.training is not None and system.seed is not None:
            groups.setdefault(system.training, {}).setdefault(system.seed, system)
    return [_repeated(list(group.values()), list(group)) for group in groups.values() if len(group) > 1]


def _repeated(systems: Sequence[System], seeds: Sequence[int]) -> Repeated:
    rows = []
    for metric in measured_metrics(systems):
        values = [system.metric(metric)["value"] for system in systems if "value" in system.metric(metric)]
        if len(values) == len(systems):
            rows.append((metric, hundredfold(mean(values)), hundredfold(stdev(values))))
    return Repeated([system.name for system in systems], seeds, rows)
