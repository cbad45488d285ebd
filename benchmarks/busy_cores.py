"""Captions by the embedded miniature while a more urgent program keeps one core busy: how long a waiting thread spins.

`spinning` is libgomp as it comes (300,000 rounds before a waiting thread sleeps), `captioncrafter` what our commands
set where the user set nothing, `one thread` is `OMP_NUM_THREADS=1`. Each is a whole command, on idle cores and at
niceness 10 beside a program of niceness 0 that never stops: whoever spins there keeps out whom it waits for.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from _outcome import interleaved, parser, ratio, tell
from captioncrafter.data.scenes.picture import draw
from captioncrafter.data.scenes.world import draw_scene

PICTURES = 50
PIXELS = 224
CONTESTANTS = {"spinning": {"GOMP_SPINCOUNT": "300000"}, "captioncrafter": {}, "one thread": {"OMP_NUM_THREADS": "1"}}


def main() -> None:
    """Times the contestants in turns, with and without company, and prints the ratios."""
    options = parser(__doc__ or "").parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(PICTURES):
            draw(draw_scene(1, "train", number), PIXELS).save(Path(folder) / f"{number}.png")
        work: dict[str, Callable[[], object]] = {}
        for name, settings in CONTESTANTS.items():
            work[f"{name}, idle cores"] = lambda given=settings: _caption(folder, given)
            work[f"{name}, a busy core"] = lambda given=settings: _caption_in_company(folder, given)
        seconds = interleaved(work, options.rounds)
    ratios = {
        "busy": ratio(seconds, "spinning, a busy core", "captioncrafter, a busy core"),
        "idle": ratio(seconds, "spinning, idle cores", "captioncrafter, idle cores"),
    }
    baseline = (
        f"the same command with libgomp's own spinning, {PICTURES} pictures; busy: a more urgent program on one core"
    )
    tell("busy_cores", baseline, ratios, seconds, as_json=options.json)


def _caption(folder: str, settings: dict[str, str], niceness: int = 0) -> None:
    usual = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    command = ["nice", "-n", str(niceness), sys.executable, "-m", "captioncrafter", "caption", folder]
    subprocess.run(command, env=usual | settings, check=True, capture_output=True)


def _caption_in_company(folder: str, settings: dict[str, str]) -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            _caption(folder, settings, niceness=10)
        finally:
            other.kill()


if __name__ == "__main__":
    main()
