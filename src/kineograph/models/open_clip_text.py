"""How OpenCLIP cleans a text before it is cut into tokens.

Stable Diffusion 2, ModelScopeT2V, VideoCrafter and the second encoder of Stable Diffusion XL were trained on texts that
went through `basic_clean` and `whitespace_clean` of open_clip's tokenizer (Ilharco et al. 2021, open_clip 3.3.0,
`src/open_clip/tokenizer.py`, after openai/CLIP's): ftfy mends broken characters and straightens quotes, HTML's entities
are read twice, white space becomes single blanks, letters become small. transformers' tokenizer does the last two only.
"""

from __future__ import annotations

import html
import importlib
from typing import Any

from kineograph.errors import MissingExtraError

PADDING = "!"
"""The word that OpenCLIP's tokenizers fill up with, number 0; OpenAI's fill up with their end mark."""


def is_open_clip(tokenizer: Any) -> bool:
    """Say whether a tokenizer of CLIP's is OpenCLIP's, which shows in what it fills up with."""
    return getattr(tokenizer, "pad_token", None) == PADDING


def cleaned(text: str) -> str:
    """Return a text as OpenCLIP cleans it.

    Raises:
        MissingExtraError: ftfy is not installed, and the text has characters that it might mend.
    """
    if not _is_plain(text):
        text = html.unescape(html.unescape(_ftfy(text).fix_text(text)))
    return " ".join(text.split()).lower()


def _is_plain(text: str) -> bool:
    """Say whether a text is of printed ASCII without entities, in which there is nothing to mend."""
    return text.isascii() and text.isprintable() and "&" not in text


def _ftfy(text: str) -> Any:
    try:
        return importlib.import_module("ftfy")
    except ImportError as error:
        raise MissingExtraError(
            f"The text '{text[:40]}' has characters that OpenCLIP's text encoder wants cleaned as in its training, by "
            "the package ftfy, a part of kineograph's installation that is missing here: pip install ftfy"
        ) from error
