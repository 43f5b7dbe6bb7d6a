"""The models and pairs to measure on: random weights in given shapes, and texts of exactly given lengths."""
from dataclasses import dataclass

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (CLIPVisionConfig, GenerationConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration,
                          LlavaProcessor, PreTrainedTokenizerFast)

from povid_nb.pairs import Example, Pair
from povid_nb.stages import adapter_targets
from povid_nb.vlm import VLM

TEMPLATE = ("{% for m in messages %}{% if m['role'] == 'user' %}<s> {% for c in m['content'] %}{% if c['type'] == "
            "'image' %}<image> {% else %}{{ c['text'] }}"
            "{% endif %}{% endfor %}{% else %} {% for c in m['content'] %}{{ c['text'] }}{% endfor %} </s>{% endif "
            "%}{% endfor %}")


@dataclass(frozen=True)
class Shape:
    "The size of a model and of its work"
    name: str
    tower: tuple = (128, 512, 4, 4)        # width, inner width, layers, heads
    text: tuple = (256, 688, 6, 8)
    vocabulary: int = 2000
    patch: int = 8
    side: int = 16                         # patches along one side: image tokens = side squared
    prompt: int = 27                       # tokens beside the picture
    answer: int = 48
    batch: int = 8
    rank: int = 16

    @property
    def image_tokens(self): return self.side**2


BUILT_IN = Shape("built-in", text=(192, 512, 4, 6), vocabulary=430, patch=16, side=6, prompt=14, answer=32, batch=16,
                 rank=32)
LLAVA_2K = Shape("LLaVA-proportioned, vocabulary 2K")
LLAVA_32K = Shape("LLaVA-proportioned, vocabulary 32K", vocabulary=32064)
LLAVA_7B = Shape("LLaVA-1.5-7B shape", (1024, 4096, 24, 16), (4096, 11008, 32, 32), 32064, 14, 24, 60, 110, batch=2,
                 rank=16)


def processor(shape):
    "A real LLaVA processor whose tokenizer makes one token of each word `w17`"
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    special = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
    words = {w: i for i, w in enumerate(special + [f"w{i}" for i in range(len(special), shape.vocabulary)])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
                                   pad_token="<pad>", additional_special_tokens=["<image>"])
    size = shape.side * shape.patch
    return LlavaProcessor(CLIPImageProcessorPil(size={"shortest_edge": size},
                                                crop_size={"height": size, "width": size}), fast,
                          patch_size=shape.patch,
                          vision_feature_select_strategy="default", num_additional_image_tokens=1,
                          chat_template=TEMPLATE)


def config(shape):
    width, inner, layers, heads = shape.tower
    vision = CLIPVisionConfig(hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
                              num_attention_heads=heads, image_size=shape.side * shape.patch, patch_size=shape.patch)
    width, inner, layers, heads = shape.text
    text = LlamaConfig(vocab_size=shape.vocabulary, hidden_size=width, intermediate_size=inner,
                       num_hidden_layers=layers, num_attention_heads=heads,
                       num_key_value_heads=heads, max_position_embeddings=4096, pad_token_id=3)
    return LlavaConfig(vision_config=vision, text_config=text, image_token_id=4, pad_token_id=3,
                       vision_feature_layer=-2, vision_feature_select_strategy="default")


def build(shape, device="cpu", dtype=torch.float32):
    "A VLM of this shape with random weights, the same at every call"
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device): model = LlavaForConditionalGeneration(config(shape))
    finally: torch.set_default_dtype(before)
    model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=3)
    return VLM(model, processor(shape), shape.name)

def save(shape, folder):
    "Such a model in bf16 as a folder, to be loaded in another precision"
    vlm = build(shape, "cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16)
    vlm.model.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)


def lora(vlm, shape):
    return LoraConfig(r=shape.rank, lora_alpha=2 * shape.rank, lora_dropout=0., target_modules=adapter_targets(vlm))

def start(model):
    "Adapter weights to start from: not zero, so that policy and reference differ, and the same for all contestants"
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            if ".lora_" in name and ".ref." not in name: p.copy_(torch.randn(p.shape, generator=generator) * .02)

def add_lora(vlm, shape):
    vlm.model = get_peft_model(vlm.model, lora(vlm, shape))
    start(vlm.model)
    return vlm


def pairs(shape, n=None, seed=0):
    "Pairs whose texts have exactly the lengths of the shape"
    rng = np.random.default_rng(seed)
    text = lambda k: " ".join(f"w{i}" for i in rng.integers(5, shape.vocabulary, k))
    size = shape.side * shape.patch
    image = lambda: Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))
    return [Pair(Example(image(), text(shape.prompt - 1), text(shape.answer - 1), id=f"pair {i}"),
                 text(shape.answer - 1)) for i in range(n or shape.batch)]
