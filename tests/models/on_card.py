"""A stand-in for a GPU, and what is run on it: `python tests/models/on_card.py` prints what came of each piece of
work.

With `--cuda` (and kinds of models, else all) the same work is done on a real one, also in the types of cards.

Tensors on `card:0` keep their values in a CPU tensor and refuse what CUDA refuses: to be mixed with tensors of the
CPU, to be seen through numpy, to be filled by the CPU's generator. A process of its own, since a device cannot be
taken out of torch again.
"""
import contextlib, functools, json, sys, tempfile, warnings
from pathlib import Path

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

aten = torch.ops.aten
MOVES = {aten.copy_.default, aten._to_copy.default}
INDEXES = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default,
           aten._unsafe_index.Tensor}


class WrongDevice(RuntimeError): pass


class OnCard(torch.Tensor):
    "A tensor that says it is on the card; `inner` has its values"
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(cls, inner.size(), strides=inner.stride(),
                                                   storage_offset=inner.storage_offset(), dtype=inner.dtype,
                                                   device="card:0")
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None): return run(func, args, kwargs or {})

    def __repr__(self): return f"OnCard({self.inner})"
    def tolist(self): return self.inner.tolist()
    def new_tensor(self, data, **options): return OnCard(self.inner.new_tensor(data, **options))
    def numpy(self, *args, **kwargs):
        raise WrongDevice("a tensor on the card has no numpy view; move it to the CPU first")


def is_card(device): return device is not None and torch.device(device).type == "card"


def run(func, args, kwargs):
    "An operation of torch: as it is where nothing is on the card, else on the values, after a look at who meets whom"
    wanted, flat = kwargs.get("device"), tree_flatten((args, kwargs))[0]
    on_card = any(isinstance(x, OnCard) for x in flat)
    if not on_card and not is_card(wanted): return func(*args, **kwargs)
    # a single number may come from the CPU
    others = [x for x in flat if isinstance(x, torch.Tensor) and not isinstance(x, OnCard) and x.dim()]
    # places may, too
    if func in INDEXES: others = [x for x in others if not any(x is place for place in args[1])]
    if on_card and others and func not in MOVES:
        raise WrongDevice(f"{func}: a tensor on the card meets one on the CPU, of shape {tuple(others[0].shape)}")
    if (generator := kwargs.get("generator")) is not None and generator.device.type == "cpu":
        raise WrongDevice(f"{func}: the CPU's generator for the card")
    args_, kwargs_ = tree_map(lambda x: x.inner if isinstance(x, OnCard) else x, (args, kwargs))
    if is_card(wanted): kwargs_["device"] = torch.device("cpu")
    out = func(*args_, **kwargs_)
    if func is aten._to_copy.default and wanted is not None and not is_card(wanted): return out
    if func is aten.copy_.default and not isinstance(args[0], OnCard): return args[0]
    out = tree_map(lambda x: OnCard(x) if isinstance(x, torch.Tensor) else x, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if on_card else out


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None): return run(func, args, kwargs or {})


class _Lists(TorchFunctionMode):
    "Lists of Python become tensors without a word to the dispatcher"
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor):
            args, wanted = tree_map(lambda x: x.inner if isinstance(x, OnCard) else x, args), kwargs.get("device")
            return OnCard(func(*args, **kwargs | {"device": "cpu"})) if is_card(wanted) else func(*args, **kwargs)
        if func is torch.Tensor.__getitem__ and isinstance(args[0], OnCard):
            to = lambda place: torch.tensor(place) if isinstance(place, list) else place
            return func(args[0], tuple(map(to, args[1])) if isinstance(args[1], tuple) else to(args[1]))
        return func(*args, **kwargs)


@contextlib.contextmanager
def card():
    "Inside, there is a card"
    with _Lists(), _Operations(): yield


def put(vlm, path=""):
    "Weights and buffers of a model, or of a part of it, on the card; returns the VLM"
    for part in vlm.model.get_submodule(path).modules():
        for name, p in part._parameters.items():
            if p is not None:
                part._parameters[name] = torch.nn.Parameter(OnCard(p.data), requires_grad=p.requires_grad)
        for name, b in part._buffers.items():
            if b is not None: part._buffers[name] = OnCard(b)
    return vlm


def spread(vlm):
    """The projector, the last layer and the final norm on the card and all else on the CPU, with the hooks that
    `device_map` sets"""
    language = vlm.paths()["language_model"]
    away = vlm.paths()["projector"], f"{language}.layers.1", f"{language}.norm"
    for path in away: put(vlm, path)
    vlm.base.hf_device_map = {path: "card:0" if path.startswith(away) else "cpu"
                              for path, _ in vlm.base.named_modules()}
    for path, home in vlm.base.hf_device_map.items():
        add_hook_to_module(vlm.base.get_submodule(path), AlignDevicesHook(home, io_same_device=not path))
    return vlm


# ---- What is run on it ----------------------------------------------------------------------------------------------

def verbs(vlm):
    images = attending.PICTURES[:2]
    texts = vlm.describe(images, ["What", "Is there"], max_new_tokens=4)
    return [vlm.score(images, "What", "a red fork")[1].logps, texts,
            [word.prob for word in vlm.next_tokens(images[0], k=3)]]

def sampled(vlm): return vlm.describe(attending.PICTURES[0], "What", max_new_tokens=4, temperature=1., seed=3)

def words(vlm):
    return [word.prob for word in vlm.next_tokens(attending.PICTURES[0], "What", "a red", words=["fork", "knife"])]

def shifted(vlm, space="pixels"):
    return shift.sweep(vlm, attending.PICTURES[2], "What", "a red", words=["fork", "knife"], steps=[0, 600], seeds=[3],
                       image_id="p", space=space).probs.tolist()

def attended(vlm): return attend(vlm, attending.PICTURES[0], "What", "a red fork").image_share().tolist()

def decoded(vlm): return vcd.contrast(vlm, attending.PICTURES[0], "What", max_new_tokens=3)

def training(form, **more):
    "Two losses of one batch, with a step of AdamW between them, and all that is logged"
    def work(vlm):
        stages.add_adapter(vlm, rank=2)
        trainer = PovidTrainer(vlm,
                               trained.config(tempfile.mkdtemp(), form=form, max_steps=1,
                                              per_device_train_batch_size=2, use_cpu=vlm.device.type != "cuda",
                                              **more), trained.some_pairs(4))
        trainer._fill_cache()
        batch = trainer._prepare_inputs(trainer.data_collator([trainer.train_dataset[i] for i in range(2)]))
        first = trainer.compute_loss(vlm.model.train(), batch)
        first.backward()
        torch.optim.AdamW([p for p in vlm.model.parameters() if p.requires_grad], lr=1e-2).step()
        second = trainer.compute_loss(vlm.model, batch)
        return [first.item(), second.item(),
                {name: [value.item() for value in values] for name, values in trainer.seen["train"].values.items()}]
    return work


def close(a, b, within=1e-4):
    if isinstance(a, dict): return a.keys() == b.keys() and all(close(a[key], b[key], within) for key in a)
    if isinstance(a, (list, tuple)): return len(a) == len(b) and all(close(*both, within) for both in zip(a, b))
    return a == b if isinstance(a, str) else abs(a - b) <= within * max(1, abs(a))


def outcome(kind, work, place=put):
    "Does the work give on the card what it gives on the CPU?"
    own = PovidConfig.device
    expected = work(tiny_models.load(kind))
    if place is put: PovidConfig.device = property(lambda args: (own.fget(args), torch.device("card:0"))[1])
    try:
        with card(): found = work(place(tiny_models.load(kind)))
    except WrongDevice as error: return f"wrong device: {error}"
    finally: PovidConfig.device = own
    return "same" if close(expected, found) else f"{expected} and {found}"


@contextlib.contextmanager
def planted(module, name, value):
    own = getattr(module, name)
    setattr(module, name, value)
    try: yield
    finally: setattr(module, name, own)


COMMON = ("verbs", "words", "shift", "attention", "dpo", "paper", "released", "checkpointed")

def on_cuda(make, work, dtype=torch.float32):
    "Does the work give on CUDA what it gives on the CPU? In 16 bits: does it come to its end?"
    def there(device):
        vlm = make()
        vlm.model.to(device, dtype)
        return vlm
    expected = work(there("cpu")) if dtype == torch.float32 else None
    try: found = work(there("cuda"))
    except Exception as error: return f"{type(error).__name__}: {error}"[:300]
    return "same" if expected is None or close(expected, found, 2e-3) else f"{expected} and {found}"[:600]


def all_on_cuda():
    tiny_models.BUILDERS.update(newer_models.BUILDERS)
    newer = [kind for kind in newer_models.BUILDERS if kind != "lfm2_vl" or newer_models.HAS_TORCHVISION]
    for kind in sys.argv[2:] or (*tiny_models.ARCHITECTURES, *tiny_models.WITH_TORCHVISION, *newer):
        make = functools.partial(tiny_models.load, kind)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for name, one in work().items():
                if name == "sampled": continue                  # by a card's own generator
                if kind == "llava" or name in COMMON:
                    print(json.dumps({f"{kind}, {name}, {str(dtype)[6:]}": on_cuda(make, one, dtype)}), flush=True)


def work():
    return {"verbs": verbs, "sampled": sampled, "words": words, "shift": shifted,
            "shift, processed": lambda vlm: shifted(vlm, "processed"), "attention": attended, "contrast": decoded,
            **{form: training(form) for form in forms.FORMS},
            "noise on the picture": training("released", noise_space="pixels"),
            "cached": training("released", cache="features"),
            "checkpointed": training("paper", gradient_checkpointing=True)}


def main():
    found = {f"{kind}, {name}": outcome(kind, one) for kind in ("llava", "qwen2_vl") for name, one in work().items()
             if kind == "llava" or name in ("verbs", "paper")}
    found |= {f"spread, {name}": outcome("llava", one, spread) for name, one in work().items() if name in COMMON}
    wide = lambda seen, dtype: torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen.cpu(), torch.finfo(dtype).min)[:,
        None]
    with planted(packing, "additive_mask", wide):
        found["planted: a mask without a device"] = outcome("llava", training("dpo"))
    with planted(branches, "_best", lambda batch: torch.full(batch["targets"].shape, -1)):
        found["planted: targets without a device"] = outcome("llava", training("paper"))
    def stays(vlm, *args, **options):
        probs, tokens = own_probs(vlm, *args, **options)
        return probs.to(vlm.device), tokens
    with planted(shift, "word_probs", stays): found["planted: numpy"] = outcome("llava", shifted)
    print(json.dumps(found))


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    if "--cuda" not in sys.argv:
        _setup_privateuseone_for_python_backend("card")
        torch.card.get_amp_supported_dtype = lambda: [torch.bfloat16]   # autocast asks for it
    import newer_models, test_attention_models as attending, test_train as trained, tiny_models   # noqa: E401
    from povid_nb import branches, forms, packing, shift, stages, vcd
    from povid_nb.attention import attend
    from povid_nb.train import PovidConfig, PovidTrainer
    from povid_nb.words import word_probs as own_probs
    warnings.filterwarnings("ignore")
    all_on_cuda() if "--cuda" in sys.argv else main()
