"""Training photos are shown blurred, and never as another photo."""

import pytest
import torch

from miniature.telling import Blur, blurred

PHOTOS, PLACES, WIDTH = 3, 500, 4


def test_every_token_is_of_the_photo():
    tokens = torch.arange(PHOTOS * PLACES * 1.0).view(PHOTOS, PLACES, 1).expand(-1, -1, WIDTH)

    shown = blurred(tokens, Blur(lost=0.3, noise=0.0, misheard=0.0))

    for photo in range(PHOTOS):
        assert set(shown[photo, :, 0].tolist()) <= set(tokens[photo, :, 0].tolist())


def test_as_many_places_as_said_show_another():
    tokens = torch.randn(PHOTOS, PLACES, WIDTH, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)

    other = (blurred(tokens, Blur(lost=0.3, noise=0.0, misheard=0.0)) != tokens).all(2).float().mean()

    assert other.item() == pytest.approx(0.3, abs=0.05)


def test_noise_is_as_strong_as_said():
    spread = torch.tensor([0.5, 1.0, 2.0, 4.0])
    tokens = spread * torch.randn(PHOTOS, PLACES, WIDTH, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)

    noise = blurred(tokens, Blur(lost=0.0, noise=0.3, misheard=0.0)) - tokens

    assert torch.allclose(noise.std((0, 1)), 0.3 * spread, rtol=0.1)
