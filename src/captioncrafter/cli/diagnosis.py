"""`captioncrafter doctor` on the terminal: what a patient is, then each finding with its mend, worst first."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from captioncrafter.cli import tables
from captioncrafter.cli.commands import Doctor
from captioncrafter.errors import counted

HEALTHY, ILL, AILING = 0, 1, 3
_WIDTH = 110
_SHOWN_DETAILS = 5
_SIGNS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}
"""Names of files and captions come from strangers: none may steer the terminal."""


def doctor(command: Doctor) -> int:
    """Status 0 when nothing is wrong that was not mended, 3 for warnings, 1 for errors."""
    from captioncrafter.stages import doctor as stage

    found = stage.doctor(command.path, fix=command.fix).to_json()
    if command.json:
        tables.print_json(found)
    else:
        for line in _lines(found, details=command.details):
            tables.print_line(line)
    return ILL if found["errors"] else AILING if found["warnings"] else HEALTHY


def _lines(found: Mapping[str, Any], *, details: bool) -> Iterator[str]:
    yield _plain(f"{found['path']}: {found['kind']}")
    yield from _facts(found["facts"], "  ", details=details)
    for finding in found["findings"]:
        yield ""
        yield from _finding(finding, details=details)
    yield ""
    yield _verdict(found)


def _facts(facts: Mapping[str, Any], indent: str, *, details: bool) -> Iterator[str]:
    for name, value in facts.items():
        if isinstance(value, Mapping) and _is_section(name, value):
            yield f"{indent}{name}"
            yield from _facts(value, indent + "  ", details=details)
        elif isinstance(value, list):
            yield f"{indent}{name}: {len(value)}" + ("" if details else " (--details lists them)")
            yield from (f"{indent}  {_plain(str(one))}" for one in (value if details else ()))
        elif value not in (None, {}, ""):
            yield f"{indent}{name}: {_plain(_told(value))}"


def _is_section(name: str, value: Mapping[str, Any]) -> bool:
    """Whether it is told over several lines."""
    deep = any(isinstance(one, Mapping | list) for one in value.values())
    return deep or (len(value) > 3 and name not in ("parameters", "result"))


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_told(one)}" for name, one in value.items())
    if isinstance(value, int) and not isinstance(value, bool) and value >= 10_000:
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _finding(finding: Mapping[str, Any], *, details: bool) -> Iterator[str]:
    severity = "mended" if finding["mended"] else finding["severity"]
    yield from _wrapped(f"{severity}: {finding['where']}: {finding['what']}. [{finding['ailment']}]", "", "  ")
    if finding["mended"]:
        yield from _wrapped(f"done: {finding['mended']}", "  ", "    ")
    elif finding["mend"]:
        yield from _wrapped(finding["mend"], "  → ", "    ")
    shown = finding["details"] if details else finding["details"][:_SHOWN_DETAILS]
    yield from (f"    {_plain(one)}" for one in shown)
    if len(shown) < len(finding["details"]):
        yield f"    … {len(finding['details']) - len(shown)} more: --details"


def _wrapped(text: str, first: str, then: str) -> list[str]:
    return textwrap.wrap(
        _plain(text),
        _WIDTH,
        initial_indent=first,
        subsequent_indent=then,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _plain(text: str) -> str:
    return text.translate(_SIGNS)


def _verdict(found: Mapping[str, Any]) -> str:
    mended = sum(bool(finding["mended"]) for finding in found["findings"])
    fixable = sum(finding["fixable"] for finding in found["findings"])
    counts = [counted(found[f"{kind}s"], kind) for kind in ("error", "warning", "note") if found[f"{kind}s"]]
    told = ", ".join([*counts, *([f"{mended} mended"] if mended else [])]) or "nothing found"
    wrong = found["errors"] or found["warnings"]
    hint = f" --fix mends {fixable} of them." if fixable else ""
    return f"{'' if wrong else 'Well: '}{told}.{hint}"
