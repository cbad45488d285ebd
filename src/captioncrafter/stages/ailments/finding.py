"""What the doctor writes down: one finding for each thing that is wrong, and a record of all of one patient."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from captioncrafter.errors import CaptionCrafterError

BROKEN = (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, EOFError, AssertionError)
"""What libraries raise at files that are not what they should be."""


class Severity(StrEnum):
    """How bad it is, worst first."""

    ERROR = "error"
    """It fails, or gives something wrong in silence."""

    WARNING = "warning"
    """It works, and the result may not be what is meant."""

    NOTE = "note"
    """Good to know; nothing is wrong."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found: `ailment` is its name for programs, `where` the file or place, `mend` the way out.

    `details` lists what `what` counts. `repair` mends it where that can lose nothing, and gives what was done in words;
    `mended` holds those words afterwards.
    """

    severity: Severity
    ailment: str
    where: str
    what: str
    mend: str = ""
    details: tuple[str, ...] = ()
    repair: Callable[[], str] | None = None
    mended: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain values; `fixable` says whether `--fix` would mend it."""
        values = {name: getattr(self, name) for name in ("ailment", "where", "what", "mend", "mended")}
        return {"severity": str(self.severity)} | values | {"fixable": self.fixable, "details": list(self.details)}

    @property
    def fixable(self) -> bool:
        """Whether it can be mended here without losing anything."""
        return self.repair is not None


@dataclass
class Record:
    """All about one patient: `kind` of thing, `name` as the user gave it, `facts` of what it is, `findings`."""

    kind: str
    name: str
    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def error(self, ailment: str, where: object, what: str, mend: str, **more: Any) -> None:
        """Something that fails, or is wrong in silence."""
        self._add(Severity.ERROR, ailment, where, what, mend, **more)

    def warning(self, ailment: str, where: object, what: str, mend: str, **more: Any) -> None:
        """Something that works and may not be meant."""
        self._add(Severity.WARNING, ailment, where, what, mend, **more)

    def note(self, ailment: str, where: object, what: str, mend: str = "", **more: Any) -> None:
        """Something good to know."""
        self._add(Severity.NOTE, ailment, where, what, mend, **more)

    def _add(self, severity: Severity, ailment: str, where: object, what: str, mend: str, **more: Any) -> None:
        told = what.removeprefix(f"{where}: ").removesuffix(".")
        self.findings.append(Finding(severity, ailment, str(where), told, mend, **more))

    def has(self, *ailments: str) -> bool:
        """Whether one of these was found already."""
        return any(finding.ailment in ailments for finding in self.findings)

    def absorb(self, part: "Record", title: str, *, lies_elsewhere: bool = False) -> None:
        """Takes in what was found of a part of this patient; its facts stand under `title`.

        What lies elsewhere is mended where it is examined itself: nobody expects a run's doctor to change the base.
        """
        self.facts[title] = part.facts
        for finding in part.findings:
            if lies_elsewhere and finding.fixable:
                mend = f"{finding.mend} `captioncrafter doctor {part.name} --fix` does."
                self.findings.append(replace(finding, repair=None, mend=mend))
            else:
                self.findings.append(finding)

    @contextmanager
    def attempt(self, ailment: str, where: object, mend: str) -> Iterator[None]:
        """Within, what fails becomes an error of this name; its own words say what."""
        try:
            yield
        except CaptionCrafterError as error:
            self.error(ailment, where, str(error), mend)
        except Exception as error:  # noqa: BLE001 # tokenizers raises bare ones, and what is broken is the point here
            first = (str(error) or type(error).__name__).splitlines()[0]
            self.error(ailment, where, f"cannot be used ({first})", mend)
