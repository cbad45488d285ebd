"""`report.html`: one self-contained page about a run, safe to open whatever the captions say.

Nothing in it asks the network for anything. Its content security policy admits this very script and this very style
sheet, by their hashes, and images out of the page itself; captions and names pass through autoescaping.
"""

import base64
import hashlib
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from captioncrafter.errors import counted
from captioncrafter.report import findings, gallery, pairwise, provenance, repeats
from captioncrafter.report.content import Picture, ReportData, System, headline_metric, scored_per_image
from captioncrafter.report.figures import caption_figures, role_of, training_figures
from captioncrafter.report.headline import headline, score_table

__all__ = ["Picture", "ReportData", "System", "render"]


def render(data: ReportData) -> str:
    """The page as HTML. Everything that `data` lacks is left out; an empty `systems` is the one thing it cannot be."""
    style, script = _asset("page.css"), _asset("page.js")
    per_image = scored_per_image(data.subject)
    metric = headline_metric(per_image)
    tested = pairwise.against(data.systems)
    every_card = gallery.cards(data, metric)
    best, worst = gallery.extremes(data, every_card, metric)
    shown, waiting = every_card[: gallery.SHOWN_AT_FIRST], every_card[gallery.SHOWN_AT_FIRST :]
    return _template().render(
        data=data,
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        roles=[role_of(position) for position in range(len(data.systems))],
        facts=_facts(data),
        headline=headline(data, tested),
        table=score_table(data.systems),
        tested=pairwise.by_system(data.systems, tested),
        repeated=repeats.repeated(data.systems),
        findings=findings.findings(data),
        grounding=findings.grounding_table(data.systems),
        measures=findings.caption_measures(data) if data.subject.predictions else [],
        training=training_figures(data.systems),
        captions=caption_figures(data, metric) if data.subject.predictions else [],
        metric=metric,
        metrics=per_image,
        best=best,
        worst=worst,
        shown=shown,
        waiting=waiting,
        pictures=gallery.picture_cards(data),
        index=gallery.score_index(data),
        protocol=provenance.protocol_sections(data.subject.scores),
        recipe=provenance.recipe_sections(data.recipe),
        manifest=provenance.manifest_sections(data.manifest),
    )


def _asset(name: str) -> str:
    return (resources.files("captioncrafter.report") / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _template():
    environment = Environment(
        loader=PackageLoader("captioncrafter", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")


def _facts(data: ReportData) -> list[str]:
    """What was scored on what, in a few words each."""
    scores, images = data.subject.scores, len(data.subject.predictions)
    counts = sorted({len(texts) for texts in data.references.values()})
    decoding = scores.get("decoding", {})
    facts = [counted(scores.get("images", images), "image") if images or "images" in scores else ""]
    facts.append(f"{scores['split']} split" if "split" in scores else "")
    if counts:
        facts.append(
            f"{counted(counts[0], 'reference')} each"
            if len(counts) == 1
            else f"{counts[0]}–{counts[-1]} references each"
        )
    if "num_beams" in decoding:
        facts.append("greedy decoding" if decoding["num_beams"] == 1 else f"beam width {decoding['num_beams']}")
    facts.append(f"prompt “{scores['prompt']}”" if scores.get("prompt") else "")
    return [fact for fact in facts if fact]
