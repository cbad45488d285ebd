import datasets

from captioncrafter.data.scenes import scene_images, scene_questions
from captioncrafter.data.scenes.questions import ask
from captioncrafter.data.scenes.world import draw_scene


def test_the_same_arguments_give_the_same_bytes():
    one, other = (raw(scene_images(6, seed=3, split="train", style="terse", image_size=48)) for _ in range(2))

    assert one == other


def test_a_row_holds_png_bytes_an_id_and_five_captions():
    row = raw(scene_images(1, seed=3, split="test", style="house", image_size=48))[0]

    assert set(row) == {"image", "image_id", "captions"}
    assert row["image"]["bytes"].startswith(b"\x89PNG")
    assert row["image"]["path"] is None
    assert len(row["captions"]) == 5


def test_the_image_column_decodes_to_pictures_of_the_size_asked_for():
    pictures = scene_images(2, seed=3, split="validation", style="house", image_size=48)["image"]

    assert [picture.size for picture in pictures] == [(48, 48), (48, 48)]


def test_the_style_changes_the_words_and_not_the_picture():
    terse, house = (
        raw(scene_images(4, seed=3, split="train", style=style, image_size=48)) for style in ("terse", "house")
    )

    assert [row["image"] for row in terse] == [row["image"] for row in house]
    assert all(one["captions"] != other["captions"] for one, other in zip(terse, house, strict=True))


def test_splits_share_neither_picture_nor_id():
    splits = [
        raw(scene_images(40, seed=3, split=split, style="terse", image_size=48))
        for split in ("train", "validation", "test")
    ]
    rows = [row for split in splits for row in split]

    assert len({row["image_id"] for row in rows}) == 120
    assert len({row["image"]["bytes"] for row in rows}) == 120


def test_more_scenes_begin_with_the_same_ones():
    few, many = (raw(scene_images(count, seed=3, split="train", style="terse", image_size=48)) for count in (3, 5))

    assert many[:3] == few


def questions(count: int, *, questions: int = 3) -> list[dict]:
    return raw(scene_questions(count, seed=3, split="test", questions=questions, image_size=48))


def test_a_question_is_a_row_with_its_scenes_image_and_an_id_of_its_own():
    rows = questions(2)

    asked = ask(draw_scene(3, "test", 1), 3)
    assert [row["image_id"] for row in rows[3:]] == [f"scene-3-test-00001/{question.kind}" for question in asked]
    assert [row["prompt"] for row in rows[3:]] == [question.prompt for question in asked]
    assert [row["captions"] for row in rows[3:]] == [list(question.answers) for question in asked]


def test_questions_are_asked_about_the_pictures_that_are_captioned():
    captioned = raw(scene_images(4, seed=3, split="test", style="terse", image_size=48))

    assert [row["image"] for row in questions(4)] == [row["image"] for row in captioned for _ in range(3)]


def test_the_same_arguments_give_the_same_questions():
    assert questions(5) == questions(5)


def test_every_row_of_a_split_has_an_id_of_its_own():
    rows = questions(100, questions=5)

    assert len({row["image_id"] for row in rows}) == 500


def raw(scenes: datasets.Dataset) -> list[dict]:
    return scenes.cast_column("image", datasets.Image(decode=False)).to_list()
