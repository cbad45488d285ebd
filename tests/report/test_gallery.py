"""The images of a page: in order, with what was said of each, and the words it shares with people."""

from captioncrafter.report import gallery
from captioncrafter.report.content import Picture, ReportData, System
from pages import JPEG, numbered, report_data, system


def marked(data: ReportData, image: int = 0, place: int = 0) -> list[str]:
    pieces = gallery.cards(data, None)[image].said[place].pieces
    return [piece.text for piece in pieces if piece.matched]


def test_cards_stand_in_the_order_of_the_predictions():
    cards = gallery.cards(report_data(System("mine", {"b": "one", "a": "two", "c": "three"})), None)

    assert [card.image_id for card in cards] == ["b", "a", "c"]


def test_a_card_shows_what_every_system_said_and_scored():
    data = report_data(system("mine", {"0.jpg": "a dog"}, [0.5]), System("base", {"0.jpg": "a cat"}))

    (card,) = gallery.cards(data, "CIDEr")

    assert [(one.system, one.role, one.score) for one in card.said] == [
        ("mine", "subject", "50.0"),
        ("base", "base", ""),
    ]


def test_the_pieces_of_a_caption_make_it_whole_again():
    caption = "  A dog's ball — 2 reds, <b>!  "
    data = report_data(System("mine", {"0.jpg": caption}), references={"0.jpg": ["the dog's red ball"]})

    (card,) = gallery.cards(data, None)

    assert "".join(piece.text for piece in card.said[0].pieces) == caption


def test_words_that_a_reference_has_too_are_marked_whatever_their_case():
    data = report_data(System("mine", {"0.jpg": "A Dog on grass"}), references={"0.jpg": ["dog in water", "a dog"]})

    assert marked(data) == ["A", "Dog"]


def test_a_part_of_a_word_is_not_marked():
    data = report_data(System("mine", {"0.jpg": "doghouse dog's"}), references={"0.jpg": ["dog"]})

    assert marked(data) == []


def test_words_that_most_images_share_are_not_marked():
    captions = numbered(30, "a dog number {}")
    data = report_data(System("mine", captions), references={image: [text] for image, text in captions.items()})

    assert marked(data, image=7) == ["7"]


def test_words_are_marked_by_the_references_of_their_own_image():
    captions = {"0.jpg": "a dog", "1.jpg": "a dog"}
    data = report_data(System("mine", captions), references={"0.jpg": ["cat"], "1.jpg": ["dog"]})

    assert (marked(data, image=0), marked(data, image=1)) == ([], ["dog"])


def test_the_best_and_the_worst_are_those_of_the_subject():
    subject = system("mine", numbered(10), [0.5, 0.1, 0.9, 0.4, 0.3, 0.8, 0.2, 0.7, 0.6, 0.0])
    data = report_data(subject, system("base", numbered(10), [0.0] * 10))

    best, worst = gallery.extremes(data, gallery.cards(data, "CIDEr"), "CIDEr")

    assert [card.image_id for card in best] == ["2.jpg", "5.jpg", "7.jpg"]
    assert [card.image_id for card in worst] == ["9.jpg", "1.jpg", "6.jpg"]


def test_no_image_is_among_the_best_and_the_worst_at_once():
    data = report_data(system("mine", numbered(3), [0.5, 0.1, 0.9]))

    best, worst = gallery.extremes(data, gallery.cards(data, "CIDEr"), "CIDEr")

    assert ([card.image_id for card in best], [card.image_id for card in worst]) == (["2.jpg"], ["1.jpg"])


def test_without_values_of_single_images_there_are_no_extremes():
    data = report_data(System("mine", numbered(4)))

    assert gallery.extremes(data, gallery.cards(data, None), None) == ([], [])


def test_a_card_shows_the_prompt_of_an_image_that_has_its_own():
    data = report_data(System("mine", numbered(2)), prompts={"1.jpg": "Question: what runs? Answer:"})

    assert [card.prompt for card in gallery.cards(data, None)] == ["", "Question: what runs? Answer:"]


def test_a_thumbnail_is_part_of_the_page():
    data = report_data(System("mine", numbered(2)), thumbnails={"0.jpg": JPEG})

    first, second = gallery.cards(data, None)

    assert first.thumbnail.startswith("data:image/jpeg;base64,")
    assert second.thumbnail == ""


def test_a_picture_beside_the_data_shows_what_every_system_said_of_it():
    picture = Picture("beach.jpg", JPEG, {"mine": "a walker", "base": ""})
    data = report_data(System("mine", {}), System("base", {}), pictures=[picture])

    (card,) = gallery.picture_cards(data)

    said = [(one.system, one.role, "".join(piece.text for piece in one.pieces), one.score) for one in card.said]
    assert said == [("mine", "subject", "a walker", ""), ("base", "base", "", "")]
    assert (card.image_id, card.references) == ("beach.jpg", ())
