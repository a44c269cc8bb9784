"""AnimateDiff in diffusers and here, with the same random weights."""

from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from tiny import perturb

from kineograph.systems import systems

SYSTEM = systems()["animatediff"]
SD = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 24,
    "sample_size": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 4,
}


def motion_pair(config, arguments=SD):
    """Return diffusers' network, ours with its weights, and the map between their names.

    UNetMotionModel takes the image network's number of groups for its motion modules.
    """
    image = UNet2DConditionModel(**arguments)
    adapter = MotionAdapter(
        block_out_channels=arguments["block_out_channels"],
        motion_layers_per_block=arguments["layers_per_block"],
        motion_num_attention_heads=config.num_heads,
        motion_norm_num_groups=config.norm_groups,
        motion_max_seq_length=config.max_frames,
        use_motion_mid_block=config.middle,
    )
    reference = perturb(UNetMotionModel.from_unet2d(image, adapter))
    ours = SYSTEM.build(config, image)
    keys = SYSTEM.key_maps["diffusers"](ours.config)
    ours.unet.load_state_dict(keys.to_ours(reference.state_dict()), strict=True)
    return reference, ours, keys
