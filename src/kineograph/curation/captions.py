"""Captions: three captioners per clip, all kept, with the weights by which training draws one of them.

Stable Video Diffusion captions every clip three times (Blattmann et al. 2023, arXiv:2311.15127, app. C): CoCa on the
middle frame, VideoBLIP on the video, and a language model that merges the two. Training takes them with probability
0.5, 0.25 and 0.25, because CoCa alone was ranked best. The paper does not name the language model.

Every captioner here runs on local weights (open_clip, transformers) or asks an endpoint that speaks the OpenAI
protocol, such as vLLM, llama.cpp or Ollama. Without either there is an offline stand-in that states what statistics
show; its name says that it is one, and the name is stored beside every caption.
"""

from __future__ import annotations

import functools
import importlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from kineograph.curation.colours import brightness_word, colour_shares
from kineograph.curation.endpoint import Endpoint
from kineograph.curation.ids import fingerprint, sha256_of
from kineograph.curation.similarity import folder_hash
from kineograph.errors import InputError, MissingExtraError, WeightsError, unknown

VERSION = 1
SVD_WEIGHTS = (0.5, 0.25, 0.25)
"""Probability of each caption in training: frame, video, summary (SVD, app. C)."""
MAX_TOKENS = 60
FRAME_PROMPT = "Describe this picture in one sentence, for someone who cannot see it. Name only what is visible."
VIDEO_PROMPT = (
    "These are the first, middle and last frame of one video clip. Describe in one sentence what is shown and what "
    "happens. Name only what is visible."
)
SUMMARY_PROMPT = (
    "Two descriptions of the same video clip follow. Write one sentence that says everything both agree on and what "
    "either adds. Answer with that sentence only.\n"
)


class Captioner(Protocol):
    """Something that describes a clip.

    Attributes:
        name: Stored beside each caption.
        fingerprint: Changes with weights, prompt and code version.
    """

    @property
    def name(self) -> str:
        """See the class."""
        ...

    @property
    def fingerprint(self) -> str:
        """See the class."""
        ...

    def caption(self, strip: np.ndarray, row: dict[str, Any], earlier: Sequence[str]) -> str:
        """Describe one clip.

        Args:
            strip: uint8 (3, height, width, 3), RGB: first, middle and last frame.
            row: The clip's row.
            earlier: Captions of the captioners before this one.
        """
        ...


class Captions:
    """Scorer for `captions`: a list of texts, each with captioner and weight.

    Args:
        captioners: In order; each sees the captions before its own.
        weights: Probability of each in training; None is SVD's for three captioners and equal ones otherwise.

    Raises:
        InputError: No captioner, or weights that do not fit.
    """

    name = "captions"
    columns = {"captions": "list<struct<text: string, captioner: string, weight: double>>"}  # noqa: RUF012

    def __init__(self, captioners: Sequence[Captioner], weights: Sequence[float] | None = None) -> None:
        if not captioners:
            raise InputError("Captions need at least one captioner.")
        equal = [1 / len(captioners)] * len(captioners)
        given = weights or (SVD_WEIGHTS if len(captioners) == len(SVD_WEIGHTS) else equal)
        if len(given) != len(captioners) or min(given) < 0 or abs(sum(given) - 1) > 1e-6:
            raise InputError(f"{len(captioners)} captioners need as many weights that sum to 1, not {list(given)}.")
        self.captioners, self.weights = list(captioners), [float(weight) for weight in given]

    @property
    def fingerprint(self) -> str:
        """Of captioners and weights."""
        return fingerprint("captions", VERSION, [[one.name, one.fingerprint] for one in self.captioners] + self.weights)

    def score(self, strip: np.ndarray, row: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
        """Caption one clip; a captioner that says nothing leaves no entry."""
        texts: list[str] = []
        for captioner in self.captioners:
            texts.append(" ".join(captioner.caption(strip, row, texts).split()))
        named = zip(texts, self.captioners, self.weights, strict=True)
        entries = [{"text": text, "captioner": one.name, "weight": weight} for text, one, weight in named if text]
        return {"captions": entries}


def svd_captions(frame: Captioner, video: Captioner, summary: Captioner) -> Captions:
    """Put three captioners in SVD's order, with SVD's weights."""
    return Captions([frame, video, summary], SVD_WEIGHTS)


# Local models ------------------------------------------------------------------------------------------------------


@dataclass
class Coca:
    """CoCa on the middle frame, by open_clip (Yu et al. 2022, arXiv:2205.01917).

    Attributes:
        weights: Checkpoint file, such as `mscoco_finetuned_CoCa-ViT-L-14-laion2B-s13B-b90k` in open_clip's layout.
        architecture: Name in open_clip's registry.
        device: Where to compute.
    """

    weights: Path
    architecture: str = "coca_ViT-L-14"
    device: str = "cpu"

    @property
    def name(self) -> str:
        """Architecture."""
        return self.architecture

    @property
    def fingerprint(self) -> str:
        """Of architecture and weights."""
        return fingerprint("coca", VERSION, [self.architecture, sha256_of(self.weights)])

    @functools.cached_property
    def _parts(self) -> tuple[Any, Any]:
        open_clip = _open_clip()
        if not Path(self.weights).is_file():
            raise WeightsError(f"There are no CoCa weights at '{self.weights}'.")
        try:
            model, _, transform = open_clip.create_model_and_transforms(
                self.architecture, pretrained=str(self.weights), device=self.device
            )
        except RuntimeError as error:
            raise WeightsError(f"'{self.weights}' does not fit {self.architecture}: {str(error)[:300]}") from error
        return model.eval(), transform

    def caption(self, strip: np.ndarray, row: dict[str, Any], earlier: Sequence[str]) -> str:
        """Describe the middle frame; see `Captioner`."""
        import torch
        from PIL import Image

        open_clip = _open_clip()
        model, transform = self._parts
        picture = transform(Image.fromarray(strip[len(strip) // 2])).unsqueeze(0).to(self.device)
        with torch.inference_mode():
            tokens = greedy_coca(model, picture)
        return open_clip.decode(torch.tensor(tokens)).strip()


def _open_clip() -> Any:
    """Import open_clip. It is in no extra of this package, because it brings torchvision along.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return importlib.import_module("open_clip")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "CoCa needs the package 'open_clip', which is not installed. Install it with: pip install open-clip-torch"
        ) from error


COCA_START, COCA_END = 49406, 49407
"""CLIP's tokens for the start and the end of a text."""
COCA_LONGEST, COCA_SHORTEST = 30, 5
"""Tokens of a caption with start and end, as open_clip generates them."""


def greedy_coca(model: Any, picture: Any) -> list[int]:
    """Continue from the start token with the most probable token until the end.

    open_clip's own `generate` needs a part that transformers 5 no longer has; this gives what its
    `generate(generation_type="top_k", top_k=1)` gives.

    Args:
        model: open_clip's CoCa.
        picture: Prepared, shape (1, 3, height, width).

    Returns:
        The tokens between start and end.
    """
    import torch

    latent, embeddings = model._encode_image(picture)
    tokens = [COCA_START]
    while len(tokens) < COCA_LONGEST - 1:
        text = torch.tensor([tokens], device=picture.device)
        found = model(picture, text, image_latent=latent, image_embs=embeddings, output_labels=False)
        logits = found["logits"][0, -1]
        if len(tokens) < COCA_SHORTEST:
            logits[COCA_END] = -torch.inf
        token = int(logits.argmax())
        if token in (COCA_END, model.pad_id):
            break
        tokens.append(token)
    return tokens[1:]


@dataclass
class _InFolder:
    """A captioner whose model lies in a folder in transformers' layout; its words are decoded greedily."""

    folder: Path
    device: str = "cpu"
    kind: ClassVar[str] = ""

    @property
    def name(self) -> str:
        """Name of the folder."""
        return Path(self.folder).name

    @property
    def fingerprint(self) -> str:
        """Of the folder's files."""
        return fingerprint(self.kind, VERSION, [MAX_TOKENS, folder_hash(Path(self.folder))])

    def _words(self, model: Any, tokenizer: Any, pixels: Any) -> str:
        """Return what a model says of its pixels."""
        import torch

        with torch.inference_mode():
            tokens = model.generate(pixel_values=pixels, max_new_tokens=MAX_TOKENS, do_sample=False, num_beams=1)
        return tokenizer.decode(tokens[0], skip_special_tokens=True).strip()


@dataclass
class ImageCaptioner(_InFolder):
    """Any image-to-text model of transformers (BLIP, GIT, ...) on the middle frame, decoded greedily.

    Attributes:
        folder: The model in transformers' layout, with tokenizer and image processor.
        device: Where to compute.
    """

    kind: ClassVar[str] = "image captioner"

    @functools.cached_property
    def _parts(self) -> tuple[Any, Any, Any]:
        from transformers import AutoModelForImageTextToText

        return load_captioner(Path(self.folder), AutoModelForImageTextToText, self.device)

    def caption(self, strip: np.ndarray, row: dict[str, Any], earlier: Sequence[str]) -> str:
        """Describe the middle frame; see `Captioner`."""
        model, tokenizer, processor = self._parts
        pixels = processor(strip[len(strip) // 2], return_tensors="pt")["pixel_values"].to(self.device)
        return self._words(model, tokenizer, pixels)


@dataclass
class VideoBlip(_InFolder):
    """VideoBLIP: BLIP-2 whose Q-Former attends to the patches of all frames (Yu, github.com/yukw777/VideoBLIP).

    The weights are those of a BLIP-2 (such as `kpyu/video-blip-opt-2.7b-ego4d`), in transformers' layout.

    Attributes:
        folder: The model's folder, with tokenizer and image processor.
        device: Where to compute.
    """

    kind: ClassVar[str] = "video blip"

    @functools.cached_property
    def _parts(self) -> tuple[Any, Any, Any]:
        from transformers import Blip2ForConditionalGeneration

        model, tokenizer, processor = load_captioner(Path(self.folder), Blip2ForConditionalGeneration, self.device)
        model.vision_model.register_forward_pre_hook(_fold_frames, with_kwargs=True)
        model.vision_model.register_forward_hook(_join_patches)
        return model, tokenizer, processor

    def caption(self, strip: np.ndarray, row: dict[str, Any], earlier: Sequence[str]) -> str:
        """Describe all frames together; see `Captioner`."""
        model, tokenizer, processor = self._parts
        pixels = processor(list(strip), return_tensors="pt")["pixel_values"].to(self.device)
        return self._words(model, tokenizer, pixels[None])


def _fold_frames(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Fold (batch, frames, channels, height, width) into the batch, and remember the number of frames."""
    pixels = args[0] if args else kwargs["pixel_values"]
    module.num_frames = pixels.shape[1]
    folded = pixels.flatten(0, 1)
    return ((folded, *args[1:]), kwargs) if args else (args, {**kwargs, "pixel_values": folded})


def _join_patches(module: Any, args: tuple[Any, ...], output: Any) -> Any:
    """Line up the patches of a clip's frames: (batch x frames, patches, width) to (batch, frames x patches, width)."""
    states = output.last_hidden_state
    output.last_hidden_state = states.unflatten(0, (-1, module.num_frames)).flatten(1, 2)
    return output


@dataclass
class LocalSummary:
    """Any language model of transformers, which merges the earlier captions; greedy.

    Attributes:
        folder: The model in transformers' layout, with its tokenizer.
        device: Where to compute.
    """

    folder: Path
    device: str = "cpu"

    @property
    def name(self) -> str:
        """Name of the folder."""
        return f"summary by {Path(self.folder).name}"

    @property
    def fingerprint(self) -> str:
        """Of prompt and the folder's files."""
        return fingerprint("local summary", VERSION, [SUMMARY_PROMPT, MAX_TOKENS, folder_hash(Path(self.folder))])

    @functools.cached_property
    def _parts(self) -> tuple[Any, Any]:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = Path(self.folder)
        return _loaded(folder, AutoModelForCausalLM, self.device), _loaded(folder, AutoTokenizer)

    def caption(self, strip: np.ndarray, row: dict[str, Any], earlier: Sequence[str]) -> str:
        """Merge the earlier captions; of one caption nothing can be merged, so it is empty."""
        if len(_distinct(earlier)) < 2:
            return ""
        import torch

        model, tokenizer = self._parts
        prompt = summary_prompt(earlier)
        if tokenizer.chat_template:
            messages = [{"role": "user", "content": prompt}]
            prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        tokens = tokenizer(prompt, return_tensors="pt")["input_ids"].to(self.device)
        with torch.inference_mode():
            found = model.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=MAX_TOKENS,
                do_sample=False,
                pad_token_id=tokenizer.eos_token_id,
            )
        return tokenizer.decode(found[0, tokens.shape[1] :], skip_special_tokens=True).strip()


def summary_prompt(captions: Sequence[str]) -> str:
    """Ask for one sentence out of several."""
    return SUMMARY_PROMPT + "".join(f"- {text}\n" for text in _distinct(captions))


def _distinct(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(text for text in texts if text))


def load_captioner(folder: Path, kind: Any, device: str) -> tuple[Any, Any, Any]:
    """Load model, tokenizer and image processor of a folder, never from the network.

    Raises:
        WeightsError: One of them is missing, or the model is of another kind.
    """
    from transformers import AutoImageProcessor, AutoTokenizer

    processor = _loaded(folder, functools.partial(AutoImageProcessor.from_pretrained, backend="pil"))
    return _loaded(folder, kind, device), _loaded(folder, AutoTokenizer), processor


def _loaded(folder: Path, kind: Any, device: str | None = None) -> Any:
    """Load one part of a model folder; models are put on a device and frozen."""
    load = kind.from_pretrained if hasattr(kind, "from_pretrained") else kind
    try:
        part = load(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(f"'{folder}' cannot be loaded for captions: {error}") from error
    return part if device is None else part.eval().requires_grad_(False).to(device)


# Endpoints ---------------------------------------------------------------------------------------------------------


@dataclass
class EndpointCaptioner:
    """A vision-language model behind an endpoint that speaks the OpenAI protocol.

    Attributes:
        endpoint: Where to ask.
        video: Show all three frames, and ask for what happens; otherwise the middle frame.
        prompt: The question; empty is `FRAME_PROMPT` or `VIDEO_PROMPT`.
    """

    endpoint: Endpoint
    video: bool = False
    prompt: str = ""

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.endpoint.model

    @property
    def fingerprint(self) -> str:
        """Of model and question; the address does not matter."""
        return fingerprint("endpoint captioner", VERSION, [self.endpoint.model, self.video, self._question])

    @property
    def _question(self) -> str:
        return self.prompt or (VIDEO_PROMPT if self.video else FRAME_PROMPT)

    def caption(self, strip: np.ndarray, row: dict[str, Any], earlier: Sequence[str]) -> str:
        """Ask about the frames; see `Captioner`."""
        shown = strip if self.video else strip[len(strip) // 2 : len(strip) // 2 + 1]
        return self.endpoint.ask(self._question, [jpeg(frame) for frame in shown], MAX_TOKENS)


@dataclass
class EndpointSummary:
    """A language model behind an endpoint, which merges the earlier captions.

    Attributes:
        endpoint: Where to ask.
    """

    endpoint: Endpoint

    @property
    def name(self) -> str:
        """Name of the model."""
        return f"summary by {self.endpoint.model}"

    @property
    def fingerprint(self) -> str:
        """Of model and question."""
        return fingerprint("endpoint summary", VERSION, [self.endpoint.model, SUMMARY_PROMPT])

    def caption(self, strip: np.ndarray, row: dict[str, Any], earlier: Sequence[str]) -> str:
        """Merge the earlier captions; of one caption nothing can be merged, so it is empty."""
        if len(_distinct(earlier)) < 2:
            return ""
        return self.endpoint.ask(summary_prompt(earlier), [], MAX_TOKENS)


def jpeg(frame: np.ndarray) -> bytes:
    """Encode uint8 (height, width, 3) as JPEG."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(frame).save(out, "JPEG", quality=90)
    return out.getvalue()


# From what lies there ------------------------------------------------------------------------------------------------


@dataclass
class FileName:
    """The caption that came with the film, else its file name as words: `a_red-car.02.mp4` is "a red car"."""

    @property
    def name(self) -> str:
        """Says where it comes from."""
        return "file-name"

    @property
    def fingerprint(self) -> str:
        """Of code."""
        return fingerprint("file name", VERSION, [])

    def caption(self, strip: np.ndarray, row: dict[str, Any], earlier: Sequence[str]) -> str:
        """Read the name; see `Captioner`."""
        return row["caption"] or words_of_name(row["source_path"])


def words_of_name(path: str) -> str:
    """Return the words of a file's name, without its ending, numbers and separators."""
    stem = path.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return " ".join(word for word in re.split(r"[\W_]+", stem) if not word.isdigit())


# Offline -----------------------------------------------------------------------------------------------------------


@dataclass
class Standin:
    """Offline stand-in for a captioner: says what statistics show. It recognises nothing.

    Attributes:
        part: `"frame"` for colours and light of the middle frame, `"video"` for movement, `"summary"` for both.
    """

    part: str = "frame"

    @property
    def name(self) -> str:
        """Says that it is a stand-in."""
        return f"standin-{self.part}"

    @property
    def fingerprint(self) -> str:
        """Of code."""
        return fingerprint("standin", VERSION, [self.part])

    def caption(self, strip: np.ndarray, row: dict[str, Any], earlier: Sequence[str]) -> str:
        """State what statistics show; see `Captioner`."""
        frame = strip[len(strip) // 2]
        if self.part == "frame":
            return f"{_article(brightness_word(frame))} picture, {colours_in_words(frame)}"
        if self.part == "video":
            return f"a video {movement_in_words(strip, row)}"
        picture = f"{_article(brightness_word(frame))} video, {colours_in_words(frame)}"
        return f"{picture}, {movement_in_words(strip, row)}"


def colours_in_words(frame: np.ndarray) -> str:
    """Name the one or two colours that cover most of a picture."""
    (first, share), (second, rest), *_ = sorted(colour_shares(frame).items(), key=lambda one: -one[1])
    if rest < 0.15:
        return f"almost all {first}" if share > 0.85 else f"mostly {first}"
    return f"{first} and {second}"


def movement_in_words(strip: np.ndarray, row: dict[str, Any]) -> str:
    """Say how much moves: by the clip's motion score where there is one, else by how its frames differ."""
    motion = row.get("motion_mean")
    if isinstance(motion, float) and motion == motion:
        return "with little movement" if motion < 0.004 else "with movement" if motion < 0.02 else "with fast movement"
    apart = np.abs(strip[0].astype(np.int16) - strip[-1].astype(np.int16)).mean()
    return "whose picture stays" if apart < 6 else "whose picture changes"


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def standin_captions() -> Captions:
    """Three stand-ins in the places of SVD's three captioners."""
    return svd_captions(Standin("frame"), Standin("video"), Standin("summary"))


# Command line ------------------------------------------------------------------------------------------------------

SPECS = {
    "file-name": "the text that came with the film, else its file name as words",
    "standin": "offline, says what statistics show",
    "coca": "coca:FILE, open_clip's CoCa on the middle frame",
    "image": "image:FOLDER, an image-to-text model of transformers on the middle frame",
    "video-blip": "video-blip:FOLDER, BLIP-2 on all three frames",
    "summary": "summary:FOLDER or summary:URL#MODEL, a language model that merges the captions before it",
    "endpoint": "endpoint:URL#MODEL, asked about the middle frame",
    "endpoint-video": "endpoint-video:URL#MODEL, asked about all three frames",
}
"""Words of the command line."""


def from_specs(specs: Sequence[str], weights: Sequence[float] | None = None, api_key_env: str = "") -> Captions:
    """Build the scorer from words of the command line, see `SPECS`; `standin` alone gives all three stand-ins.

    Args:
        specs: In order.
        weights: See `Captions`.
        api_key_env: Environment variable that holds the endpoints' key; empty sends none.

    Raises:
        InputError: A word is unknown or incomplete.
    """
    if list(specs) == ["standin"]:
        return standin_captions()
    return Captions([_captioner(spec, api_key_env) for spec in specs], weights)


def _captioner(spec: str, api_key_env: str) -> Captioner:
    kind, _, rest = spec.partition(":")
    if kind not in SPECS:
        raise unknown("captioner", kind, SPECS)
    if kind == "standin":
        return Standin(rest or "frame")
    if kind == "file-name" and not rest:
        return FileName()
    if not rest:
        raise InputError(f"'{spec}' is incomplete: {SPECS[kind]}.")
    local = {"coca": Coca, "image": ImageCaptioner, "video-blip": VideoBlip, "summary": LocalSummary}
    if kind in local and not rest.startswith(("http://", "https://")):
        return local[kind](Path(rest))
    url, mark, model = rest.rpartition("#")
    if not mark or not model:
        raise InputError(f"'{spec}' names no model: {SPECS[kind]}.")
    endpoint = Endpoint(url, model, api_key_env=api_key_env)
    return EndpointSummary(endpoint) if kind == "summary" else EndpointCaptioner(endpoint, kind == "endpoint-video")
