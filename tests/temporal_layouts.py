"""Tiny networks of the published systems, of the widths that can be told from their weights."""

import tiny_pipelines as tiny


def modelscope_network():
    from kineograph.systems import systems
    from kineograph.systems.modelscope import ModelScopeConfig

    system = systems()["modelscope"]
    return tiny.perturbed(lambda: system.build(ModelScopeConfig(input_heads=2), linear_unet()), 8)


def linear_unet(**changes):
    """Stable Diffusion 2 in small: heads of 64 channels, linear projections."""
    return tiny.tiny_image_unet(
        block_out_channels=(64, 128), attention_head_dim=(1, 2), use_linear_projection=True, **changes
    )


def system_network(name, version):
    """Return a tiny network of a system's published version."""
    from dataclasses import replace

    from kineograph.systems import systems

    system = systems()[name]
    config = system.preset(version)
    if name == "videocrafter":
        kind = {"class_embed_type": "timestep"} if version in ("v2", "v1-1024", "i2v") else {}
        return tiny.perturbed(lambda: system.build(replace(config, input_heads=2), linear_unet(**kind)), 8)
    return tiny.perturbed(lambda: system.build(config, tiny.tiny_image_unet()), 8)
