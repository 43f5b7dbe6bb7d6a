"""Tiny random models of the classes that people start from in 2026, each with its real processor.

A processor that also reads films needs torchvision for that half alone. Where torchvision is missing an empty object
of the right class stands for the film half, and pictures go through the real Pillow half. LFM2-VL has no Pillow half:
its tests are skipped then.
"""
import importlib.util
from types import SimpleNamespace

from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm import processing_smolvlm
from transformers.processing_utils import ProcessorMixin
import transformers

import tiny_models as tiny

HAS_TORCHVISION = importlib.util.find_spec("torchvision") is not None
QWEN = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
QWEN_TEMPLATE = tiny.QWEN_TEMPLATE.replace(tiny.IMAGE, "<|image_pad|>")
GEMMA_TEMPLATE = ("<s>{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] "
                  "}}\n{% for c in m['content'] %}"
                  "{% if c['type'] == 'image' %}MARK{% else %}{{ c['text'] }}{% endif %}{% endfor %}</s>\n{% endfor %}"
                  "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}")
SIGLIP = dict(tiny.TOWER, vision_use_head=False)


def films(name):
    "The film half of a processor; nothing where torchvision is missing, since no picture meets it"
    if HAS_TORCHVISION: return getattr(transformers, name)()
    check = ProcessorMixin.check_argument_for_proper_class
    ProcessorMixin.check_argument_for_proper_class = lambda self, kind, value: (None if kind == "video_processor"
        else check(self, kind, value))
    return SimpleNamespace(num_frames=1, fps=1)


def tokenizer(extra, size=420, **marks):
    "A tokenizer of bytes that knows some special tokens, by role"
    tok = tiny.tokenizer("bytes", extra, size)
    for role, mark in marks.items():
        setattr(tok, role, mark)
        setattr(tok, f"{role}_id", tok.convert_tokens_to_ids(mark))
    return tok


def built(kind, text, vision, processor, **options):
    "The model of a configuration, and its processor"
    config = AutoConfig.for_model(kind, text_config=text, vision_config=vision, **options)
    return AutoModelForImageTextToText.from_config(config), processor


def decoder(kind, tok, **options):
    "The configuration of a tiny language model"
    common = dict(model_type=kind, vocab_size=len(tok), bos_token_id=1, eos_token_id=2, pad_token_id=3,
                  max_position_embeddings=512)
    return common | tiny.SMALL | options


def llava_onevision():
    tok = tokenizer(["<video>"])
    grid = [[32, 64], [64, 32], [64, 64]]
    images = LlavaOnevisionImageProcessorPil(size={"height": 32, "width": 32}, image_grid_pinpoints=grid)
    processor = transformers.LlavaOnevisionProcessor(images, tok, films("LlavaOnevisionVideoProcessor"),
                                                     num_image_tokens=16, vision_feature_select_strategy="full",
                                                     chat_template=tiny.LLAVA_TEMPLATE)
    return built("llava_onevision", decoder("qwen2", tok), dict(SIGLIP, model_type="siglip_vision_model"), processor,
                 image_grid_pinpoints=grid,
                 image_token_index=4, video_token_index=tok.convert_tokens_to_ids("<video>"))


def smolvlm():
    tok = tokenizer(["<fake_token_around_image>", "<end_of_utterance>", "<global-img>"])
    processing_smolvlm.num2words = processing_smolvlm.num2words or str   # for films only
    images = SmolVLMImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    processor = transformers.SmolVLMProcessor(images, tok, films("SmolVLMVideoProcessor"), image_seq_len=4,
                                              chat_template=tiny.IDEFICS_TEMPLATE)
    return built("smolvlm", decoder("llama", tok), dict(tiny.TOWER), processor, image_token_id=4, scale_factor=2,
                 pad_token_id=3)


def paligemma2():
    tok = tiny.tokenizer()
    images = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    images.image_seq_length = 16
    processor = transformers.PaliGemmaProcessor(images, tok)
    text = decoder("gemma2", tok, head_dim=8, query_pre_attn_scalar=8, sliding_window=4096,
                   final_logit_softcapping=30., attn_logit_softcapping=50.)
    return built("paligemma", text, dict(SIGLIP, model_type="siglip_vision_model"), processor,
                 image_token_id=tok.convert_tokens_to_ids(tiny.IMAGE),
                 projection_dim=32, pad_token_id=3)


def qwen(kind, text_kind, vision, **text):
    "Qwen2.5-VL, Qwen3-VL and Qwen3.5: dynamic sizes, positions of three dimensions"
    tok = tokenizer(QWEN)
    size = {"shortest_edge": 32 * 32, "longest_edge": 32 * 32}
    images = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, temporal_patch_size=2, size=size)
    which = "Qwen2_5_VLProcessor" if kind == "qwen2_5_vl" else "Qwen3VLProcessor"
    video = "Qwen2VLVideoProcessor" if kind == "qwen2_5_vl" else "Qwen3VLVideoProcessor"
    processor = getattr(transformers, which)(images, tok, films(video), chat_template=QWEN_TEMPLATE)
    ids = {f"{name}_token_id": tok.convert_tokens_to_ids(f"<|{mark}|>") for name, mark in
           [("image", "image_pad"), ("video", "video_pad"), ("vision_start", "vision_start"),
            ("vision_end", "vision_end")]}
    common = dict(depth=2, num_heads=2, patch_size=4, spatial_merge_size=2, temporal_patch_size=2, out_hidden_size=32)
    text = decoder(text_kind, tok, **text)
    return built(kind, text, common | vision, processor, **ids)


MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
def qwen2_5_vl():
    return qwen("qwen2_5_vl", "qwen2_5_vl_text",
                dict(hidden_size=24, intermediate_size=32, window_size=16, fullatt_block_indexes=[1]),
                rope_parameters=MROPE)
def qwen3_vl():
    return qwen("qwen3_vl", "qwen3_vl_text",
                dict(hidden_size=24, intermediate_size=32, num_position_embeddings=64,
                     deepstack_visual_indexes=[0, 1]),
                            head_dim=8, rope_parameters=MROPE | {"mrope_interleaved": True})
def qwen3_5():
    return qwen("qwen3_5", "qwen3_5_text", dict(hidden_size=24, intermediate_size=32, num_position_embeddings=64),
                head_dim=16,
                           layer_types=["linear_attention", "full_attention"], linear_key_head_dim=8,
                linear_value_head_dim=8, linear_num_key_heads=2,
                           linear_num_value_heads=4,
                rope_parameters=MROPE | {"mrope_interleaved": True, "partial_rotary_factor": .5})


def internvl():
    tok = tokenizer(["<img>", "</img>", "<IMG_CONTEXT>", "<video>"], start_image_token="<img>",
                    end_image_token="</img>", context_image_token="<IMG_CONTEXT>",
                    video_token="<video>")
    images = GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, crop_to_patches=False)
    processor = transformers.InternVLProcessor(images, tok, films("InternVLVideoProcessor"), image_seq_length=4,
                                               chat_template=tiny.LLAVA_TEMPLATE.replace("<image>", "<IMG_CONTEXT>"))
    vision = dict(hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                  image_size=[32, 32], patch_size=[8, 8])
    return built("internvl", decoder("qwen3", tok, head_dim=8), vision, processor,
                 image_token_id=tok.convert_tokens_to_ids("<IMG_CONTEXT>"), image_seq_length=4)


def gemma3():
    tok = tokenizer(["<start_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"],
                    boi_token="<start_of_image>", eoi_token="<end_of_image>",
                    image_token="<image_soft_token>")
    images = Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
    processor = transformers.Gemma3Processor(images, tok,
                                             chat_template=GEMMA_TEMPLATE.replace("MARK", "<start_of_image>"),
                                             image_seq_length=4)
    text = decoder("gemma3_text", tok, head_dim=8, query_pre_attn_scalar=8, sliding_window=16,
                   layer_types=["sliding_attention", "full_attention"])
    return built("gemma3", text, dict(SIGLIP, model_type="siglip_vision_model"), processor, mm_tokens_per_image=4,
                 boi_token_index=tok.boi_token_id,
                 eoi_token_index=tok.eoi_token_id, image_token_index=tok.image_token_id)


def gemma4():
    from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil
    marks = dict(boi_token="<|image>", eoi_token="<image|>", image_token="<|image|>", audio_token="<|audio|>",
                 boa_token="<|audio>", eoa_token="<audio|>")
    tok = tokenizer(["<start_of_turn>", "<|video|>", *marks.values()], **marks)
    images = Gemma4ImageProcessorPil(patch_size=4, pooling_kernel_size=2, max_soft_tokens=70)
    processor = transformers.Gemma4Processor(Gemma4AudioFeatureExtractor(), images, tok, films("Gemma4VideoProcessor"),
                                             image_seq_length=70,
                                             chat_template=GEMMA_TEMPLATE.replace("MARK", "<|image|>"))
    text = decoder("gemma4_text", tok, head_dim=8, global_head_dim=8, sliding_window=512,
                   layer_types=["sliding_attention", "full_attention"],
                   hidden_size_per_layer_input=8, vocab_size_per_layer_input=len(tok))
    vision = dict(hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                  num_key_value_heads=2, head_dim=12, patch_size=4, pooling_kernel_size=2,
                  position_embedding_size=64)
    ids = {f"{name}_token_id": getattr(tok, f"{name}_token_id") for name in ("boi", "image", "audio", "boa")}
    return built("gemma4", text, vision, processor, audio_config=None, **ids)


def lfm2_vl():
    tok = tokenizer(["<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"])
    images = transformers.Lfm2VlImageProcessor(encoder_patch_size=8, tile_size=32, min_image_tokens=4,
                                               max_image_tokens=16, max_num_patches=64, do_image_splitting=False)
    processor = transformers.Lfm2VlProcessor(images, tok,
                                             chat_template=tiny.QWEN_TEMPLATE.replace("<|vision_start|>", "")
                                             .replace("<|vision_end|>", ""))
    text = decoder("lfm2", tok, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False)
    vision = dict(model_type="siglip2_vision_model", hidden_size=24, intermediate_size=32, num_hidden_layers=2,
                  num_attention_heads=2, num_patches=64, patch_size=8, vision_use_head=False)
    return built("lfm2_vl", text, vision, processor, image_token_id=4, projector_hidden_size=32)


BUILDERS = {f.__name__: f
            for f in (llava_onevision, smolvlm, paligemma2, qwen2_5_vl, qwen3_vl, qwen3_5, internvl, gemma3, gemma4,
                      lfm2_vl)}
