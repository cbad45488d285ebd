"""What each phase of a training holds in memory and computes, rehearsed without memory on the model's configuration.

The phases follow one another and share nothing but the machine: the frozen half makes features and goes; the other half
is checked, trained, and captions the validation images.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from captioncrafter import recipe
from captioncrafter.model import lora, memory
from captioncrafter.model.captioning import PackedCaptions, caption_loss
from captioncrafter.model.cut import Cut, deepest_cut, is_decoder_only, parts_after, parts_before
from captioncrafter.model.hardware import Arithmetic
from captioncrafter.model.prefix import Context, context_of, features_at
from captioncrafter.model.prompts import Prompts
from captioncrafter.model.rehearsal import rehearsing
from captioncrafter.model.stock import Blip2, Tuned
from captioncrafter.stages.caption_lengths import CaptionLengths
from captioncrafter.training.mode import evaluation_mode, training_mode

_META = torch.device("meta")
_CHECKED_IMAGES = 1  # preflight holds gradients of one image at a time
_FLOAT_BYTES = 4  # the adapter in float32
_ADAMW_BYTES = 8  # two moments in float32
_PROJECTION = "language_projection"


@dataclass(frozen=True)
class Phase:
    """Bytes in memory at the fullest moment of a phase, by what they are; floating-point operations for `images`."""

    name: str
    images: int
    weights_bytes: int
    adapter_bytes: int
    working_bytes: int
    flop: int

    @property
    def bytes(self) -> int:
        """All of them."""
        return self.weights_bytes + self.adapter_bytes + self.working_bytes


@dataclass(frozen=True)
class Cost:
    """Most bytes alive at once besides the model, and floating-point operations."""

    bytes: int
    flop: int


class Rehearsals:
    """Runs phases of recipes on one configuration, each once; `kernels` is the type of the device (`cuda`, `cpu`)."""

    def __init__(self, config: Any, kernels: str, lengths: CaptionLengths) -> None:
        self.config, self.kernels, self.lengths = config, kernels, lengths
        self.tuned: Callable[..., Tuned] = lru_cache(maxsize=2)(self._tuned)
        self._made: Callable[..., Cost] = lru_cache(maxsize=None)(self._make)
        self._checked: Callable[..., Cost] = lru_cache(maxsize=None)(self._check)
        self._stepped: Callable[..., Cost] = lru_cache(maxsize=None)(self._step)
        self._captioned: Callable[..., Cost] = lru_cache(maxsize=None)(self._caption)

    def cut(self, options: recipe.Recipe) -> Cut:
        """Where the frozen prefix of a recipe ends."""
        layers = lora.planned_layers(self.config, options.lora)
        return deepest_cut(self.config, layers, augmented=options.data.augment != "none")

    def phases(self, options: recipe.Recipe, arithmetic: Arithmetic) -> list[Phase]:
        """Every phase of a training in the order they come."""
        cut, dtype = self.cut(options), arithmetic.dtype
        behind = parts_after(self.config, cut)
        found = []
        if cut is not Cut.IMAGES:
            images = options.features.images_per_batch
            before = {*parts_before(Cut.QFORMER), *parts_before(cut), _PROJECTION}
            cost = self._made(options.lora, dtype, cut, images)
            found.append(self._phase("features", images, cost, options, arithmetic, loaded=before, adapter_bytes=0))
        cost = self._checked(options.lora, dtype, cut)
        found.append(
            self._phase("checks", _CHECKED_IMAGES, cost, options, arithmetic, loaded=behind, adapter_bytes=_FLOAT_BYTES)
        )
        found.append(self.training(options, arithmetic))
        images, beams = options.decoding.images_per_batch, options.validation.num_beams
        cost = self._captioned(options.lora, dtype, cut, images, beams, options.decoding.max_new_tokens)
        trained = _FLOAT_BYTES + _ADAMW_BYTES
        found.append(self._phase("validation", images, cost, options, arithmetic, loaded=behind, adapter_bytes=trained))
        return found

    def training(self, options: recipe.Recipe, arithmetic: Arithmetic) -> Phase:
        """The training alone, with the number of images at once that the recipe states or that is usual."""
        cut, training = self.cut(options), options.training
        images, longest = training.usual_batch, self.lengths.longest_tokens
        accumulates, recomputes = images < training.images_per_step, training.gradient_checkpointing
        cost = self._stepped(options.lora, arithmetic.dtype, cut, images, longest, recomputes, accumulates)
        loaded, trained = parts_after(self.config, cut), _FLOAT_BYTES + _ADAMW_BYTES
        return self._phase("training", images, cost, options, arithmetic, loaded=loaded, adapter_bytes=trained)

    def _phase(
        self,
        name: str,
        images: int,
        cost: Cost,
        options: recipe.Recipe,
        arithmetic: Arithmetic,
        *,
        loaded: Collection[str],
        adapter_bytes: int,
    ) -> Phase:
        """A phase with those parts of the base in memory; `adapter_bytes` are of each parameter that trains."""
        model = self.tuned(options.lora, arithmetic.dtype).get_base_model()
        weights = memory.bytes_in(memory.parts_of(model, arithmetic), loaded)
        adapter = adapter_bytes * self.adapter_parameters(options, arithmetic.dtype)
        working = cost.bytes + memory.unpacked_bytes(model, arithmetic)
        return Phase(name, images, weights, adapter, working, cost.flop)

    def captioning(self, options: recipe.Recipe, arithmetic: Arithmetic) -> Phase:
        """Captioning from pixels by the whole model, as `evaluate` and `caption` do once the training is over."""
        model, decoding = self.tuned(options.lora, arithmetic.dtype).get_base_model(), options.decoding
        images, beams = decoding.images_per_batch, decoding.num_beams
        written = self._captioned(options.lora, arithmetic.dtype, Cut.IMAGES, images, beams, decoding.max_new_tokens)
        weights = sum(part.bytes for part in memory.parts_of(model, arithmetic))
        adapter = self.adapter_parameters(options, arithmetic.dtype) * 4
        working = written.bytes + memory.unpacked_bytes(model, arithmetic)
        return Phase("captioning", images, weights, adapter, working, written.flop)

    def adapter_parameters(self, options: recipe.Recipe, dtype: torch.dtype) -> int:
        """How many parameters train."""
        tuned = self.tuned(options.lora, dtype)
        return sum(parameter.numel() for parameter in lora.trainable(tuned).values())

    def mean_step_flop(self, options: recipe.Recipe, arithmetic: Arithmetic) -> int:
        """Floating-point operations of one batch of images whose captions are as long as the mean."""
        training = options.training
        images, recomputes = training.usual_batch, training.gradient_checkpointing
        tokens, cut = self.lengths.mean_tokens, self.cut(options)
        return self._stepped(options.lora, arithmetic.dtype, cut, images, tokens, recomputes, False).flop

    def _tuned(self, adapter: recipe.Lora, dtype: torch.dtype) -> Tuned:
        return memory.attached(memory.meta_model(self.config, dtype), adapter)

    def _make(self, adapter: recipe.Lora, dtype: torch.dtype, cut: Cut, images: int) -> Cost:
        model = self.tuned(adapter, dtype).get_base_model()
        with rehearsing(self.kernels, model.parameters()) as counted:
            # The tuned model does: nothing before the cut has an adapter.
            features_at(model, self._features(Cut.IMAGES, images), cut, self._prompts(images)).float()
        return Cost(counted.peak_bytes, counted.flop)

    def _check(self, adapter: recipe.Lora, dtype: torch.dtype, cut: Cut) -> Cost:
        tuned = self.tuned(adapter, dtype)
        evaluation_mode(tuned)
        model = tuned.get_base_model()
        with rehearsing(self.kernels, tuned.parameters()) as counted:
            features = self._features(cut, _CHECKED_IMAGES, torch.float32).requires_grad_()
            context = context_of(model, features, cut, self._prompts(_CHECKED_IMAGES))
            loss = caption_loss(model, context, self._captions(_CHECKED_IMAGES, self.lengths.mean_tokens))
            torch.autograd.grad(loss, features)
        return Cost(counted.peak_bytes, counted.flop)

    def _step(
        self,
        adapter: recipe.Lora,
        dtype: torch.dtype,
        cut: Cut,
        images: int,
        tokens: int,
        recomputes: bool,
        accumulates: bool,
    ) -> Cost:
        """One batch forward and backward, with the gradients of the batches before it where a step has several."""
        tuned = self._tuned(adapter, dtype)  # its own: recomputing is switched on for good
        training_mode(tuned, recipe.Training(gradient_checkpointing=recomputes))
        with rehearsing(self.kernels, tuned.parameters()) as counted:
            if accumulates:
                for parameter in lora.trainable(tuned).values():
                    parameter.grad = torch.empty_like(parameter)
            context = context_of(tuned.get_base_model(), self._features(cut, images), cut, self._prompts(images))
            loss = caption_loss(tuned.get_base_model(), context, self._captions(images, tokens))
            loss.backward()
        return Cost(counted.peak_bytes, counted.flop)

    @torch.no_grad()
    def _caption(
        self, adapter: recipe.Lora, dtype: torch.dtype, cut: Cut, images: int, beams: int, new_tokens: int
    ) -> Cost:
        """The context, the first token, and room for the keys and values of all others; operations of all of them."""
        tuned = self.tuned(adapter, dtype)
        evaluation_mode(tuned)
        model = tuned.get_base_model()
        with rehearsing(self.kernels, tuned.parameters()) as counted:
            context = context_of(model, self._features(cut, images), cut, self._prompts(images))
            states = context.states.repeat_interleave(beams, dim=0)
            context = Context(states, context.mask.repeat_interleave(beams, dim=0), context.padded)
            cache, hidden = _token(model, context)
            scores = model.get_output_embeddings()(hidden[:, -1]).float().log_softmax(dim=-1)
            scores.view(images, -1).topk(min(2 * beams, scores.shape[1]))
            most, begun = counted.peak_bytes, counted.flop
            _, hidden = _token(model, context, cache)
            model.get_output_embeddings()(hidden[:, -1])
        further = (new_tokens - 1) * (counted.flop - begun)
        return Cost(most + _keys_and_values(self.config, images * beams, new_tokens, dtype), begun + further)

    def _features(self, cut: Cut, images: int, dtype: torch.dtype = torch.float16) -> Tensor:
        return torch.empty(
            images, *feature_shape(self.config, cut, self.lengths.prompt_tokens), dtype=dtype, device=_META
        )

    def _prompts(self, images: int) -> Prompts:
        words = torch.empty(images, self.lengths.prompt_tokens, dtype=torch.long, device=_META)
        return Prompts(words, torch.empty_like(words, dtype=torch.bool), self.config.num_query_tokens, padded=False)

    def _captions(self, images: int, tokens: int) -> PackedCaptions:
        """Rows of the longest captions, no padding among them."""
        before = self.config.num_query_tokens + self.lengths.prompt_tokens if is_decoder_only(self.config) else 0
        count = {"dtype": torch.long, "device": _META}
        return PackedCaptions(
            token_ids=torch.empty(images, tokens, **count),
            mask=torch.empty(images, 1, before + tokens, before + tokens, dtype=torch.bool, device=_META),
            positions=torch.empty(images, before + tokens, **count),
            read_at=torch.empty(images * tokens, **count),
            targets=torch.empty(images * tokens, **count),
        )


def feature_shape(config: Any, cut: Cut, prompt_tokens: int) -> tuple[int, ...]:
    """The shape of what is known of one image at `cut`."""
    vision, queries, width = config.vision_config, config.num_query_tokens, config.text_config.hidden_size
    return {
        Cut.IMAGES: (3, vision.image_size, vision.image_size),
        Cut.VISION: ((vision.image_size // vision.patch_size) ** 2 + 1, vision.hidden_size),
        Cut.QFORMER: (queries, config.qformer_config.hidden_size),
        Cut.PROJECTION: (queries, width),
        Cut.ENCODER: (queries + prompt_tokens, width),
    }[cut]


def _token(model: Blip2, context: Context, cache: Any = None) -> tuple[Any, Tensor]:
    """Keys and values, and hidden states: of the context and where captions begin, or with their cache of one more."""
    decoder = model.language_model.get_decoder()
    one = torch.empty(len(context.states), 1, dtype=torch.long, device=_META)
    if is_decoder_only(model.config):
        mask = context.mask.long()
        if cache is None:
            outputs = decoder(inputs_embeds=context.states, attention_mask=mask, use_cache=True)
        else:
            mask = torch.cat([mask, torch.empty_like(one)], dim=1)
            outputs = decoder(input_ids=one, attention_mask=mask, past_key_values=cache, use_cache=True)
    else:
        outputs = decoder(
            input_ids=one,
            past_key_values=cache,
            encoder_hidden_states=context.states,
            encoder_attention_mask=context.needed_mask,
            use_cache=True,
        )
    return outputs.past_key_values, outputs.last_hidden_state


def _keys_and_values(config: Any, rows: int, tokens: int, dtype: torch.dtype) -> int:
    """Bytes of the cache of `tokens` new tokens; beams copy one layer at a time, which is left out."""
    text = config.text_config
    if is_decoder_only(config):
        layers, width = text.num_hidden_layers, text.hidden_size
    else:
        layers, width = text.num_decoder_layers, text.num_heads * text.d_kv
    return 2 * layers * rows * tokens * width * dtype.itemsize
