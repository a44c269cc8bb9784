"""Put a trained model into the package: `python docs/emoji/bundle.py runs/video/model [runs/image/model]`.

The second folder, if any, is an image model that was trained further: its network, autoencoder and draft take the place
of the first one's under the same temporal layers. Weights are stored in bfloat16, with checksums beside them; the card
(`README.md`) is written by hand.
"""

import hashlib
import sys
from dataclasses import replace

from kineograph.models.latent_video import LatentVideoModel, load_latent_video
from kineograph.sampling.generate import BUNDLED

LICENCE = "weights Apache-2.0; text encoder all-MiniLM-L6-v2 Apache-2.0; trained on Fluent Emoji (MIT)"


def main(video: str, image: str | None = None) -> None:
    """Write `bundled/emoji`."""
    folder = BUNDLED / "emoji"
    model = load_latent_video(video)
    if image is not None:
        take_image_network(model, load_latent_video(image))
    model.settings = replace(
        model.settings,
        name="emoji",
        licence=LICENCE,
        sampler="sde-dpm++",
        num_inference_steps=16,
        guidance_scale=6.0,
        guidance_interval=(0.1, 1.0),
        draft_until=0.05,
    )
    model.save_pretrained(folder)
    files = sorted(path for path in folder.rglob("*.safetensors"))
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}" for path in files
    ]
    (folder / "SHA256SUMS").write_text("\n".join(lines) + "\n")


def take_image_network(model: LatentVideoModel, image: LatentVideoModel) -> None:
    """Replace all but the temporal layers."""
    weights = image.network.unet.state_dict()
    left = model.network.unet.load_state_dict(weights, strict=False)
    assert not left.unexpected_keys, left.unexpected_keys
    model.autoencoder, model.draft = image.autoencoder, image.draft


if __name__ == "__main__":
    main(*sys.argv[1:])
