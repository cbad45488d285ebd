"""What the miniature is shown of a photo and what there is to see of it stay together."""

import random

import pytest
import torch

from miniature.model import IMAGE_SIZE, PATCH_SIZE, SIDE
from miniature.photos import WHOLE, View, some_view
from miniature.seeing import learning_groups, patch_over
from miniature.teacher import Panorama, Seen

PHOTOS = 4


@pytest.fixture
def panorama() -> Panorama:
    """Photos whose every place says where it is: photo, row and column."""
    photo, row, column = torch.meshgrid(
        torch.arange(PHOTOS) + 0.0, (torch.arange(7) + 0.5) / 7, (torch.arange(7) + 0.5) / 7, indexing="ij"
    )
    places = torch.stack([photo, row, column], dim=-1).half()
    return Panorama([places] * 3, places)


def numbered() -> tuple[torch.Tensor, Seen]:
    """Pictures and things to see that are the photo's number throughout."""
    number = torch.arange(PHOTOS) + 0.0
    pixels = number.view(-1, 1, 1, 1).expand(-1, 3, IMAGE_SIZE, IMAGE_SIZE).clone()
    return pixels, Seen(
        number.view(-1, 1, 1).expand(-1, SIDE**2, 2).clone(), number.view(-1, 1, 1).expand(-1, SIDE**2, 1).clone()
    )


def test_what_lies_over_a_photo_is_what_there_is_to_see_in_its_place():
    pixels, seen = numbered()

    patch_over(pixels, seen, random.Random(0))

    shown = pixels[:, 0, PATCH_SIZE // 2 :: PATCH_SIZE, PATCH_SIZE // 2 :: PATCH_SIZE].flatten(1)
    assert torch.equal(shown, seen.places[:, :, 0])
    assert torch.equal(shown, seen.hint[:, :, 0])


def test_a_rectangle_lies_over_every_second_photo_and_never_over_all_of_it():
    pixels, seen = numbered()

    patch_over(pixels, seen, random.Random(0))

    shares = [(pixels[photo] != photo).float().mean() for photo in range(PHOTOS)]
    assert shares[1] == shares[3] == 0
    assert 0 < shares[0] < 1 and 0 < shares[2] < 1


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_view_is_read_from_its_own_part_of_the_photo(panorama: Panorama, mirrored: bool):
    view = View(left=0.25, top=0.5, across=0.5, down=0.25, mirrored=mirrored)

    seen = panorama.seen([2], [view]).places[0].view(SIDE, SIDE, 3)

    middles = (torch.arange(SIDE) + 0.5) / SIDE
    columns = 0.25 + 0.5 * (middles.flip(0) if mirrored else middles)
    assert torch.allclose(seen[:, :, 0], torch.full((SIDE, SIDE), 2.0))
    assert torch.allclose(seen[:, 0, 1], 0.5 + 0.25 * middles, atol=2e-3)
    assert torch.allclose(seen[0, :, 2], columns, atol=2e-3)


def test_views_lie_inside_the_photo():
    dice = random.Random(0)

    for view in [WHOLE, *(some_view(dice) for _ in range(200))]:
        assert view.left >= 0 and view.top >= 0
        assert view.left + view.across <= 1 + 1e-9 and view.top + view.down <= 1 + 1e-9


def test_every_weight_of_the_first_stage_learns_by_exactly_one_optimizer():
    encoder = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))
    learner = torch.nn.ModuleDict({"vision": torch.nn.Sequential(torch.nn.Conv2d(3, 3, 2), encoder)})
    learner["classes"] = torch.nn.Linear(3, 9)

    (others,), (matrices,) = learning_groups(learner, encoder, rate=1e-3)

    assert [id(weight) for weight in matrices["params"]] == [id(encoder[0].weight)]
    assert sorted(map(id, [*others["params"], *matrices["params"]])) == sorted(map(id, learner.parameters()))
