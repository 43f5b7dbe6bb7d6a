"""yesno with small random models of the real classes: reading a picture once gives what reading it every time
gives."""
import sys
from pathlib import Path
import numpy as np
import pytest
import torch
from PIL import Image
from povid_nb import yesno

sys.path.insert(0, str(Path(__file__).parent))
import tiny_models   # noqa: E402

QUESTIONS = ['Is there a knife?', 'Is there a red cup beside the plate?', 'Is there a dog in the image?']


def pictures(n):
    return [Image.fromarray(np.random.default_rng(i).integers(0, 255, (32, 32, 3), dtype=np.uint8)) for i in range(n)]


@pytest.fixture(params=tiny_models.ARCHITECTURES)
def vlm(request, tmp_path):
    tiny_models.save(request.param, tmp_path/request.param)
    model = tiny_models.load(request.param, tmp_path/request.param)
    model.kind = request.param
    return model


def test_shared_pictures_give_the_same_logits_or_are_refused(vlm):
    a, b, c = pictures(3)
    images, questions = [a, b, b, c, a, a], QUESTIONS*2
    plain = yesno._last_logits(vlm, images, questions)
    if yesno._can_share(vlm, a, QUESTIONS):
        assert vlm.kind in ('llava', 'llava_next', 'idefics3')
        assert torch.allclose(yesno._shared_logits(vlm, images, questions), plain, atol=1e-4)
    else: assert vlm.kind in ('paligemma', 'qwen2_vl')
    alone = torch.cat([yesno._last_logits(vlm, [i], [q]) for i, q in zip(images, questions)])
    assert torch.allclose(alone, plain, atol=1e-4)   # left padding changes nothing
