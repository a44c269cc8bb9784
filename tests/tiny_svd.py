"""A tiny random Stable Video Diffusion: diffusers' pipeline, every parameter perturbed."""

import torch


def tiny_pipeline(seed=0):
    from diffusers import (
        AutoencoderKLTemporalDecoder,
        EulerDiscreteScheduler,
        StableVideoDiffusionPipeline,
        UNetSpatioTemporalConditionModel,
    )
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    from kineograph.models.image_to_video import EDM_V

    torch.manual_seed(seed)
    unet = UNetSpatioTemporalConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=24,
        num_attention_heads=(2, 4),
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        num_frames=4,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    )
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
        projection_dim=24,
    )
    encoder = CLIPVisionModelWithProjection(vision)
    side = {"height": 32, "width": 32}
    pipeline = StableVideoDiffusionPipeline(
        vae=tiny_vae(),
        image_encoder=perturbed(encoder).eval(),
        unet=perturbed(unet).eval(),
        scheduler=EulerDiscreteScheduler.from_config(EDM_V),
        feature_extractor=CLIPImageProcessor(size=side, crop_size=side),
    )
    assert isinstance(pipeline.vae, AutoencoderKLTemporalDecoder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_vae():
    from diffusers import AutoencoderKLTemporalDecoder

    vae = AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * 2,
        block_out_channels=(32, 64),
        layers_per_block=2,
        latent_channels=4,
        sample_size=16,
    )
    return perturbed(vae).eval()


def perturbed(module, scale=0.05, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return module


def photo(width=24, height=16):
    """Return a PIL picture with structure."""
    import numpy as np
    from PIL import Image

    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 9 % 256, y * 15 % 256, (x * y) % 256], -1).astype("uint8"))
