import datasets

from captioncrafter.data.scenes import scene_images


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


def raw(scenes: datasets.Dataset) -> list[dict]:
    return scenes.cast_column("image", datasets.Image(decode=False)).to_list()
