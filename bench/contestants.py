"""Five ways to do one step of preference training on one batch: the loss, its gradient, and the optimizer's step.

Each contestant gets the same weights, the same pairs, prepared beforehand (tokens and processed pixels), and the same
noise. Making batches is not measured: TRL's collator processes every picture twice, ours once.
"""
import tempfile

import torch
import torch.nn.functional as F
from povid_nb import branches, packing
from povid_nb.dpo import dpo_loss
from povid_nb.loss import povid_loss
from povid_nb.branches import Branches

from . import shapes

BETA = .1


class Contestant:
    "One way of training: `loss()` on the batch it was given; `step()` learns from it"
    def __init__(self, shape, form, device="cpu", dtype=torch.float32, checkpointing=False,
        make=None): # a function that gives the model; None: random weights in this shape
        self.shape, self.form, self.device = shape, form, torch.device(device)
        self.vlm = make() if make else shapes.build(shape, device, dtype)
        self.pairs = shapes.pairs(shape)
        self.prepare()
        if checkpointing:
            self.vlm.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.model.train()
        self.learning = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(self.learning.values(), lr=1e-6)

    @property
    def model(self): return self.vlm.model

    def noisy(self, pixels):
        "The noisy pixels: the same for all"
        torch.manual_seed(7)
        return pixels + torch.randn(pixels.shape[1:]).to(pixels)

    def step(self):
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def gradients(self):
        "The loss, and the adapter's gradient by name"
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        found = {n.split("base_model.model.")[-1]: p.grad.detach().float().cpu().clone()
                 for n, p in self.learning.items()}
        self.optimizer.zero_grad()
        return float(loss.detach()), found


class Ours(Contestant):
    "Answers of a pair in one row; the noisy pass without gradient where only its tokens are wanted"
    cache = None

    def prepare(self):
        shapes.add_lora(self.vlm, self.shape)
        self.branches = Branches(self.vlm)
        rows = [branches.encode(self.vlm, pair) for pair in self.pairs]
        self.batch = branches.to_device(self.branches.collate(rows, self.form != "dpo"), self.device)
        if self.form != "dpo":
            self.batch["noisy_images"]["pixel_values"] = self.noisy(self.batch["images"]["pixel_values"])
        self.cached = self.remembered() if self.cache else None

    def remembered(self):
        kept = list(self.branches.remember(self.batch["clean"], self.batch["images"]))
        found = {"token_logps": packing.unpack(torch.cat([k["token_logps"] for k in kept]),
                                               self.batch["clean"]["real"]),
                 "hidden": torch.cat([k["hidden"] for k in kept])}
        return found | ({"features": [k["features"] for k in kept]} if self.cache == "features" else {})

    def loss(self):
        scores = self.model(branches=self.batch | {"form": self.form, "cached": self.cached})
        both = branches.answer_logps(scores)
        return (dpo_loss(*both, BETA) if self.form == "dpo" else povid_loss(*both, self.form, BETA)).losses.mean()


class OursReferenceCached(Ours):
    "The same with the reference's scores from the cache"
    cache = "reference"


class OursCached(Ours):
    "The same with the clean pictures' features from the cache, too: every epoch after the first"
    cache = "features"


class Plain(Contestant):
    """The released algorithm, restated with whole forwards: three of the policy, three of the reference, the noisy
    one with gradient"""
    def prepare(self):
        shapes.add_lora(self.vlm, self.shape)
        texts = [[getattr(pair, name) for pair in self.pairs] for name in ("chosen", "rejected")]
        images, prompts = [p.image for p in self.pairs], [p.prompt for p in self.pairs]
        self.chosen, self.rejected = (self.vlm.inputs(images, prompts, t) for t in texts)
        self.masks = [batch.pop("answer_mask")[:, 1:] for batch in (self.chosen, self.rejected)]
        self.blind = self.chosen | {"pixel_values": self.noisy(self.chosen["pixel_values"])}

    def logps(self, batch): return self.model(**batch, use_cache=False).logits[:, :-1].float().log_softmax(-1)

    def scores(self):
        chosen, rejected = self.logps(self.chosen), self.logps(self.rejected)
        at = lambda logps, tokens, mask: (logps.gather(-1, tokens[..., None])[..., 0] * mask).sum(-1)
        found = [at(chosen, self.chosen["input_ids"][:, 1:], self.masks[0]),
                 at(rejected, self.rejected["input_ids"][:, 1:], self.masks[1])]
        if self.form != "dpo": found.append(at(chosen, self.noise_tokens(), self.masks[0]))
        return found

    def noise_tokens(self):
        if torch.is_grad_enabled() or not hasattr(self, "tokens"): self.tokens = self.logps(self.blind).argmax(-1)
        # the released reference makes its own tokens; here it scores the policy's, so that losses can be compared, at
        # the same cost
        else: self.logps(self.blind)
        return self.tokens

    def loss(self):
        policy = self.scores()
        with torch.no_grad(), self.model.disable_adapter(): reference = self.scores()
        D = [p - r for p, r in zip(policy, reference)]
        return -torch.stack([F.logsigmoid(BETA * (D[0] - d)) for d in D[1:]]).mean()


class Trl(Contestant):
    "TRL's DPOTrainer: its own loss on its own batch"
    def prepare(self):
        import trl
        from datasets import Dataset
        rows = [{"images": [p.image], "prompt": [{"role": "user", "content": p.prompt}],
                 "chosen": [{"role": "assistant", "content": p.chosen}],
                 "rejected": [{"role": "assistant", "content": p.rejected}]} for p in self.pairs]
        args = trl.DPOConfig(tempfile.mkdtemp(), per_device_train_batch_size=len(rows), bf16=False,
                             gradient_checkpointing=False, max_length=None, report_to="none",
                             beta=BETA, use_cpu=self.device.type == "cpu", train_sampling_strategy="sequential",
                             disable_tqdm=True)
        self.trainer = trl.DPOTrainer(self.vlm.model, args=args, train_dataset=Dataset.from_list(rows),
                                      processing_class=self.vlm.processor,
                                      peft_config=shapes.lora(self.vlm, self.shape))
        shapes.start(self.trainer.model)
        self.batch = branches.to_device(dict(next(iter(self.trainer.get_train_dataloader()))), self.device)
        if self.form != "dpo": self.prepare_noise()

    @property
    def model(self): return self.trainer.model

    def loss(self):
        loss = self.trainer.compute_loss(self.model, dict(self.batch))
        return loss if self.form == "dpo" else (loss + self.noise_loss()) / 2

    def prepare_noise(self):
        "The chosen half of TRL's batch, under clean and under noisy pictures"
        n = len(self.pairs)
        self.chosen = {k: v[:n] for k, v in self.batch.items() if k in ("input_ids", "attention_mask", "pixel_values")}
        self.mask = self.batch["completion_mask"][:n, 1:].bool()
        self.blind = self.chosen | {"pixel_values": self.noisy(self.chosen["pixel_values"])}

    def noise_loss(self):
        """What a subclass must add: `_compute_loss` gives no logits, so the chosen answers are run again, and their
        noisy twins"""
        logps = lambda batch: self.model(**batch, use_cache=False).logits[:, :-1].float().log_softmax(-1)
        with torch.no_grad(): y_n = logps(self.blind).argmax(-1)
        y_w = self.chosen["input_ids"][:, 1:]
        both = lambda l: [(l.gather(-1, t[..., None])[..., 0] * self.mask).sum(-1) for t in (y_w, y_n)]
        policy = both(logps(self.chosen))
        with torch.no_grad(), self.model.disable_adapter(): reference = both(logps(self.chosen))
        w, n = (p - r for p, r in zip(policy, reference))
        return -F.logsigmoid(BETA * (w - n)).mean()


CONTESTANTS = {"trl": Trl, "released": Plain, "ours": Ours, "ours_reference_cached": OursReferenceCached,
               "ours_cached": OursCached}
FORMS = {"dpo": ["trl", "ours", "ours_reference_cached", "ours_cached"],
         "released": ["trl", "released", "ours", "ours_reference_cached", "ours_cached"]}
