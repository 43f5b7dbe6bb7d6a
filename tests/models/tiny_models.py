"""Tiny random models of the real classes with their real processors, saved to a folder and loaded like any other.

`save("llava", folder)` writes one; `load("llava", folder)` gives it back as a `VLM`. Everything is made on the spot
from seeds: no file is shipped and no network is used. Qwen2-VL's own processor needs torchvision, so
`HandMadeProcessor` stands in for it with the real Pillow image processor; where torchvision is present, `qwen2_vl_own`
has the real one.
"""
import importlib.util
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (CLIPVisionConfig, GemmaConfig, GenerationConfig, Idefics3Config,
                          Idefics3ForConditionalGeneration,
                          Idefics3Processor, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaNextConfig,
                          LlavaNextForConditionalGeneration, LlavaNextProcessor, LlavaProcessor, PaliGemmaConfig,
                          PaliGemmaForConditionalGeneration, PaliGemmaProcessor, PreTrainedTokenizerFast,
                          Qwen2VLConfig, Qwen2VLForConditionalGeneration, SiglipVisionConfig)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

ARCHITECTURES = ["llava", "llava_next", "idefics3", "paligemma", "qwen2_vl"]
WITH_TORCHVISION = ["qwen2_vl_own"] if importlib.util.find_spec("torchvision") else []
IMAGE = "<image>"
SENTENCES = ["a red fork is on the left of the plate .", "There is a green cup beside two spoons .",
             "Is there a knife ? no", "Describe this image in detail.", "the dog and the bench are under a tree .",
             "What colour is the laptop ? blue", "no . There is a fork . no , the fork is grey ."]
SMALL = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
TOWER = dict(hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32,
             patch_size=8)

# Three ways to write a conversation down, shaped like those of LLaVA-1.5, SmolVLM and Qwen2-VL.
LLAVA_TEMPLATE = ("{% for m in messages %}{% if m['role'] == 'user' %}USER: {% for c in m['content'] %}{% if "
                  "c['type'] == 'image' %}<image>\n"
                  "{% else %}{{ c['text'] }}{% endif %}{% endfor %} {% else %}ASSISTANT: {% for c in m['content'] "
                  "%}{{ c['text'] }}"
                  "{% endfor %}</s>{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}")
IDEFICS_TEMPLATE = ("<s>{% for m in messages %}{{ m['role'] | capitalize }}{% if m['content'][0]['type'] == 'image' "
                    "%}:{% else %}: {% endif %}"
                    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% "
                    "endif %}{% endfor %}"
                    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}")
QWEN_TEMPLATE = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == "
                 "'image' %}"
                 "<|vision_start|><image><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}</s>\n{% "
                 "endfor %}"
                 "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def tokenizer(kind="unigram", extra=(), size=380):
    """A tokenizer trained on six sentences: `unigram` (LLaVA, PaliGemma) or `bytes` (SmolVLM, Qwen); both write any
    text."""
    special = ["<unk>", "<s>", "</s>", "<pad>", IMAGE, *extra]
    if kind == "unigram":
        tok = Tokenizer(models.Unigram())
        tok.pre_tokenizer, tok.decoder = pre_tokenizers.Metaspace(), decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
        trainer = trainers.UnigramTrainer(vocab_size=120, unk_token="<unk>", special_tokens=special,
                                          show_progress=False)
        tok.train_from_iterator(SENTENCES, trainer)
        pieces = tok.get_vocab()
        # three words stay several pieces
        words = sorted(set(" ".join(SENTENCES).split()) - {"knife", "spoons", "bench"})
        vocab = [(p, 0.0) for p in special] + [(f"<0x{b:02X}>", -20.0) for b in range(256)] + \
                [(mark + w, -3.0) for w in words for mark in ("▁", "")] + \
                [(p, -8.0) for p in sorted(pieces) if p not in special and p.removeprefix("▁") not in words]
        tok.model = models.Unigram(vocab, unk_id=0, byte_fallback=True)
    else:
        tok = Tokenizer(models.BPE())
        tok.pre_tokenizer, tok.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        tok.train_from_iterator(SENTENCES,
                                trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False,
                                                              initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=tok, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
                                   pad_token="<pad>", additional_special_tokens=[IMAGE, *extra])


class HandMadeProcessor:
    "Qwen2-VL's processor by hand: one `<image>` becomes a token per merged patch, and the batch says where they are."
    def __init__(self, tokenizer):
        self.tokenizer, self.chat_template, self.image_token = tokenizer, QWEN_TEMPLATE, IMAGE
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE)
        self.image_processor = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, temporal_patch_size=2,
                                                        size={"shortest_edge": 32 * 32, "longest_edge": 32 * 32})

    def apply_chat_template(self, messages, **kwargs):
        return self.tokenizer.apply_chat_template(messages, chat_template=self.chat_template, **kwargs)

    def __call__(self, images, text, **kwargs):
        seen = self.image_processor(images=images, return_tensors="pt")
        counts = (seen["image_grid_thw"].prod(-1) // self.image_processor.merge_size**2).tolist()
        text = [t.replace(IMAGE, IMAGE * n) for t, n in zip(text, counts)]
        batch = dict(self.tokenizer(text, **{k: v for k, v in kwargs.items() if k != "images_kwargs"}), **seen)
        batch["mm_token_type_ids"] = (batch["input_ids"] == self.image_token_id).long()
        return batch


def llava(next_version=False):
    "LLaVA, or LLaVA-NeXT whose processor cuts one image into several tiles."
    tok = tokenizer()
    vision = CLIPVisionConfig(**TOWER)
    text = LlamaConfig(vocab_size=len(tok), pad_token_id=3, max_position_embeddings=512, **SMALL)
    common = dict(vision_config=vision, text_config=text, image_token_id=4, pad_token_id=3, vision_feature_layer=-2,
                  vision_feature_select_strategy="default")
    made = dict(tokenizer=tok, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
                chat_template=LLAVA_TEMPLATE)
    if not next_version:
        images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
        return (LlavaForConditionalGeneration(LlavaConfig(**common, image_seq_length=16)),
                LlavaProcessor(images, **made))
    grid = [[32, 64], [64, 32], [64, 64]]
    images = LlavaNextImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32},
                                        image_grid_pinpoints=grid)
    return (LlavaNextForConditionalGeneration(LlavaNextConfig(**common, image_grid_pinpoints=grid)),
            LlavaNextProcessor(images, **made))


def idefics3():
    "The class of SmolVLM-256M/500M-Instruct."
    tok = tokenizer("bytes", ["<fake_token_around_image>", "<end_of_utterance>", "<global-img>"])
    text = LlamaConfig(vocab_size=len(tok), pad_token_id=3, max_position_embeddings=512, **SMALL)
    config = Idefics3Config(vision_config=dict(**TOWER), text_config=text.to_dict(), image_token_id=4, scale_factor=2,
                            pad_token_id=3, tie_word_embeddings=False)
    images = Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    return (Idefics3ForConditionalGeneration(config),
            Idefics3Processor(images, tok, image_seq_len=4, chat_template=IDEFICS_TEMPLATE))


def paligemma():
    "PaliGemma: no chat template, and a prompt that reads itself in both directions."
    tok = tokenizer()
    images = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    images.image_seq_length = 16
    processor = PaliGemmaProcessor(images, tok)  # adds its location tokens to the tokenizer
    text = GemmaConfig(vocab_size=len(tok), head_dim=8, pad_token_id=3, max_position_embeddings=512,
                       tie_word_embeddings=False, **SMALL)
    config = PaliGemmaConfig(vision_config=SiglipVisionConfig(**TOWER, vision_use_head=False), text_config=text,
                             image_token_id=tok.convert_tokens_to_ids(IMAGE), projection_dim=32, pad_token_id=3,
                             tie_word_embeddings=False)
    return PaliGemmaForConditionalGeneration(config), processor


def qwen2_vl(own=False):
    "Qwen2-VL, with the hand-made processor or its own"
    image = "<|image_pad|>" if own else IMAGE
    tok = tokenizer("bytes",
                    ["<|im_start|>", "<|vision_start|>", "<|vision_end|>"] + ["<|image_pad|>", "<|video_pad|>"] * own)
    text = dict(vocab_size=len(tok), max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=3,
                tie_word_embeddings=False,
                **SMALL, rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]})
    vision = dict(depth=2, embed_dim=24, num_heads=2, mlp_ratio=2, hidden_size=32, patch_size=4, spatial_merge_size=2,
                  temporal_patch_size=2)
    ids = {f"{name}_token_id": tok.convert_tokens_to_ids(t) for name, t in
           [("image", image), ("vision_start", "<|vision_start|>"), ("vision_end", "<|vision_end|>")]}
    model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **ids))
    return model, own_qwen2_vl_processor(tok) if own else HandMadeProcessor(tok)


def own_qwen2_vl_processor(tok):
    from transformers import Qwen2VLProcessor
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
    images, films = (kind(patch_size=4, merge_size=2, temporal_patch_size=2,
                          size={"shortest_edge": 32 * 32, "longest_edge": 32 * 32})
                     for kind in (Qwen2VLImageProcessor, Qwen2VLVideoProcessor))
    return Qwen2VLProcessor(images, tok, films, chat_template=QWEN_TEMPLATE.replace(IMAGE, "<|image_pad|>"))


BUILDERS = {"llava": llava, "llava_next": lambda: llava(True), "idefics3": idefics3, "paligemma": paligemma,
            "qwen2_vl": qwen2_vl, "qwen2_vl_own": lambda: qwen2_vl(own=True)}


def build(name, seed=0):
    "(model, processor) of one architecture, random weights from `seed`, in evaluation mode and in float32."
    torch.manual_seed(seed)
    model, processor = BUILDERS[name]()
    for p in model.parameters():  # wider than the usual 0.02, so that predictions differ and a wrong shift cannot hide
        if p.dim() > 1: torch.nn.init.normal_(p, std=0.15)
    stop = processor.tokenizer.convert_tokens_to_ids("<end_of_utterance>" if name == "idefics3" else "</s>")
    # real checkpoints carry settings like these; a greedy verb must neither follow nor mention them
    model.generation_config = GenerationConfig(eos_token_id=[stop], pad_token_id=3, bos_token_id=1, temperature=0.2,
                                               top_p=0.9, do_sample=True, max_length=400)
    return model.float().eval(), processor


def save(name, folder, seed=0):
    "Write a tiny model (and its processor) to `folder`, as `from_pretrained` expects it; returns the folder."
    model, processor = build(name, seed)
    model.save_pretrained(folder)
    (processor.tokenizer if name == "qwen2_vl" else processor).save_pretrained(folder)
    return Path(folder)


def load(name, folder=None, seed=0, **kwargs):
    "A tiny `VLM`: from a saved folder (made if it is not there), or straight from memory."
    from povid_nb.vlm import VLM
    if folder is None or name == "qwen2_vl": return VLM(*build(name, seed), name=f"tiny {name}")
    if not (Path(folder)/"config.json").exists(): save(name, folder, seed)
    return VLM.load(folder, **kwargs)
