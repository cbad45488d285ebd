"""What reports are tested with: data made by hand, and a page read back as a tree of elements."""

from html.parser import HTMLParser
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder

from captioncrafter.report.content import ReportData, System

METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
JPEG = b"\xff\xd8\xff\xe0 a thumbnail"
_VOID = {"meta", "link", "img", "input", "br"}


def system(
    name: str, captions: dict[str, str], ciders: list[float] | None = None, /, cider: float = 0.5, **scores: Any
) -> System:
    """A captioner; `ciders` are its values on single images, `cider` on all, which every other metric is half of."""
    values = dict.fromkeys(METRICS, cider / 2) | {"CIDEr": cider}
    metrics = {metric: {"value": one, "low": one - 0.05, "high": one + 0.05} for metric, one in values.items()}
    single = {image: {"CIDEr": one, "METEOR": one / 2} for image, one in zip(captions, ciders or [], strict=False)}
    return System(name, captions, {"images": len(captions), "metrics": metrics} | scores, single)


def numbered(count: int, caption: str = "dog {} runs") -> dict[str, str]:
    """A caption for each of `count` images."""
    return {f"{number}.jpg": caption.format(number) for number in range(count)}


def report_data(subject: System, *others: System, **parts: Any) -> ReportData:
    """Data for a page about `subject`."""
    return ReportData(**({"title": "mine: captions by base", "summary": "A run."} | parts), systems=[subject, *others])


def read(page: str) -> Element:
    """The elements of an HTML page or fragment, under one root."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    return reader.builder.close()


def texts(root: Element, path: str) -> list[str]:
    """The text of each element that `path` finds, white space made single."""
    return [" ".join("".join(one.itertext()).split()) for one in root.findall(path)]


def of_class(root: Element, name: str) -> list[Element]:
    """The elements of a class, in document order."""
    return [one for one in root.iter() if name in one.get("class", "").split()]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.builder = TreeBuilder()
        self.builder.start("root", {})

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.builder.start(tag, {name: value or "" for name, value in attrs})
        if tag in _VOID:
            self.builder.end(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.builder.start(tag, {name: value or "" for name, value in attrs})
        self.builder.end(tag)

    def handle_endtag(self, tag: str) -> None:
        self.builder.end(tag)

    def handle_data(self, data: str) -> None:
        self.builder.data(data)

    def close(self) -> None:
        super().close()
        self.builder.end("root")
