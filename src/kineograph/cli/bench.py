"""`kineograph bench`: this machine, timed side by side with diffusers on the same weights.

The pair is ModelScopeT2V as this library builds it (diffusers' image U-Net, inflated) and diffusers'
`UNet3DConditionModel`. Both hold the same random weights and get the same input in the same data type, and take turns
in one process. Before anything is timed the outputs are compared, so that the two do the same work.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from kineograph.cli import _load
from kineograph.cli._output import Report, emit, progress, table
from kineograph.cli._timing import (
    Timing,
    Work,
    floating_point_operations,
    matmul_ceiling,
    ratio,
    take_turns,
)
from kineograph.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

OURS, THEIRS = "kineograph", "diffusers"
Part = Literal["step", "sample", "train", "startup"]
PARTS: tuple[Part, ...] = ("step", "sample", "train", "startup")
TOLERANCE = 1e-5  # relative, float32: the parity that the tests demand
GUIDANCE = 7.5


@dataclass(frozen=True)
class Args:
    """Time this machine: a denoising step, a full sample, a training step and start-up, against diffusers.

    The two take turns (A B, B A, ...) in one process on the same weights; the table gives medians and their ratio, and
    what share of the machine's measured matrix-product ceiling each reaches. Where other programs were busy,
    rounds differ or the ceiling is passed, it says that the numbers are not to be believed.
    """

    quick: bool = False
    """A smaller network and at most 3 rounds."""

    parts: Annotated[tuple[Part, ...], arg(metavar="PART [PART ...]")] = PARTS
    """What to time: step, sample, train, startup."""

    rounds: int = 7
    """How often each side is timed, a count; the median is reported (quick: at most 3)."""

    json: bool = False
    """Print one JSON document, with every single time, instead of text."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Sizes of the network and its input; latents are square."""

    channels: tuple[int, ...]
    layers: int
    context_dim: int
    tokens: int
    frames: int
    latent: int
    head_dim: int
    sample_steps: int


FULL = Size(
    channels=(64, 128, 256), layers=2, context_dim=384, tokens=32, frames=16, latent=16, head_dim=32, sample_steps=10
)
QUICK = Size(channels=(32, 64), layers=1, context_dim=64, tokens=16, frames=8, latent=16, head_dim=16, sample_steps=4)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One comparison.

    Attributes:
        name: What was timed.
        dtype: Data type, or the autocast type of a training step; empty for start-up.
        ours: Times of this library.
        theirs: Times of the peer.
        peer: What the peer is.
        operations: Floating-point operations of one run, counted on the peer; 0 where they say nothing.
    """

    name: str
    dtype: str
    ours: Timing
    theirs: Timing
    peer: str
    operations: int = 0


def run(args: Args) -> int:
    """Measure and print."""
    if args.rounds < 1:
        raise InputError(f"--rounds counts how often each side is timed; it must be at least 1, given {args.rounds}.")
    if not args.parts:
        raise InputError(f"--parts names nothing to time. Known: {', '.join(PARTS)}.")
    rounds = min(args.rounds, 3) if args.quick else args.rounds
    document = measure(QUICK if args.quick else FULL, args.parts, rounds)
    emit(document, lambda: _text(document), args.json)
    return 0


def measure(size: Size, parts: tuple[Part, ...], rounds: int) -> dict[str, Any]:
    """Time the parts.

    Args:
        size: Sizes of network and input.
        parts: What to time.
        rounds: How often each side is timed.

    Returns:
        The machine, its ceilings, and the comparisons, as plain data.
    """
    import torch
    from diffusers.utils import logging

    from kineograph.devices import best_device, has_bf16

    logging.set_verbosity_error()  # it warns at every cast to bfloat16, of no modules at all

    device = str(best_device())
    dtypes = ("float32", "bfloat16") if has_bf16() else ("float32",)
    wanted: list[tuple[Part, str]] = [
        (part, dtype) for part in parts for dtype in (("",) if part == "startup" else dtypes)
    ]
    watch = _load.Watch()
    with progress("bench", len(wanted) + 1, "measurements") as report:
        ceilings: dict[str, float] = {}
        reach = lambda: ceilings.update({dtype: matmul_ceiling(dtype, device) for dtype in dtypes})
        given = _load.given_share(reach, torch.get_num_threads())
        pair = Pair.build(size, device)
        report(1, "ceiling")
        results = list(_comparisons(pair, wanted, rounds, report))
    described = [_described(result, ceilings) for result in results]
    return {
        "machine": {"device": device, "threads": torch.get_num_threads(), "torch": torch.__version__},
        "load": _load.described(watch, given if device == "cpu" else None, described),
        "versions": _versions(),
        "size": size,
        "parameters": sum(p.numel() for p in pair.theirs.parameters()),
        "output_difference": pair.difference,
        "rounds": rounds,
        "ceiling_flops": ceilings,
        "results": described,
    }


def _comparisons(pair: Pair, wanted: list[tuple[Part, str]], rounds: int, report: Report) -> Iterator[Result]:
    """Yield a result for each wanted part and data type."""
    timers: dict[Part, Callable[[Pair, str, int], list[Result]]] = {
        "step": _time_step,
        "sample": _time_sample,
        "train": _time_training,
        "startup": lambda _pair, _dtype, rounds: _time_startup(rounds),
    }
    for done, (part, dtype) in enumerate(wanted):
        yield from timers[part](pair, dtype, rounds)
        report(done + 2, f"{part} {dtype}".strip())


# The pair --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Our network and diffusers', with the same weights, and one input for both."""

    ours: nn.Module
    theirs: nn.Module
    clip: Tensor
    context: Tensor
    size: Size
    difference: float

    @classmethod
    def build(cls, size: Size, device: str) -> Pair:
        """Build both networks with the same random weights, and check that they agree.

        Raises:
            InputError: They do not; then a comparison of speed says nothing.
        """
        import torch

        generator = torch.Generator().manual_seed(0)
        theirs = _reference(size, generator)
        ours = _inflated(size, theirs)
        clip = torch.randn(1, size.frames, 4, size.latent, size.latent, generator=generator)
        context = torch.randn(1, size.tokens, size.context_dim, generator=generator)
        ours, theirs = ours.to(device).eval(), theirs.to(device).eval()
        clip, context = clip.to(device), context.to(device)
        with torch.inference_mode():
            expected = _call_theirs(theirs, clip, 500, context)
            difference = float((ours(clip, 500, context) - expected).abs().max() / expected.abs().max())
        if not difference <= TOLERANCE * 10:
            raise InputError(f"The two networks disagree by {difference:.1e}; their speeds cannot be compared.")
        return cls(ours=ours, theirs=theirs, clip=clip, context=context, size=size, difference=difference)

    def cast(self, dtype: torch.dtype) -> Pair:
        """Return the pair with weights and input in another type."""
        import copy

        values = {name: copy.deepcopy(getattr(self, name)).to(dtype) for name in ("ours", "theirs")}
        return Pair(
            **values,
            clip=self.clip.to(dtype),
            context=self.context.to(dtype),
            size=self.size,
            difference=self.difference,
        )


def _reference(size: Size, generator: torch.Generator) -> nn.Module:
    """Build diffusers' network; every weight is moved off its start, since zeros would hide what they multiply."""
    import torch
    from diffusers import UNet3DConditionModel

    deep = len(size.channels) - 1
    network = UNet3DConditionModel(
        sample_size=size.latent,
        block_out_channels=size.channels,
        layers_per_block=size.layers,
        cross_attention_dim=size.context_dim,
        attention_head_dim=size.head_dim,
        down_block_types=("CrossAttnDownBlock3D",) * deep + ("DownBlock3D",),
        up_block_types=("UpBlock3D",) + ("CrossAttnUpBlock3D",) * deep,
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return network


def _inflated(size: Size, reference: nn.Module) -> nn.Module:
    """Build our network with the reference's weights."""
    from kineograph.systems import systems

    system = systems()["modelscope"]
    deep = len(size.channels) - 1
    image = {
        "sample_size": size.latent,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": size.channels,
        "layers_per_block": size.layers,
        "cross_attention_dim": size.context_dim,
        "attention_head_dim": tuple(width // size.head_dim for width in size.channels),
        "use_linear_projection": True,
        "down_block_types": ("CrossAttnDownBlock2D",) * deep + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * deep,
    }
    config = system.config(image=image, head_dim=size.head_dim, conv_dropout=0.0)
    network = system.build(config)
    weights = system.key_maps["diffusers"](config).to_ours(reference.state_dict())
    network.unet.load_state_dict(weights, strict=True)
    return network


def _call_theirs(network: nn.Module, clip: Tensor, timestep: Any, context: Tensor) -> Tensor:
    """Call diffusers' network on our layout: (batch, frames, channels, height, width) in and out."""
    return network(clip.transpose(1, 2), timestep, context, return_dict=False)[0].transpose(1, 2)


# What is timed ---------------------------------------------------------------------------------------------------


def _time_step(pair: Pair, dtype: str, rounds: int) -> list[Result]:
    """Time one forward pass on one clip."""
    import torch

    cast = pair.cast(getattr(torch, dtype))
    rivals: dict[str, Work] = {
        OURS: lambda: cast.ours(cast.clip, 500, cast.context),
        THEIRS: lambda: _call_theirs(cast.theirs, cast.clip, 500, cast.context),
    }
    with torch.inference_mode():
        timings = take_turns(rivals, rounds)
        operations = floating_point_operations(rivals[THEIRS])
    return [_result("denoising step", dtype, timings, "UNet3DConditionModel", operations)]


def _time_sample(pair: Pair, dtype: str, rounds: int) -> list[Result]:
    """Time a whole sample: DDIM with classifier-free guidance."""
    import torch

    cast = pair.cast(getattr(torch, dtype))
    rivals: dict[str, Work] = {OURS: _our_sampler(cast), THEIRS: _their_sampler(cast)}
    with torch.inference_mode():
        timings = take_turns(rivals, max(1, rounds // 2))
        operations = floating_point_operations(rivals[THEIRS])
    name = f"sample, {pair.size.sample_steps} DDIM steps, guided"
    return [_result(name, dtype, timings, "DDIMScheduler loop", operations)]


def _our_sampler(pair: Pair) -> Work:
    """Return our whole sampling loop."""
    from kineograph.diffusion.denoiser import NetworkDenoiser
    from kineograph.diffusion.guidance import classifier_free
    from kineograph.diffusion.samplers import ddim
    from kineograph.diffusion.schedule import Schedule

    schedule = Schedule.named("scaled_linear", beta_start=0.00085, beta_end=0.012)
    network = NetworkDenoiser(_in_own_type(pair.ours, pair.clip.dtype), schedule, "epsilon")
    empty = pair.context.new_zeros(pair.context.shape)

    def sample() -> Tensor:
        levels = schedule.levels(schedule.timesteps(pair.size.sample_steps))
        return ddim(classifier_free(network, pair.context, empty, GUIDANCE), pair.clip, levels)

    return sample


def _in_own_type(network: nn.Module, dtype: torch.dtype) -> Callable[[Tensor, Any, Any], Tensor]:
    """Cast the sampler's float32 state to the network's type."""
    return lambda x, t, context: network(x.to(dtype), t, context)


def _their_sampler(pair: Pair) -> Work:
    """Return the loop that diffusers' documentation shows for this network: both halves of guidance in one batch."""
    import torch
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
    )
    context = torch.cat([torch.zeros_like(pair.context), pair.context])
    start = pair.clip.transpose(1, 2)

    def sample() -> Tensor:
        scheduler.set_timesteps(pair.size.sample_steps)
        x = start
        for t in scheduler.timesteps:
            both = pair.theirs(torch.cat([x, x]), t, context, return_dict=False)[0]
            negative, positive = both.chunk(2)
            x = scheduler.step(negative + GUIDANCE * (positive - negative), int(t), x, return_dict=False)[0]
        return x

    return sample


def _time_training(pair: Pair, dtype: str, rounds: int) -> list[Result]:
    """Time forward, backward and AdamW on all weights; bfloat16 is autocast over float32 weights."""
    rivals = {
        OURS: _training_step(pair, pair.ours, lambda network, x, t, c: network(x, t, c), dtype),
        THEIRS: _training_step(pair, pair.theirs, _call_theirs, dtype),
    }
    timings = take_turns(rivals, rounds)
    operations = floating_point_operations(rivals[THEIRS])
    return [_result("training step", dtype, timings, "UNet3DConditionModel", operations)]


def _training_step(pair: Pair, network: nn.Module, call: Callable[..., Tensor], dtype: str) -> Work:
    """Return one optimizer step on a copy of the network."""
    import copy

    import torch

    learner = copy.deepcopy(network).train()
    optimizer = torch.optim.AdamW(learner.parameters(), lr=1e-5)
    target = torch.ones_like(pair.clip)

    def step() -> None:
        with _autocast(pair.clip.device.type, dtype):
            loss = torch.nn.functional.mse_loss(call(learner, pair.clip, 500, pair.context).float(), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _autocast(device_type: str, dtype: str) -> contextlib.AbstractContextManager[Any]:
    """Return torch's autocast, or nothing for float32."""
    import torch

    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device_type, dtype=getattr(torch, dtype))


STARTUP = (
    ("import the package", "import kineograph", "import diffusers"),
    (
        "import the network",
        "from kineograph.models.video_unet import VideoUNet",
        "from diffusers import UNet3DConditionModel",
    ),
    (
        "--help of the program",
        "from kineograph.cli import main; main(['--help'])",
        "import sys; sys.argv = ['diffusers-cli', '--help']; from diffusers.commands.diffusers_cli import main; main()",
    ),
)
"""What a fresh interpreter is told: a name, our statement, the peer's."""


def _time_startup(rounds: int) -> list[Result]:
    """Time fresh interpreters."""
    results = []
    for name, ours, theirs in STARTUP:
        timings = take_turns({OURS: _fresh(ours), THEIRS: _fresh(theirs)}, max(1, rounds // 2))
        results.append(_result(f"start-up: {name}", "", timings, theirs, 0))
    return results


def _fresh(statement: str) -> Work:
    """Return work that runs a statement in a new interpreter."""
    command = [sys.executable, "-W", "ignore", "-c", statement]
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


# Results ---------------------------------------------------------------------------------------------------------


def _result(name: str, dtype: str, timings: dict[str, Timing], peer: str, operations: int) -> Result:
    return Result(name=name, dtype=dtype, ours=timings[OURS], theirs=timings[THEIRS], peer=peer, operations=operations)


def _described(result: Result, ceilings: dict[str, float]) -> dict[str, Any]:
    """Return a result as plain data, with its rates."""
    described: dict[str, Any] = {
        "name": result.name,
        "dtype": result.dtype or None,
        "peer": result.peer,
        "ours": _timing(result.ours, result.operations, ceilings.get(result.dtype)),
        "theirs": _timing(result.theirs, result.operations, ceilings.get(result.dtype)),
        "ratio": ratio(result.ours, result.theirs),
    }
    described["unsteady"] = _load.unsteady(result.ours, result.theirs, described["ours"].get("share_of_ceiling"))
    return described | ({"operations": result.operations} if result.operations else {})


def _timing(timing: Timing, operations: int, ceiling: float | None) -> dict[str, Any]:
    """Return a timing as plain data: seconds, and where known operations per second and the share of the ceiling."""
    rate = operations / timing.median
    rates = {"flops": rate, "share_of_ceiling": rate / ceiling} if operations and ceiling else {}
    return {"median_seconds": timing.median, "spread": timing.spread, "seconds": timing.seconds, **rates}


def _versions() -> dict[str, str]:
    """Name the versions that the numbers belong to."""
    import diffusers

    from kineograph import __version__

    return {OURS: __version__, THEIRS: diffusers.__version__, "python": sys.version.split()[0]}


def _text(document: dict[str, Any]) -> str:
    """Return the measurements for people."""
    machine, size, versions = document["machine"], document["size"], document["versions"]
    clip = f"{size.frames} frames of {size.latent}x{size.latent} latents"
    ceilings = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in document["ceiling_flops"].items())
    header = ("what", "type", "kineograph s", "diffusers s", "ratio", "GFLOP/s", "of ceiling", "unsteady")
    lines = [
        f"{machine['device']}, {machine['threads']} threads; torch {machine['torch']}, diffusers {versions[THEIRS]}",
        f"network: {document['parameters'] / 1e6:.1f} M parameters, {clip}",
        f"ceiling (matrix product): {ceilings}",
        f"outputs differ by {document['output_difference']:.1e} (relative, float32)",
        "",
        table([_row(result) for result in document["results"]], header),
        "",
        "Medians of interleaved rounds; ratio: their time over ours (median of rounds), above 1 kineograph is faster.",
        *([verdict] if (verdict := document["load"]["verdict"]) else []),
    ]
    return "\n".join(lines)


def _row(result: dict[str, Any]) -> tuple[str, ...]:
    ours, theirs = result["ours"], result["theirs"]
    rate = f"{ours['flops'] / 1e9:.0f}" if "flops" in ours else ""
    share = f"{ours['share_of_ceiling']:.0%}" if "flops" in ours else ""
    seconds = (f"{ours['median_seconds']:.3f}", f"{theirs['median_seconds']:.3f}")
    doubt = ", ".join(result["unsteady"])
    return (result["name"], result["dtype"] or "", *seconds, f"{result['ratio']:.2f}", rate, share, doubt)
