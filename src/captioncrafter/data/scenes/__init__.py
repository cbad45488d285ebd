"""Drawn scenes: a small world of coloured shapes, its pictures and its captions, all from a seed.

`world` says what a scene holds, `picture` draws it, `wording` describes it; `dataset` makes captioned images of them.
"""

from captioncrafter.data.scenes.dataset import scene_images

__all__ = ["scene_images"]
