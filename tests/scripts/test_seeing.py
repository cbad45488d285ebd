"""What the miniature is shown of photos: parts of them, in other light, one over another."""

import pytest
import torch

from miniature.dice import drawn_for
from miniature.photos import KEPT_SIZE, Views, some_views, whole
from miniature.seeing import BLENDED, COVERED, learning_groups, mixed, some_mixtures

SIZE = 8


def view(
    *,
    left: float = 0.0,
    top: float = 0.0,
    across: float = 1.0,
    down: float = 1.0,
    mirrored: bool = False,
    brightness: float = 1.0,
    colour: float = 1.0,
) -> Views:
    return Views(torch.tensor([[left, top, across, down, float(mirrored), brightness, colour]]))


@pytest.fixture
def photo() -> torch.Tensor:
    """Red grows from left to right, green from top to bottom: a colour says where it is."""
    ramp = torch.arange(KEPT_SIZE, dtype=torch.uint8)
    red, green = ramp.expand(KEPT_SIZE, -1), ramp[:, None].expand(-1, KEPT_SIZE)
    return torch.stack([red, green, torch.zeros_like(red)])[None]


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_view_shows_its_own_part_of_the_photo(photo: torch.Tensor, mirrored: bool):
    seen = view(left=0.25, top=0.5, across=0.5, down=0.25, mirrored=mirrored).of(photo, SIZE)[0]

    middles = (torch.arange(SIZE) + 0.5) / SIZE
    across, down = 0.25 + 0.5 * (middles.flip(0) if mirrored else middles), 0.5 + 0.25 * middles
    assert torch.allclose(seen[0, 0], across, atol=0.005)
    assert torch.allclose(seen[1, :, 0], down, atol=0.005)


def test_a_view_of_all_is_the_photo(photo: torch.Tensor):
    assert torch.allclose(view().of(photo, KEPT_SIZE), whole(photo, KEPT_SIZE), atol=1e-5)


def test_half_the_light_is_half_the_value(photo: torch.Tensor):
    assert torch.allclose(view(brightness=0.5).of(photo, SIZE), 0.5 * view().of(photo, SIZE))


def test_without_colour_a_view_is_grey(photo: torch.Tensor):
    red, green, blue = view(colour=0.0).of(photo, SIZE)[0]

    assert torch.allclose(red, green) and torch.allclose(green, blue)


def test_views_lie_inside_the_photo():
    left, top, across, down, *_ = some_views(500, drawn_for(1, 0)).drawn.unbind(1)

    assert (left >= 0).all() and (top >= 0).all()
    assert (left + across <= 1 + 1e-6).all() and (top + down <= 1 + 1e-6).all()


def test_views_show_at_least_the_share_asked_for():
    _, _, across, down, *_ = some_views(500, drawn_for(1, 0), smallest=0.7).drawn.unbind(1)

    assert (across * down >= 0.7 * 0.75).all()  # a side that is too long is cut


def test_a_step_has_its_own_dice_that_fall_alike_again():
    assert torch.equal(some_views(9, drawn_for(1, 5)).drawn, some_views(9, drawn_for(1, 5)).drawn)
    assert not torch.equal(some_views(9, drawn_for(1, 5)).drawn, some_views(9, drawn_for(1, 6)).drawn)


@pytest.fixture
def numbered() -> torch.Tensor:
    """Two hundred pictures that are the picture's number throughout."""
    return torch.arange(200.0).view(-1, 1, 1, 1).expand(-1, 3, 32, 32).clone()


def test_over_some_pictures_lies_a_rectangle_of_another_and_over_others_all_of_it(numbered: torch.Tensor):
    before = numbered.clone()
    shown = mixed(numbered, some_mixtures(200, drawn_for(1, 0)))

    other = before.roll(1, 0)
    unlike = (shown != before).flatten(1).float().mean(1)
    untouched, blended = unlike == 0, unlike == 1
    covered = ~untouched & ~blended
    assert ((shown == before) | (shown == other))[covered].all()
    assert (unlike[covered] > 0.04).all() and (unlike[covered] < 0.6).all()
    assert covered.float().mean().item() == pytest.approx(COVERED, abs=0.1)
    assert blended.float().mean().item() == pytest.approx(BLENDED, abs=0.1)


def test_a_picture_is_never_less_than_half_its_own_where_another_is_seen_through(numbered: torch.Tensor):
    shown = mixed(numbered, some_mixtures(200, drawn_for(1, 0)))[1:]  # the first one's neighbour is the last, far away

    apart = (shown - numbered[1:]).abs().flatten(1).amax(1)
    through = (apart > 0) & (apart < 1)
    assert through.any() and (apart[through] <= 0.5 + 1e-4).all()


def test_every_weight_of_the_first_stage_learns_by_exactly_one_optimizer():
    encoder = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))
    learner = torch.nn.ModuleDict({"vision": torch.nn.Sequential(torch.nn.Conv2d(3, 3, 2), encoder)})
    learner["classes"] = torch.nn.Linear(3, 9)

    (others,), (matrices,) = learning_groups(learner, encoder, rate=1e-3)

    assert [id(weight) for weight in matrices["params"]] == [id(encoder[0].weight)]
    assert sorted(map(id, [*others["params"], *matrices["params"]])) == sorted(map(id, learner.parameters()))
