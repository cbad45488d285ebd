"""Each verb: calls its stage, prints what came of it on stdout, gives the exit status.

Stages are imported here, inside, because torch takes seconds to import.
"""

import shlex

from pydantic import ValidationError

from captioncrafter import recipe, runs
from captioncrafter.cli import tables
from captioncrafter.cli.commands import Caption, Compare, Evaluate, Export, Plan, Prepare, Quickstart, Report
from captioncrafter.errors import InputError

DONE = 0
SOME_SET_ASIDE = 3

_QUICKSTART_RECIPE = "miniature"


def quickstart(command: Quickstart) -> int:
    """Status 0; the scores before and after, some captions, and what to try next."""
    from captioncrafter.stages import quickstart as stage

    result = stage.quickstart(command.out, recipe.load(_QUICKSTART_RECIPE))
    if command.json:
        tables.print_json(
            {
                "run": str(command.out),
                "report": str(result.report),
                "tuned": result.tuned.scores,
                "base": result.base.scores,
                "captions": result.captions,
                "photos": result.photos,
            }
        )
        return DONE
    tables.print_scores({"base": result.base.scores, "tuned": result.tuned.scores})
    tables.print_captions(result.captions)
    tables.print_captions(result.photos)
    pictures = shlex.quote(str(command.out / runs.PICTURES))
    tables.print_next(
        f"The report, to open in a browser: {result.report}",
        {
            "Caption the scenes with the new adapter": f"{tables.program()} caption {pictures}/scene-*.png "
            f"--adapter {shlex.quote(str(command.out / runs.ADAPTER))}",
            "Caption photos with the base, or your own": f"{tables.program()} caption {pictures}/*.jpg",
            "Bring real photos in": f"{tables.program()} prepare FLICKR8K_FOLDER --out data/flickr8k",
            "Tune on them (on a GPU: flickr8k-flan-t5-xl)": f"{tables.program()} train flickr8k-miniature",
        },
    )
    return DONE


def prepare(command: Prepare) -> int:
    """Status 0, or 3 when images were set aside."""
    from captioncrafter.stages import prepare as stage

    audit = stage.prepare(
        command.source, command.out, layout=command.layout, seed=command.seed, overwrite=command.overwrite
    )
    if command.json:
        tables.print_json(audit.to_json())
    else:
        tables.print_splits({name: (split.images, split.captions) for name, split in audit.splits.items()})
    return SOME_SET_ASIDE if audit.set_aside else DONE


def plan(command: Plan) -> int:
    """Status 0, whether it fits or not: the answer is what was asked for."""
    from captioncrafter.stages import plan as stage

    found = stage.plan(command.options, gpu_memory=command.gpu_memory, gpu_tflops=command.gpu_tflops)
    if command.json:
        tables.print_json(found.to_json())
    else:
        tables.print_plan(found.to_json(), recipe=command.recipe)
    return DONE


def evaluate(command: Evaluate) -> int:
    """Status 0; the metrics of a predictions file, or of a run and its base. 3 when images were left out."""
    from captioncrafter.stages import evaluate as stage
    from captioncrafter.stages.report import report as write_report

    options = _evaluation(command, "document_frequencies", "clip_model", "clip_revision", "spice_jar", "java")
    if command.run is not None:
        _refuse(command.predictions, "PREDICTIONS", "--run captions the images itself")
        _refuse(command.references, "--references", "--run takes those of the run's data")
        _refuse(command.out, "--out", "--run writes into the run")
        _refuse(command.allow_partial or None, "--allow-partial", "--run captions every image")
        _refuse(command.train, "--train", "--run knows what it was trained on")
        _refuse(command.images, "--images", "--run takes those of the run's data")
        tuned, before = stage.evaluate_run(
            command.run, split=command.split, base=command.base, device=command.device, options=options
        )
        write_report([command.run])
        columns = ({"base": before.scores} if before else {}) | {command.run.name: tuned.scores}
        if command.json:
            tables.print_json(tuned.scores | ({"base": before.scores} if before else {}))
        else:
            tables.print_scores(columns)
        return DONE
    if command.predictions is None or command.references is None:
        raise InputError(
            "give predictions and references (captioncrafter evaluate predictions.jsonl --references references.jsonl) "
            "or a run (captioncrafter evaluate --run RUN)."
        )
    _refuse(command.base or None, "--base", "it captions with a run's base model, and goes with --run")
    _refuse(command.device, "--device", "nothing is captioned here, and it goes with --run")
    found = stage.evaluate_files(
        command.predictions,
        command.references,
        split=command.split,
        trained_on=command.train,
        images=command.images,
        allow_partial=command.allow_partial,
        out=command.out,
        options=options,
    )
    if command.json:
        tables.print_json(found.scores)
    else:
        tables.print_scores({command.predictions.stem: found.scores})
    return SOME_SET_ASIDE if "partial" in found.scores else DONE


def compare(command: Compare) -> int:
    """Status 0, whether they differ or not: the answer is what was asked for. 3 when images were left out."""
    from captioncrafter.stages import compare as stage

    found = stage.compare(
        command.systems,
        _evaluation(
            command, "resamples", "seed", "document_frequencies", "clip_model", "clip_revision", "spice_jar", "java"
        ),
        references=command.references,
        split=command.split,
        metrics=command.metrics,
        images=command.images,
        allow_partial=command.allow_partial,
        out=command.out,
    )
    if command.json:
        tables.print_json(found)
    else:
        tables.print_comparison(found)
    return SOME_SET_ASIDE if "partial" in found else DONE


def _evaluation(command: Evaluate | Compare, *names: str) -> recipe.Evaluation:
    """How to score, by those of these options that the command states."""
    stated = {name: getattr(command, name) for name in names if getattr(command, name) is not None}
    try:
        return recipe.Evaluation.model_validate(stated)
    except ValidationError as error:
        raise InputError(recipe.explain(error, source="command line", checked=recipe.Evaluation)) from None


def caption(command: Caption) -> int:
    """Status 0, or 3 when images were set aside."""
    from captioncrafter.generation.captioner import Captioner
    from captioncrafter.generation.origin import Origin
    from captioncrafter.stages import caption as stage

    options = {name: getattr(command, name) for name in recipe.Decoding.model_fields}
    origin = Origin.of(
        command.base,
        adapter=command.adapter,
        revision=command.revision,
        prompt=command.prompt,
        precision=command.precision,
    ).with_decoding(**{name: value for name, value in options.items() if value is not None})

    def load() -> Captioner:
        return Captioner.from_origin(origin, device=command.device, merge=command.merge)

    result = stage.caption(command.images, load, origin.describe, out=command.out, sidecar=command.sidecar)
    return SOME_SET_ASIDE if result.set_aside else DONE


def report(command: Report) -> int:
    """Status 0; the page's path on stdout."""
    from captioncrafter.stages.report import report as write_report

    tables.print_line(str(write_report(command.runs, command.out)))
    return DONE


def export(command: Export) -> int:
    """Status 0; where it lies, and how to use it."""
    from captioncrafter.stages import export as stage

    if not command.merge:
        _refuse(command.dtype, "--dtype", "an adapter is copied as it is, and it goes with --merge")
    if command.push is None:
        _refuse(command.public or None, "--public", "nothing is published, and it goes with --push")
    found = stage.export(
        command.run,
        command.to,
        merge=(command.dtype or "bf16") if command.merge else None,
        base=command.base,
        revision=command.revision,
        overwrite=command.overwrite,
        push=stage.Repository(command.push, command.public) if command.push is not None else None,
    )
    if command.json:
        tables.print_json(found.to_json())
        return DONE
    what, option = ("Model", "--base") if found.kind == "merged" else ("Adapter", "--adapter")
    tables.print_next(
        f"{what}: {found.folder}" + (f", on the hub: {found.url}" if found.url else ""),
        {
            "Caption with it": f"{tables.program()} caption PHOTOS… {option} {found.folder}",
            "Examine it": f"{tables.program()} doctor {found.folder}",
        },
    )
    return DONE


def _refuse(value: object, name: str, reason: str) -> None:
    if value is not None:
        raise InputError(f"{name} does not go with the rest of this command: {reason}. Leave it out.")
