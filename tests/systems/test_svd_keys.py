"""The names in Stable Video Diffusion's original files; equality of outputs: docs/systems/parity.md."""

import torch

from kineograph.models.temporal_autoencoder import temporal_autoencoder
from kineograph.systems import systems
from kineograph.systems.svd_keys import original_decoder_keys

SYSTEM = systems()["stable_video_diffusion"]


def test_original_network_keys_go_both_ways_and_look_like_the_released_ones():
    with torch.device("meta"):
        network = SYSTEM.build("published").unet
    keys = SYSTEM.key_maps["original"](network.config)
    theirs = keys.to_theirs(network.state_dict())
    for name in (  # of svd.safetensors, without `model.diffusion_model.`
        "label_emb.0.2.weight",
        "input_blocks.1.0.time_stack.in_layers.2.weight",
        "input_blocks.1.0.time_stack.emb_layers.1.bias",
        "input_blocks.1.0.time_mixer.mix_factor",
        "input_blocks.1.1.time_stack.0.ff_in.net.0.proj.weight",
        "input_blocks.1.1.time_pos_embed.2.weight",
        "input_blocks.1.1.time_mixer.mix_factor",
        "input_blocks.3.0.op.weight",
        "middle_block.2.time_stack.out_layers.3.weight",
        "output_blocks.2.1.conv.weight",
        "output_blocks.5.2.conv.bias",
        "out.2.weight",
    ):
        assert name in theirs
    assert set(keys.to_ours(theirs)) == set(network.state_dict())


def test_original_decoder_keys_go_both_ways():
    with torch.device("meta"):
        vae = temporal_autoencoder(
            {
                "down_block_types": ("DownEncoderBlock2D",) * 4,
                "block_out_channels": (128, 256, 512, 512),
                "layers_per_block": 2,
            }
        ).vae
    keys = original_decoder_keys()
    theirs = keys.to_theirs(vae.state_dict())
    for name in (  # without `first_stage_model.`
        "encoder.down.1.block.0.nin_shortcut.weight",
        "encoder.mid.attn_1.q.weight",
        "decoder.mid.block_1.time_stack.in_layers.0.weight",
        "decoder.mid.block_2.mix_factor",
        "decoder.up.3.upsample.conv.weight",
        "decoder.up.0.block.2.time_stack.out_layers.3.bias",
        "decoder.conv_out.time_mix_conv.weight",
        "quant_conv.weight",
    ):
        assert name in theirs
    assert theirs["decoder.mid.attn_1.proj_out.weight"].shape == (512, 512, 1, 1)
    again = keys.to_ours(theirs)
    assert {k: v.shape for k, v in again.items()} == {k: v.shape for k, v in vae.state_dict().items()}
