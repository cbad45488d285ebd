"""The page as a browser would read it: inert whatever captions say, loading nothing, showing what there is."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from importlib import resources
from typing import Any
from xml.etree.ElementTree import Element

import pytest

from captioncrafter.report.content import ReportData, System
from captioncrafter.report.gallery import SHOWN_AT_FIRST
from captioncrafter.report.page import render
from pages import JPEG, numbered, of_class, read, report_data, system, texts

HOSTILE = (
    "<script>alert(1)</script>",
    "</script></style></title></template><img src=x onerror=alert(1)>",
    "\"><svg onload=alert(1)> ' onmouseover='alert(1)",
    "<!-- ",
    "{{ 7 * 7 }}{% raw %}",
    "كلب أسود \u202ekrab",
    "w" * 500,
    "😀 👩‍👩‍👧",
)
SECTIONS = ["scores", "findings", "training", "distributions", "cases", "images", "provenance"]


def full_data(text: str = "plain") -> ReportData:
    """Data with everything a page can show, `text` in every place where somebody else's words may stand."""
    captions = {f"{text}-{number}.jpg": f"{text}" for number in range(SHOWN_AT_FIRST + 2)}
    ciders = [number / 10 for number in range(len(captions))]
    mean = sum(ciders) / len(ciders)
    grounding = {"CIDEr": 0.5, "shuffled_CIDEr": 0.1}
    seen = {"images": 1, "image_ids": [text], "compared_by": text}
    told = {"split": text, "prompt": text, "grounding": grounding, "scorer": {text: text}, "seen_in_training": seen}
    log = [
        {"kind": "step", "step": 1, "loss": 2.0, "epoch": 1.0},
        {"kind": "validation", "step": 1, "CIDEr": 0.5, "best": True},
    ]
    subject = system(text, captions, ciders, cider=mean, **told)
    others = [system(text, captions, ciders, cider=mean, grounding=grounding) for _ in range(2)]
    return report_data(
        *(replace(one, training=text, seed=seed, log=log) for seed, one in enumerate([subject, *others])),
        title=text,
        summary=text,
        references={image: [text, text] for image in captions},
        thumbnails=dict.fromkeys(captions, JPEG),
        prompts=dict.fromkeys(captions, text),
        recipe={"model": {"base": text, text: text}},
        manifest={"data": text, "set_aside": [text, text], text: {text: text}},
    )


@pytest.fixture(scope="module")
def page() -> str:
    return render(full_data())


@pytest.fixture(scope="module")
def root(page: str) -> Element:
    return read(page)


def shape(root: Element) -> list[str]:
    """All elements in document order; apart from marks and ticks, which depend on the words and how many there are."""
    return [one.tag for one in root.iter() if one.tag not in ("mark", "path", "text")]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_caption_or_name_adds_an_element_to_the_page(hostile: str, root: Element):
    attacked = read(render(full_data(hostile)))

    assert shape(attacked) == shape(root)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_caption_reads_as_it_was_written(hostile: str):
    root = read(render(full_data(hostile)))

    assert {"".join(one.itertext()) for one in of_class(root, "caption")} == {hostile}


def test_no_element_has_an_event_handler_or_a_style_of_its_own():
    names = {name for hostile in HOSTILE for one in read(render(full_data(hostile))).iter() for name in one.attrib}

    assert not [name for name in names if name.startswith("on") or name == "style"]


def test_the_policy_admits_the_very_style_and_script_of_the_page(root: Element):
    policy = root.find(".//meta[@http-equiv='Content-Security-Policy']")
    assert policy is not None

    (style,), (script,) = root.findall(".//style"), [one for one in root.iter("script") if not one.get("type")]
    for directive, element in (("style-src", style), ("script-src", script)):
        digest = base64.b64encode(hashlib.sha256("".join(element.itertext()).encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in policy.get("content", "")


def test_style_and_script_are_the_packages_own_letter_by_letter(root: Element):
    folder = resources.files("captioncrafter.report")

    (style,), (script,) = root.findall(".//style"), [one for one in root.iter("script") if not one.get("type")]
    assert "".join(style.itertext()) == (folder / "page.css").read_text(encoding="utf-8")
    assert "".join(script.itertext()) == (folder / "page.js").read_text(encoding="utf-8")


def test_the_policy_refuses_everything_else(root: Element):
    policy = root.find(".//meta[@http-equiv='Content-Security-Policy']")
    assert policy is not None

    rules = dict(rule.strip().split(" ", 1) for rule in policy.get("content", "").split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert rules["form-action"] == rules["base-uri"] == "'none'"


def test_every_address_leads_into_the_page_itself(root: Element):
    loading = ("src", "srcset", "href", "xlink:href", "action", "data", "poster")

    addresses = [one.get(name, "") for one in root.iter() for name in loading if one.get(name) is not None]

    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)


def test_style_and_script_ask_for_nothing_from_outside(page: str, root: Element):
    style = "".join("".join(one.itertext()) for one in root.iter("style"))
    script = "".join("".join(one.itertext()) for one in root.iter("script"))

    assert "://" not in page
    assert not re.search(r"url\(|@import", style)
    assert not re.search(r"fetch|XMLHttpRequest|WebSocket|sendBeacon|import\(|eval|innerHTML", script)


def test_a_page_with_everything_has_every_section(root: Element):
    assert [one.get("id") for one in root.iter("section") if one.get("id")] == SECTIONS


def test_the_list_at_the_top_leads_to_every_section_and_nowhere_else(root: Element):
    assert [one.get("href") for one in root.findall(".//nav//a")] == [f"#{name}" for name in SECTIONS]


@pytest.mark.parametrize(
    ("missing", "sections"),
    [
        ({"recipe": {}, "manifest": {}}, set()),
        ({"references": {}}, set()),
    ],
)
def test_what_the_data_lacks_is_left_out(missing: dict[str, Any], sections: set[str]):
    full = full_data()
    parts = {name: getattr(full, name) for name in ("title", "summary", "references", "recipe", "manifest")}

    root = read(render(ReportData(**(parts | missing), systems=full.systems)))

    shown = {one.get("id") for one in root.iter("section")} - {None}
    assert shown == set(SECTIONS) - sections
    assert {str(one.get("href"))[1:] for one in root.findall(".//nav//a")} == shown


def test_without_a_log_there_is_no_training():
    full = full_data()

    root = read(render(replace(full, systems=[replace(one, log=()) for one in full.systems])))

    assert [one.get("id") for one in root.iter("section") if one.get("id")] == [
        name for name in SECTIONS if name != "training"
    ]


def test_a_page_of_several_trainings_tells_differences_and_deviations(root: Element):
    assert texts(root, ".//table[@class='tested']/thead//th")[1:] == ["METEOR", "CIDEr"]
    assert texts(root, ".//table[@class='trainings']/tbody//th") == ["mean ± sd"]


def test_captions_alone_make_a_page():
    root = read(render(report_data(System("mine", numbered(3)))))

    assert [one.get("id") for one in root.iter("section")] == ["distributions", "images"]
    assert texts(root, ".//p[@class='caption']") == list(numbered(3).values())


def test_scores_alone_make_a_page():
    root = read(render(report_data(System("mine", {}, system("mine", {}).scores))))

    assert [one.get("id") for one in root.iter("section") if one.get("id")] == ["scores", "provenance"]


def test_an_empty_caption_is_named_as_such():
    root = read(render(report_data(System("mine", {"0.jpg": ""}))))

    assert texts(root, ".//p[@class='caption']") == ["no words"]


def test_the_first_images_stand_in_the_page_and_the_others_wait(root: Element):
    grid, waiting = root.find(".//div[@id='cards']"), root.find(".//template[@id='waiting']")
    assert grid is not None and waiting is not None

    assert len(grid.findall("article")) == SHOWN_AT_FIRST
    assert len(waiting.findall("article")) == 2


def test_images_are_described_by_what_a_person_wrote():
    data = report_data(
        System("mine", numbered(2)),
        references={"0.jpg": ["a dog", "an animal"]},
        thumbnails=dict.fromkeys(numbered(2), JPEG),
    )

    root = read(render(data))

    assert [one.get("alt") for one in root.iter("img")] == ["a dog", "1.jpg"]


def test_a_page_without_images_says_so():
    root = read(render(report_data(System("mine", numbered(2)))))

    assert "images themselves were not at hand" in "".join(root.itertext())


def test_the_page_sorts_by_the_values_of_single_images_times_100():
    subject = system("mine", numbered(3), [0.12345, 0.5, 0.25])
    data = report_data(subject, System("base", numbered(3), {}, {"1.jpg": {"CIDEr": 0.75}}))

    root = read(render(data))

    index = json.loads("".join(root.findall(".//script[@id='index']")[0].itertext()))
    assert index["scores"]["CIDEr"] == [[12.35, 50.0, 25.0], [None, 75.0, None]]


def test_the_top_says_what_was_scored_on_what():
    subject = system("mine", numbered(1200), split="test", prompt="a photo of", decoding={"num_beams": 5})
    data = report_data(subject, references={image: ["a dog"] * 5 for image in subject.predictions})

    root = read(render(data))

    assert texts(root, ".//ul[@class='facts']/li") == [
        "1,200 images", "test split", "5 references each", "beam width 5", "prompt “a photo of”",
    ]  # fmt: skip
