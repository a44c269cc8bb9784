"""A complete tiny model: network with time, autoencoder, BERT-type text encoder with a word-level tokenizer."""

import torch


def tiny_text(max_tokens: int = 8):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from kineograph.models.text import TextEncoder

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "blue", "dog", "cat", "man", "juggling", "apple"]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    return TextEncoder(BertModel(config), tokenizer, max_tokens)


def tiny_model(system: str | None = "modelscope", seed: int = 3):
    from kineograph.models.autoencoder import build_autoencoder
    from kineograph.models.image_unet import build_image_unet
    from kineograph.models.latent_video import LatentVideoModel, Settings
    from kineograph.models.video_unet import VideoUNet
    from kineograph.systems.modelscope import PRESETS, build
    from kineograph.training.recipes import overridden

    torch.manual_seed(seed)
    text = tiny_text()
    unet = build_image_unet(latent_channels=4, size=8, text_dim=32, channels=(32, 32), head_dim=16)
    config = overridden(PRESETS["tiny"], ("single_frame=skip",))
    network = build(config, image_unet=unet) if system else VideoUNet(unet)
    autoencoder = build_autoencoder(patch=2, channels=(32, 32), latent_channels=4)
    for part in (network, autoencoder):
        for parameter in part.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
    settings = Settings(name="tiny", system=system or "image", height=16, width=16, num_frames=4, num_inference_steps=3)
    return LatentVideoModel(network.eval(), autoencoder.eval(), text, settings)


def smooth_image_model():
    """Return a tiny image model whose embedding of the timestep is smooth, as a trained network's is."""
    from kineograph.models.latent_video import LatentVideoModel

    model = tiny_model(None)
    model = LatentVideoModel(model.network, model.autoencoder, tiny_text(64), model.settings)
    first = model.network.unet.time_embedding.linear_1
    fast = torch.arange(first.in_features) % (first.in_features // 2) < first.in_features // 4
    with torch.no_grad():
        first.weight[:, fast] = 0
    return model
