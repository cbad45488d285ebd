"""CLIPScore and SPICE as evaluations kept them, image by image: comparing them takes neither a CLIP nor a jar."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from captioncrafter import events, runs, storage
from captioncrafter.errors import DataError
from captioncrafter.metrics.references import References
from captioncrafter.metrics.scorecard import Scorecard, mean_of
from captioncrafter.stages.systems import Evaluated, Model

_METRICS = {"CLIPScore": ("CLIPScore", "RefCLIPScore"), "SPICE": ("SPICE",)}
"""The metrics by what `scores.json` calls their scorer; the corpus value of each is the mean of the images'."""

_OPTIONS = {"CLIPScore": "--clip-model", "SPICE": "--spice-jar"}
_WITNESS = "ROUGE-L"
# Both are written with all their digits; a sum in another order differs in the last of them only.
_ROUNDING = 1e-9

_Rows = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class KeptScores:
    """The further metrics that every model's evaluation kept, and who scored them (`described`, for the result)."""

    described: Mapping[str, Any]
    rows: Mapping[Path, _Rows]

    @property
    def metrics(self) -> list[str]:
        """Their names."""
        return [metric for scorer in self.described for metric in _METRICS[scorer]]

    def beside(self, card: Scorecard, model: Model) -> Scorecard:
        """What was computed of `model`'s captions, and then what was kept of them.

        Raises `DataError` where the captions are no longer those that were scored.
        """
        if not self.described:
            return card
        rows = self.rows[model.source]
        then = np.array([rows[image].get(_WITNESS, math.nan) for image in card.image_ids], dtype=float)
        if not bool((np.abs(then - card.metrics[_WITNESS].per_image) < _ROUNDING).all()):
            raise DataError(
                f"{model.source}: no longer the captions that {runs.IMAGE_SCORES} beside it is of. "
                "`captioncrafter evaluate --run RUN` writes both anew."
            )
        values = {name: np.array([float(rows[image][name]) for image in card.image_ids]) for name in self.metrics}
        return card.beside(Scorecard(card.image_ids, {name: mean_of(one) for name, one in values.items()}))


def read_kept_scores(
    models: Sequence[Model], people: Mapping[str, Sequence[str]], *, but: Collection[str]
) -> KeptScores:
    """What every one of `models` has kept and that compares; of what some of them have, a line says why it does not.

    Scorers named in `but` are passed over.
    """
    described: dict[str, Any] = {}
    rows: dict[Path, _Rows] = {}
    having = {
        scorer: [model for model in models if model.evaluated and scorer in model.evaluated.scorer]
        for scorer in _METRICS
        if scorer not in but
    }
    fingerprint = References(people).fingerprint if any(having.values()) else ""
    for scorer, scored in having.items():
        if not scored:
            continue
        lacking = [model for model in models if model not in scored]
        why = _lack(scorer, lacking) if lacking else _difference(scorer, _evaluations(scored), fingerprint)
        if not why:
            rows = rows or {model.source: _rows(model) for model in models}
            holes = [model for model in models if not _are_whole(rows[model.source], model, _METRICS[scorer])]
            why = f"{holes[0].source} has no {runs.IMAGE_SCORES} beside it with a value of every image" if holes else ""
        if why:
            events.say(f"{' and '.join(_METRICS[scorer])}: not compared, for {why}.")
        else:
            described[scorer] = _evaluations(scored)[0].scorer[scorer]
    return KeptScores(described, rows)


def _evaluations(models: Sequence[Model]) -> list[Evaluated]:
    return [model.evaluated for model in models if model.evaluated]


def _lack(scorer: str, lacking: Sequence[Model]) -> str:
    names = ", ".join(str(model.source) for model in lacking)
    way = f"evaluate --run RUN {_OPTIONS[scorer]} … keeps one, and {_OPTIONS[scorer]} … here scores all"
    return f"there is none of {names} ({way})"


def _difference(scorer: str, evaluated: Sequence[Evaluated], fingerprint: str) -> str:
    """What keeps scores that all have from comparing; nothing where they do."""
    first = evaluated[0]
    for one in evaluated:
        if _identity(one.scorer[scorer]) != _identity(first.scorer[scorer]):
            return f"{first.folder} and {one.folder} were scored by different ones ({_OPTIONS[scorer]} … scores all)"
        if one.references != fingerprint:
            return f"{one.folder} was scored against other references than these ({_OPTIONS[scorer]} … scores all)"
    return ""


def _identity(described: Any) -> Any:
    """What tells one scorer from another: the same weights or jar give the same scores under any name or Java."""
    return described.get("weights", described.get("sha256")) if isinstance(described, dict) else described


def _rows(model: Model) -> _Rows:
    assert model.evaluated is not None
    file = model.evaluated.folder / runs.IMAGE_SCORES
    return {str(row.get("image_id")): row for row in storage.read_jsonl(file)} if file.is_file() else {}


def _are_whole(rows: _Rows, model: Model, metrics: Sequence[str]) -> bool:
    values = (rows.get(image, {}).get(metric) for image in model.captions for metric in metrics)
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)
