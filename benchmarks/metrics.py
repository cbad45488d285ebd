"""All seven metrics of 1,000 captions, five references each: pycocoevalcap as everyone calls it, and ours.

The captions are drawn scenes' (terse ones as predictions, full sentences as references), so nothing is downloaded.
Ours are timed as a validation during training meets them: Java running, references used before. Memory is what a
process of its own and its Java processes hold at once, at the most.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from _outcome import interleaved, parser, ratio, tell
from _scored import SCORERS, by_pycocoevalcap
from captioncrafter.data.scenes import wording
from captioncrafter.data.scenes.world import draw_scene
from captioncrafter.metrics import java
from captioncrafter.metrics.references import References
from captioncrafter.metrics.scorecard import cider_of, score

IMAGES = 1000
SAMPLE_EVERY_S = 0.01
THEIRS, OURS = "pycocoevalcap, all", "ours, all, warm"


def main() -> None:
    """Checks that both say the same, measures their memory, times them in turns, prints the ratios."""
    options = parser(__doc__ or "").parse_args()
    # pycocoevalcap starts whatever `java` the PATH has.
    os.environ["PATH"] = os.pathsep.join([str(Path(java.find_java()).parent), os.environ["PATH"]])
    scenes = [draw_scene(1, "train", number) for number in range(IMAGES)]
    predictions = {str(number): wording.terse(scene)[0] for number, scene in enumerate(scenes)}
    captions = {str(number): wording.house(scene) for number, scene in enumerate(scenes)}
    peaks = {name: _peak_memory(name, predictions, captions) for name in SCORERS}
    references = References(captions)
    cold = time.perf_counter()
    ours = score(predictions, references)
    cold = time.perf_counter() - cold
    for metric, value in by_pycocoevalcap(predictions, captions).items():
        if abs(ours.value(metric) - value) > 1e-12:
            raise SystemExit(f"{metric}: {ours.value(metric)} here, {value} by pycocoevalcap")
    seconds = interleaved(
        {
            THEIRS: lambda: by_pycocoevalcap(predictions, captions),
            OURS: lambda: score(predictions, references),
            "pycocoevalcap, CIDEr": lambda: by_pycocoevalcap(predictions, captions, only="CIDEr"),
            "ours, CIDEr, warm": lambda: cider_of(predictions, references),
        },
        options.rounds,
    )
    ratios = {
        "all_warm": ratio(seconds, THEIRS, OURS),
        "cider_warm": ratio(seconds, "pycocoevalcap, CIDEr", "ours, CIDEr, warm"),
        "all_cold": statistics.median(seconds[THEIRS]) / cold,
        "peak_memory": peaks["pycocoevalcap"] / peaks["ours"],
    }
    baseline = (
        "pycocoevalcap 1.2 on the same captions: tokenizer, then the scorers, Java started by each; all_cold is the "
        "first evaluation of a process, measured once; peak_memory is how many times less we hold"
    )
    columns = {THEIRS: {"peak_mib": peaks["pycocoevalcap"]}, OURS: {"peak_mib": peaks["ours"]}}
    seconds["ours, all, cold"] = [cold]
    tell("metrics", baseline, ratios, seconds, as_json=options.json, columns=columns)


def _peak_memory(name: str, predictions: dict[str, str], captions: dict[str, list[str]]) -> float:
    """Resident MiB of a process that scores and of all its children, at their largest sum; all seven metrics."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "captions.json"
        file.write_text(json.dumps([predictions, captions]), encoding="utf-8")
        script = Path(__file__).with_name("_scored.py")
        peak = 0
        with subprocess.Popen(
            [sys.executable, str(script), name, str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as scoring:
            while scoring.poll() is None:
                peak = max(peak, _resident(psutil.Process(scoring.pid)))
                time.sleep(SAMPLE_EVERY_S)
        if scoring.returncode:
            raise SystemExit(f"{script.name} {name} ended with status {scoring.returncode}")
    return peak / 2**20


def _resident(process: psutil.Process) -> int:
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:  # ended since it was listed
            continue
    return total


if __name__ == "__main__":
    main()
