"""Drawn scenes: a small world of coloured shapes, its pictures, its captions and questions about it, all from a seed.

`world` says what a scene holds, `picture` draws it, `wording` describes it, `questions` asks about it; `dataset` makes
captioned images of them.
"""

from captioncrafter.data.scenes.dataset import scene_images, scene_questions

__all__ = ["scene_images", "scene_questions"]
