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


def perturbed(build, seed=1, scale=0.05):
    """Build a module, always the same for a seed, with a value of its own for every parameter.

    Layers that start at zero would hide what they multiply.
    """
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        module = build()
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * scale)
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
    return perturbed(lambda: CLIPTextModel(config), 5)


def tiny_vae(**changes):
    from diffusers import AutoencoderKL

    return perturbed(
        lambda: AutoencoderKL(
            block_out_channels=(32, 32),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            layers_per_block=1,
            **changes,
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
    return perturbed(lambda: UNet2DConditionModel(**(arguments | changes)), 2)


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
    arguments = {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "cross_attention_dim": 32,
        "attention_head_dim": 8,
        **kinds("3D"),
    }
    pipe = TextToVideoSDPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_clip(words),
        tokenizer=tokenizer,
        unet=perturbed(lambda: UNet3DConditionModel(**arguments), 3),
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
    return perturbed(lambda: MotionAdapter(**(arguments | changes)), 6)


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


def tiny_xl_unet():
    """Stable Diffusion XL in small: heads of 64 channels, linear projections, pooled text and sizes."""
    return tiny_image_unet(
        block_out_channels=(32, 64),
        attention_head_dim=(1, 1),
        use_linear_projection=True,
        cross_attention_dim=96,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 20,
    )


def xl_parts(folder, unet=None):
    """Return the parts that pipelines of Stable Diffusion XL share: text encoders of 32 and 64 channels."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    tokenizer, words = write_tokenizer(folder / "tokenizer")
    tokenizer_2, _ = write_tokenizer(folder / "tokenizer_2")
    tokenizer_2.pad_token = "!"
    config = CLIPTextConfig(**{**tiny_clip(words, 64).config.to_dict(), "projection_dim": 20, "hidden_act": "gelu"})
    return {
        "vae": tiny_vae(scaling_factor=0.13025),
        "text_encoder": tiny_clip(words),
        "text_encoder_2": perturbed(lambda: CLIPTextModelWithProjection(config), 7),
        "tokenizer": tokenizer,
        "tokenizer_2": tokenizer_2,
        "unet": unet or tiny_xl_unet(),
        "scheduler": stable_diffusion_scheduler(),
    }


def write_image_xl(folder):
    """Write Stable Diffusion XL's pipeline folder."""
    from diffusers import StableDiffusionXLPipeline

    pipe = StableDiffusionXLPipeline(**xl_parts(folder), add_watermarker=False)
    pipe.save_pretrained(folder)
    return pipe


def write_animatediff_xl(folder):
    """Write the folder of AnimateDiff on Stable Diffusion XL."""
    from diffusers import AnimateDiffSDXLPipeline

    parts = xl_parts(folder) | {"scheduler": stable_diffusion_scheduler(beta_schedule="linear")}
    pipe = AnimateDiffSDXLPipeline(**parts, motion_adapter=tiny_adapter(use_motion_mid_block=False))
    pipe.unet.add_embedding.load_state_dict(parts["unet"].add_embedding.state_dict())  # diffusers leaves it at random
    pipe.save_pretrained(folder)
    return pipe


# --- Single files of the original repositories ------------------------------------------------------------------------

UNET, VAE, TEXT, OPEN_TEXT = (
    "model.diffusion_model.",
    "first_stage_model.",
    "cond_stage_model.transformer.text_model.",
    "cond_stage_model.model.",
)

XL_CLIP = "conditioner.embedders.0.transformer.text_model."


def under(prefix, weights):
    return {prefix + key: value.clone() for key, value in weights.items()}


def ldm_unet(unet):
    """Return an image network's weights in the latent diffusion layout."""
    from kineograph.checkpoints.ldm import unet_keys

    return unet_keys(unet.config).to_theirs(unet.state_dict())


def ldm_vae(vae):
    from kineograph.systems.svd_keys import original_decoder_keys

    return original_decoder_keys(len(vae.config["block_out_channels"])).to_theirs(vae.state_dict())


def clip_weights(text):
    """Return a text encoder's weights without a leading `text_model.`."""
    return {key.removeprefix("text_model."): value for key, value in text.state_dict().items()}


def open_clip_text(text):
    """Return a text encoder in OpenCLIP's layout, with a last layer and projections that nobody runs."""
    weights, layers = clip_weights(text), text.config.num_hidden_layers
    last, more = f"encoder.layers.{layers - 1}.", f"encoder.layers.{layers}."
    weights |= {more + key.removeprefix(last): value for key, value in weights.items() if key.startswith(last)}
    unused = {"text_projection": torch.randn(32, 32), "logit_scale": torch.tensor(4.6)}
    return open_clip_layers(weights, layers + 1) | unused


def open_clip_layers(weights, layers):
    """Return a text encoder's weights in OpenCLIP's layout, without the projection."""
    theirs = {
        "positional_embedding": weights["embeddings.position_embedding.weight"],
        "token_embedding.weight": weights["embeddings.token_embedding.weight"],
        "ln_final.weight": weights["final_layer_norm.weight"],
        "ln_final.bias": weights["final_layer_norm.bias"],
    }
    names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    for layer in range(layers):
        here, there = f"encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            joint = [weights[f"{here}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            theirs[f"{there}attn.in_proj_{kind}"] = torch.cat(joint)
            theirs[f"{there}attn.out_proj.{kind}"] = weights[f"{here}self_attn.out_proj.{kind}"]
            theirs |= {f"{there}{name}.{kind}": weights[f"{here}{ours}.{kind}"] for name, ours in names.items()}
    return theirs


def stable_diffusion_file(pipe):
    """Return the content of Stable Diffusion 1's checkpoint for a pipeline's parts."""
    return {
        **under(UNET, ldm_unet(pipe.unet)),
        **under(VAE, ldm_vae(pipe.vae)),
        **under(TEXT, clip_weights(pipe.text_encoder)),
        "model_ema.decay": torch.tensor(0.9999),
        "betas": torch.linspace(0, 1, 5),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(12)[None],
    }


def stable_diffusion_xl_file(pipe):
    """Return the content of Stable Diffusion XL's checkpoint for a pipeline's parts."""
    second = clip_weights(pipe.text_encoder_2)
    whole = {"text_projection": second["text_projection.weight"].T, "logit_scale": torch.tensor(4.6)}
    whole |= open_clip_layers(second, pipe.text_encoder_2.config.num_hidden_layers)
    return {
        **under(UNET, ldm_unet(pipe.unet)),
        **under(VAE, ldm_vae(pipe.vae)),
        **under(XL_CLIP, clip_weights(pipe.text_encoder)),
        **under("conditioner.embedders.1.model.", whole),
        f"{XL_CLIP}embeddings.position_ids": torch.arange(12)[None],
        "denoiser.sigmas": torch.linspace(0, 1, 5),
    }
