"""What a person sees while work goes on."""

import time
from collections.abc import Callable

import pytest

from captioncrafter import events


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """What stands on stderr since the last look; stdout stays empty, for results."""

    def look() -> str:
        captured = capsys.readouterr()
        assert captured.out == ""
        return captured.err

    return look


def test_lines_warnings_and_failures_go_to_stderr(said: Callable[[], str]):
    events.say("one")
    events.warn("two")
    events.fail("three")

    assert said() == "one\nwarning: two\nerror: three\n"


def test_what_looks_like_markup_or_a_smiley_is_said_as_it_is(said: Callable[[], str]):
    events.say("photos/[red]dog[/red] :dog: 1.jpg [/]")

    assert said() == "photos/[red]dog[/red] :dog: 1.jpg [/]\n"


def test_long_lines_are_not_broken(said: Callable[[], str]):
    events.say("word " * 100)

    assert said().count("\n") == 1


def test_a_name_cannot_steer_the_terminal(said: Callable[[], str]):
    events.say("\x1b]0;title\x07\x1b[2Jdog\r.jpg")

    assert said() == "\\x1b]0;title\\x07\\x1b[2Jdog\\x0d.jpg\n"


def test_only_the_first_process_of_several_speaks(said: Callable[[], str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", "1")

    events.say("one")
    events.warn("two")
    with events.progress("images", 2) as bar:
        bar.advance(2)

    assert said() == ""


def test_every_process_says_why_it_failed(said: Callable[[], str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", "1")

    events.fail("the reason")

    assert said() == "error: the reason\n"


def test_off_a_terminal_quick_progress_is_one_plain_line(said: Callable[[], str]):
    with events.progress("images checked", 3) as bar:
        for _ in range(3):
            bar.advance()

    (line,) = said().splitlines()
    assert line.startswith("images checked: 3/3 in ")


def test_off_a_terminal_slow_progress_says_a_line_now_and_then(
    said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
):
    now = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    with events.progress("features", 100, done=40) as bar:
        for _ in range(3):
            now[0] += events.PLAIN_LINE_EVERY_S + 0.1
            bar.advance(20, note="2 set aside")

    assert said().splitlines() == [
        "features: 60/100 in 15 s, 30 s left  2 set aside",
        "features: 80/100 in 30 s, 15 s left  2 set aside",
        "features: 100/100 in 45 s  2 set aside",
    ]


def test_progress_that_an_error_ends_says_no_last_line(said: Callable[[], str]):
    with pytest.raises(ZeroDivisionError), events.progress("images", 3) as bar:
        bar.advance()
        raise ZeroDivisionError

    assert said() == ""


def test_on_a_terminal_progress_is_a_bar(said: Callable[[], str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)

    with events.progress("images", 3) as bar:
        bar.advance(3, note="1 set aside")

    shown = said()
    assert "3/3" in shown
    assert "1 set aside" in shown


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.04, "0.0 s"),
        (0.25, "0.2 s"),
        (1, "1 s"),
        (8.4, "8 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (360_000, "100 h 00 min"),
    ],
)
def test_durations_are_said_as_a_person_says_them(seconds: float, words: str):
    assert events.duration(seconds) == words
