"""Cross-frame attention and motion fields against diffusers' Text2Video-Zero."""

import pytest
import torch
from diffusers.pipelines.deprecated.text_to_video_synthesis import pipeline_text_to_video_zero as zero
from tiny import FAMILIES, inputs, perturb, relative

from kineograph.errors import InputError
from kineograph.models.video_unet import VideoUNet
from kineograph.systems import systems, text2video_zero
from kineograph.systems.text2video_zero import Text2VideoZeroConfig, moving_latents
from kineograph.temporal.cross_frame import gather_frames, source_frames
from kineograph.temporal.inflate import strip
from kineograph.temporal.motion_field import translations, warp
from kineograph.temporal.plan import Plan


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
@torch.no_grad()
def test_first_frame_attention_equals_diffusers(name):
    family = FAMILIES[name]
    unet, call = perturb(family.build()), inputs(family)
    plain = VideoUNet(unet)(**call)
    ours = systems()["text2video_zero"].build(image_unet=unet)(**call)
    strip(unet)
    assert torch.equal(VideoUNet(unet)(**call), plain)
    unet.set_attn_processor(zero.CrossFrameAttnProcessor2_0(batch_size=2))
    assert relative(ours, VideoUNet(unet)(**call)) < 1e-5
    assert relative(ours, plain) > 1e-3


def test_sources_are_what_they_say():
    indices = {source: source_frames(source, 4).tolist() for source in ("own", "first", "previous", "next")}
    assert indices == {"own": [0, 1, 2, 3], "first": [0] * 4, "previous": [0, 0, 1, 2], "next": [1, 2, 3, 3]}
    x = torch.arange(8.0).view(8, 1, 1)
    assert gather_frames(x, 4, ("first", "previous"))[:, :, 0].tolist()[4:] == [[4, 4], [4, 4], [4, 5], [4, 6]]
    with pytest.raises(InputError, match="did you mean 'first'"):
        Plan((), self_attention=("frist",))


@torch.no_grad()
def test_own_frame_and_single_frames_and_images_are_the_image_network():
    family = FAMILIES["sd2"]
    unet, call = perturb(family.build()), inputs(family, frames=4)
    expected = VideoUNet(unet)(**call)
    assert relative(VideoUNet(unet, Plan((), self_attention=("own", "own")))(**call), expected) < 1e-5
    strip(unet)
    model = VideoUNet(unet, Plan((), self_attention=("first",)))
    with model.temporal_off():
        assert relative(model(**call), expected) < 1e-6
    mixed = model(**call, num_images=2)
    assert relative(mixed[:, 2:], expected[:, 2:]) < 1e-5
    x = call.pop("x")
    assert relative(mixed[:, :2], model(x[:, :2], **call)) < 1e-5
    assert relative(model(x[:, :1], **call), expected[:, :1]) < 1e-5


def test_networks_without_self_attention_are_refused():
    with pytest.raises(InputError, match="no transformer blocks"):
        VideoUNet(FAMILIES["unconditional"].build(), Plan((), self_attention=("first",)))


@pytest.mark.filterwarnings("ignore:torch.meshgrid", "ignore:Default grid_sample", "ignore:.*align_corners")
@pytest.mark.parametrize("step", [(12.0, 12.0), (-5.0, 30.0)])
def test_warp_equals_diffusers(step):
    frames = torch.randn(5, 4, 16, 16)
    expected = zero.create_motion_field_and_warp_latents(*step, list(range(5)), frames)
    assert torch.equal(warp(frames[None], translations(5, step))[0], expected)


def test_whole_pixels_move_whole_pixels():
    frames = torch.randn(1, 2, 1, 32, 32)
    moved = warp(frames, translations(2, (16.0, 0.0)))
    assert torch.equal(moved[:, 0], frames[:, 0])
    assert torch.equal(moved[:, 1, :, :, :30], frames[:, 1, :, :, 1:31])


def test_moving_latents_keep_the_variance_of_their_level():
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(1, 1, 4, 64, 64, generator=generator)
    noise = torch.randn(1, 7, 4, 64, 64, generator=generator)
    later = moving_latents(latent, 8, Text2VideoZeroConfig(), remaining=0.6, noise=noise)
    assert later.shape == noise.shape
    assert abs(later.var().item() - 1) < 0.05
    still = moving_latents(latent, 8, Text2VideoZeroConfig(motion=(0.0, 0.0)), 0.6, noise * 0)
    assert torch.allclose(still, latent.expand_as(still) * 0.6**0.5)


class TestSampling:
    """The whole procedure against diffusers' loops on a tiny Stable Diffusion network, with the same noise."""

    @staticmethod
    def parts(steps=50):
        from diffusers import DDIMScheduler

        from kineograph.diffusion.scheduler_config import read

        family = FAMILIES["sd1"]
        scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False,
                                  set_alpha_to_one=False, steps_offset=1)  # fmt: skip
        scheduler.set_timesteps(steps)
        plan = read({"_class_name": "DDIMScheduler", **scheduler.config})
        return perturb(family.build()), inputs(family), scheduler, plan

    @pytest.mark.filterwarnings("ignore:torch.meshgrid", "ignore:Default grid_sample", "ignore:.*align_corners")
    @torch.no_grad()
    def test_equals_diffusers(self):
        import copy

        unet, call, scheduler, plan = self.parts()
        text, frames = torch.randn(2, 7, call["context"].shape[-1]), 5
        x, noise = torch.randn(1, 4, 8, 8), torch.randn(frames - 1, 4, 8, 8)
        ours = self.ours(copy.deepcopy(unet), plan, text, x[:, None], noise[None])
        pipe = zero.TextToVideoZeroPipeline.__new__(zero.TextToVideoZeroPipeline)
        unet.set_attn_processor(zero.CrossFrameAttnProcessor2_0(batch_size=2))
        pipe.register_modules(unet=unet, scheduler=scheduler)
        pipe.set_progress_bar_config(disable=True)
        loop = lambda latents, timesteps: pipe.backward_loop(
            latents, timesteps, text.repeat_interleave(len(latents), 0), 3.0, None, 1, 0, {}
        )
        times = scheduler.timesteps
        first = loop(x, times[:2])
        moved = zero.create_motion_field_and_warp_latents(
            12, 12, list(range(1, frames)), loop(first, times[2:5]).repeat(frames - 1, 1, 1, 1)
        )
        kept = scheduler.alphas_cumprod[times[2]] / scheduler.alphas_cumprod[times[5]]
        theirs = loop(torch.cat([first, kept.sqrt() * moved + (1 - kept).sqrt() * noise]), times[2:])
        assert relative(ours[0], theirs) < 1e-4

    @staticmethod
    def ours(unet, plan, text, x, noise, **options):
        from kineograph.diffusion.denoiser import NetworkDenoiser
        from kineograph.diffusion.guidance import classifier_free

        network = systems()["text2video_zero"].build(image_unet=unet)
        denoiser = NetworkDenoiser(network, plan.schedule, plan.kind)
        guided = classifier_free(denoiser, text[1:], text[:1], 3.0)
        levels = plan.levels(50)
        return text2video_zero.sample(guided, x, levels, noise, **options)

    @torch.no_grad()
    def test_smoothing_leaves_the_foreground_and_moves_the_background(self):
        config = Text2VideoZeroConfig(smoothing=1.0, motion=(64.0, 0.0))
        x, masks = torch.randn(1, 3, 4, 8, 8), torch.zeros(1, 3, 1, 8, 8)
        masks[..., :4, :] = 1
        smoothed = text2video_zero.smooth_background(x, masks, config)
        assert torch.equal(smoothed[..., :4, :], x[..., :4, :])
        assert torch.equal(smoothed[:, 1, :, 4:, :7], x[:, 0, :, 4:, 1:])
        unet, call, _, plan = self.parts()
        text = torch.randn(2, 7, call["context"].shape[-1])
        arguments = (unet, plan, text, torch.randn(1, 1, 4, 8, 8), torch.randn(1, 2, 4, 8, 8))
        plain, kept = self.ours(*arguments), self.ours(*arguments, masks=torch.ones_like(masks))
        assert relative(kept, plain) < 1e-5
        assert relative(self.ours(*arguments, masks=masks), plain) > 1e-3

    def test_stages_scale_with_the_steps(self):
        assert text2video_zero.stages(50, Text2VideoZeroConfig()) == (2, 5)
        assert text2video_zero.stages(30, Text2VideoZeroConfig()) == (1, 3)
        assert text2video_zero.stages(3, Text2VideoZeroConfig()) == (0, 1)
