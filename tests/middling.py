"""A random BLIP-2 large enough that its memory can be measured in a process's size."""

from pathlib import Path

import torch

from tiny import tiny_processor


def write_middling_checkpoint(folder: Path, *, seed: int = 0) -> Path:
    """ViT 6 x 384, Q-Former 4 x 256, flan-T5 6 + 6 x 512, 8,000 words: 66 M parameters, its head untied."""
    from transformers import Blip2Config, Blip2ForConditionalGeneration

    torch.manual_seed(seed)
    processor = tiny_processor()
    processor.num_query_tokens = 32
    processor.image_processor.size = {"height": 224, "width": 224}
    vision = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 6}
    qformer = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4}
    text = {"model_type": "t5", "vocab_size": 8000, "d_model": 512, "d_kv": 64, "d_ff": 1280, "num_heads": 8}
    text |= {"num_layers": 6, "num_decoder_layers": 6, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    text |= {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    config = Blip2Config(
        vision_config=vision | {"image_size": 224, "patch_size": 14},
        qformer_config=qformer | {"encoder_hidden_size": 384, "vocab_size": 64},
        text_config=text,
        num_query_tokens=32,
        image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = Blip2ForConditionalGeneration(config)
    model.language_model.lm_head.weight = torch.nn.Parameter(torch.randn(8000, 512) * 0.02)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
