"""Training photos are shown blurred, always the same way by the same dice, and never as another photo."""

import random

import pytest
import torch

from miniature import album
from miniature.album import LOST, Album

VIEWS, PHOTOS, PLACES, WIDTH = 2, 3, 500, 4


@pytest.fixture
def told() -> Album:
    """Tokens that say of which view, photo and place they are; nothing in them varies enough for noise."""
    axes = [torch.arange(length) for length in (VIEWS, PHOTOS, PLACES, WIDTH)]
    view, photo, place, _ = torch.meshgrid(*axes, indexing="ij")
    tokens = (view * 1000 + photo * 10_000 + place).half()
    return Album(tokens, [["a dog"]] * PHOTOS, ["1", "2", "3"], torch.zeros(WIDTH))


def test_the_same_dice_show_the_same(told: Album):
    assert torch.equal(told.shown([0, 2], random.Random(1)), told.shown([0, 2], random.Random(1)))


def test_every_token_is_of_the_photo_and_of_one_view(told: Album):
    for photo, shown in zip([2, 0], told.shown([2, 0], random.Random(1)), strict=True):
        views = [set(view[photo, :, 0].tolist()) for view in told.tokens]

        assert any(set(shown[:, 0].tolist()) <= view for view in views)


def test_as_many_places_as_said_show_another(told: Album):
    photo = told.shown([0], random.Random(1))[0, :, 0]
    other = min((photo != view[0, :, 0].float()).float().mean() for view in told.tokens)

    assert float(other) == pytest.approx(LOST, abs=0.07)


def test_noise_is_as_strong_as_said(told: Album, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(album, "LOST", 0.0)
    spread = torch.tensor([0.0, 1.0, 2.0, 4.0])
    noisy = Album(torch.zeros_like(told.tokens), told.captions, told.image_ids, spread)

    shown = noisy.shown([0, 1, 2], random.Random(1))

    assert torch.allclose(shown.std((0, 1)), album.NOISE * spread, rtol=0.1)
