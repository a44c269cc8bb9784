"""VideoMAE: the network of content-debiased FVD.

Tong et al. 2022, arXiv:2203.12602; Wang et al. 2023 (V2), arXiv:2303.16727; Ge et al. 2024 (CD-FVD), arXiv:2404.12391.
CD-FVD takes V2's ViT-g fine-tuned on Something-Something v2 (`vit_g_hybrid_pt_1200e_ssv2_ft.pth`, non-commercial), the
fc-normalised mean of the tokens (1408), and pixels divided by 255 without mean and deviation.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from kineograph.errors import WeightsError
from kineograph.metrics.features import resize
from kineograph.metrics.features.extractor import Card, Extractor
from kineograph.metrics.features.weights import file_hash, fill, load_tensors, locate

SOURCE = "Wang et al. 2023, arXiv:2303.16727; weights non-commercial"
FRAMES = 16
RENAMED = (
    (r"^patch_embed\.proj\.", "videomae.embeddings.patch_embeddings.projection."),
    (r"^blocks\.", "videomae.encoder.layer."),
    (r"\.attn\.q_bias$", ".attention.attention.query.bias"),
    (r"\.attn\.v_bias$", ".attention.attention.value.bias"),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"^head\.", "classifier."),
)


def load_videomae(source: str | Path, heads: int | None = None) -> Extractor:
    """Load a fine-tuned VideoMAE with mean pooling.

    Args:
        source: A transformers folder (VideoMAEForVideoClassification), or a file in the original layout.
        heads: Attention heads of a file in the original layout; None is 16 for ViT-L and ViT-g, width / 64 else.

    Returns:
        A clip extractor for exactly 16 frames with the layer `fc_norm`.

    Raises:
        WeightsError: Missing, broken or other weights.
    """
    path = locate(source)
    model = _from_folder(path) if path.is_dir() else _from_file(path, heads)
    size = model.config.image_size
    text = f"bytes, half-pixel bilinear to {size}x{size}, aspect not kept, / 255, no mean or deviation (CD-FVD)"
    card = Card(f"videomae-{model.config.hidden_size}", file_hash(path), text, "clip", False, SOURCE)
    network = lambda x: {"fc_norm": model.fc_norm(model.videomae(x).last_hidden_state.mean(1))}
    return Extractor(card, lambda x: _prepare(x, size), network, ("fc_norm",), model.config.num_frames, batch=1)


def _prepare(clips: Tensor, size: int) -> Tensor:
    frames = resize.bilinear(resize.to_bytes(rearrange(clips, "b f c h w -> (b f) c h w")), size, size)
    return rearrange(frames / 255, "(b f) c h w -> b f c h w", b=len(clips))


def _from_folder(path: Path) -> Any:
    from transformers import VideoMAEForVideoClassification

    model = VideoMAEForVideoClassification.from_pretrained(str(path), local_files_only=True)
    if model.fc_norm is None:
        raise WeightsError(f"{path} was not fine-tuned with mean pooling, so it has no fc_norm feature.")
    return model.eval().requires_grad_(False)


def _from_file(path: Path, heads: int | None) -> Any:
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    state = load_tensors(path)
    if "patch_embed.proj.weight" not in state or "fc_norm.weight" not in state:
        raise WeightsError(f"{path} is no fine-tuned VideoMAE in the original layout ('patch_embed.proj', 'fc_norm').")
    width, _, tubelet, patch, _ = state["patch_embed.proj.weight"].shape
    config = VideoMAEConfig(
        hidden_size=width,
        num_hidden_layers=1 + max(int(m[1]) for k in state if (m := re.match(r"blocks\.(\d+)\.", k))),
        num_attention_heads=heads or (16 if width >= 1024 else max(1, width // 64)),
        intermediate_size=state["blocks.0.mlp.fc1.weight"].shape[0],
        patch_size=patch,
        tubelet_size=tubelet,
        image_size=224,
        num_frames=FRAMES,
        layer_norm_eps=1e-6,
    )
    config.num_labels = len(state["head.weight"])
    model = VideoMAEForVideoClassification(config)
    assert model.fc_norm is not None
    model.fc_norm.eps = 1e-6
    return fill(model, to_transformers(state), path)


def to_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Map the original names to transformers': split the joint query, key, value; the key has no bias."""
    result = {}
    for key, value in state.items():
        name = key
        for pattern, new in RENAMED:
            name = re.sub(pattern, new, name)
        if name.endswith(".attn.qkv.weight"):
            stem = name.removesuffix(".attn.qkv.weight")
            for part, chunk in zip(("query", "key", "value"), value.chunk(3), strict=True):
                result[f"{stem}.attention.attention.{part}.weight"] = chunk.clone()
        elif key != "pos_embed":
            result[name] = value
    return {k: v.to(torch.float32) for k, v in result.items()}
