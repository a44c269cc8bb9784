"""Tiny random pipelines of diffusers, on disk, and single files in the layouts of the original repositories."""

import json

import torch

TWO_LEVELS = {
    "down": ("CrossAttnDownBlock{}", "DownBlock{}"),
    "up": ("UpBlock{}", "CrossAttnUpBlock{}"),
}
MAX_TOKENS = 12


def kinds(ending):
    return {f"{part}_block_types": tuple(kind.format(ending) for kind in TWO_LEVELS[part]) for part in ("down", "up")}


def perturbed(module, seed=1, scale=0.05):
    """Give every parameter a value of its own: layers that start at zero would hide what they multiply."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return module.eval()


def write_tokenizer(folder, length=MAX_TOKENS):
    """Write CLIP's tokenizer with letters for words."""
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "CLIPTokenizer",
                "model_max_length": length,
                "bos_token": "<|startoftext|>",
                "eos_token": "<|endoftext|>",
                "unk_token": "<|endoftext|>",
                "pad_token": "<|endoftext|>",
            }
        )
    )
    return CLIPTokenizer.from_pretrained(str(folder)), len(words)


def tiny_clip(words, width=32):
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=2,
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=words - 2,
        eos_token_id=words - 1,
        pad_token_id=words - 1,
    )
    return perturbed(CLIPTextModel(config), 5)


def tiny_vae():
    from diffusers import AutoencoderKL

    return perturbed(
        AutoencoderKL(
            block_out_channels=(32, 32),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            layers_per_block=1,
        ),
        4,
    )


def stable_diffusion_scheduler(**changes):
    from diffusers import DDIMScheduler

    published = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    return DDIMScheduler(**(published | changes))


def tiny_image_unet(**changes):
    """Stable Diffusion 1 in small: attention by heads, convolutions around it."""
    from diffusers import UNet2DConditionModel

    arguments = {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "cross_attention_dim": 32,
        "attention_head_dim": 8,
        **kinds("2D"),
    }
    return perturbed(UNet2DConditionModel(**(arguments | changes)), 2)


def write_image_pipeline(folder, scheduler=None, unet=None, width=32):
    """Write a Stable Diffusion pipeline's folder."""
    from diffusers import StableDiffusionPipeline

    tokenizer, words = write_tokenizer(folder / "tokenizer")
    pipe = StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_clip(words, width),
        tokenizer=tokenizer,
        unet=unet or tiny_image_unet(),
        scheduler=scheduler or stable_diffusion_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    return pipe


def write_modelscope(folder, scheduler=None):
    """Write ModelScopeT2V's pipeline folder."""
    from diffusers import TextToVideoSDPipeline, UNet3DConditionModel

    tokenizer, words = write_tokenizer(folder / "tokenizer")
    unet = UNet3DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=8,
        **kinds("3D"),
    )
    pipe = TextToVideoSDPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_clip(words),
        tokenizer=tokenizer,
        unet=perturbed(unet, 3),
        scheduler=scheduler or stable_diffusion_scheduler(),
    )
    pipe.save_pretrained(folder)
    return pipe


def tiny_adapter(**changes):
    """AnimateDiff's motion modules in small."""
    from diffusers import MotionAdapter

    arguments = {
        "block_out_channels": (32, 64),
        "motion_layers_per_block": 1,
        "motion_num_attention_heads": 8,
        "motion_norm_num_groups": 32,
        "motion_max_seq_length": 32,
        "use_motion_mid_block": True,
    }
    return perturbed(MotionAdapter(**(arguments | changes)), 6)


def write_animatediff(folder, scheduler=None, adapter=None):
    """Write AnimateDiff's pipeline folder."""
    from diffusers import AnimateDiffPipeline

    tokenizer, words = write_tokenizer(folder / "tokenizer")
    pipe = AnimateDiffPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_clip(words),
        tokenizer=tokenizer,
        unet=tiny_image_unet(),
        motion_adapter=adapter or tiny_adapter(),
        scheduler=scheduler or stable_diffusion_scheduler(beta_schedule="linear"),
    )
    pipe.save_pretrained(folder)
    return pipe
