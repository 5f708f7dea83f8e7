"""Goldens of prefix tuning, prompt tuning, IA3 and VeRA (PEFT) and of bottleneck adapters (AdapterHub) on a tiny Llama.

usage: make_graft_golden.py TESTS_GOLDEN_DIR [NAME...]     (needs torch, transformers, peft, adapters, safetensors)

Writes TESTS_GOLDEN_DIR/grafts/NAME/ with the library's own files before the first step, step.safetensors with the logits
of the last position, the gradients of one step on all of IDS, and (PEFT) the losses of five AdamW steps.
"""
import sys
from pathlib import Path

import peft
import torch
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

golden = Path(sys.argv[1])
wanted = sys.argv[2:]  # none: all
IDS = [[5, 17, 33, 60, 2, 9, 41, 77, 12, 8], [90, 3, 3, 28, 54, 61, 7, 19, 44, 1]]


def base():
    torch.manual_seed(7)
    return LlamaForCausalLM.from_pretrained(golden / "families" / "llama", dtype=torch.float32, attn_implementation="eager")


def record(out, model, trainable, rename, extra=None):
    ids = torch.tensor(IDS)
    model.train()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    tensors = {"grad." + rename(k): p.grad.contiguous().clone() for k, p in trainable}
    model.eval()
    with torch.no_grad():
        tensors["logits"] = model(input_ids=ids).logits[:, -1].contiguous()
    tensors["loss"] = loss.detach().reshape(1)
    if extra:
        tensors.update(extra)
    save_file(tensors, out / "step.safetensors")


def spread(model, names, seed, scale):
    """Gives fresh parameters values that act."""
    torch.manual_seed(seed)
    for name, p in model.named_parameters():
        if p.requires_grad and any(part in name for part in names):
            p.data.add_(torch.randn_like(p) * scale)


def variants():
    from adapters import BnConfig, DoubleSeqBnConfig, ParBnConfig, SeqBnConfig

    scaled = BnConfig(mh_adapter=False, output_adapter=True, reduction_factor=32, non_linearity="gelu", is_parallel=True,
                      scaling="learned", init_weights="mam_adapter", leave_out=[1])
    return {
        "houlsby": DoubleSeqBnConfig(reduction_factor=64),
        "pfeiffer": SeqBnConfig(reduction_factor={"0": 16, "default": 32}),
        "parallel": ParBnConfig(reduction_factor=32),
        "scaled_parallel": scaled,
    }


of_peft = {"prefix", "prompt", "ia3", "vera"}
for number, (name, config) in enumerate(({} if wanted and of_peft >= set(wanted) else variants()).items()):
    import adapters

    if wanted and name not in wanted:
        continue
    out = golden / "grafts" / name
    model = base()
    adapters.init(model)
    model.add_adapter("tiny", config=config)
    model.train_adapter("tiny")
    spread(model, [".adapters.tiny."], 100 + number, 0.15)
    model.save_adapter(str(out), "tiny", use_safetensors=True)
    for extra in out.glob("*head*"):
        extra.unlink()
    trainable = [(k, p) for k, p in model.named_parameters() if p.requires_grad and ".adapters.tiny." in k]
    record(out, model, trainable, lambda k: k)

PEFT = {
    "prefix": peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "prompt": peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, prompt_tuning_init="RANDOM"),
    "ia3": peft.IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "v_proj", "down_proj"],
                          feedforward_modules=["down_proj"]),
    "vera": peft.VeraConfig(task_type="CAUSAL_LM", r=6, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"]),
}
for number, (name, config) in enumerate(PEFT.items()):
    if wanted and name not in wanted:
        continue
    out = golden / "grafts" / name
    torch.manual_seed(200 + number)
    model = peft.get_peft_model(base(), config)
    if name == "ia3":
        spread(model, ["ia3"], 300, 0.3)
    if name == "vera":
        spread(model, ["vera_lambda"], 400, 0.3)
    model.save_pretrained(out)
    (out / "README.md").unlink(missing_ok=True)
    trainable = [(k, p) for k, p in model.named_parameters() if p.requires_grad]
    saved = peft.get_peft_model_state_dict(model)
    before = {k: p.detach().clone() for k, p in trainable}
    losses = []
    optimizer = torch.optim.AdamW([p for _, p in trainable], lr=1e-2, weight_decay=0.0)
    ids = torch.tensor(IDS)
    model.train()
    for _ in range(5):
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    for k, p in trainable:
        p.data.copy_(before[k])
    model.zero_grad()
    rename = (lambda k: k.replace(".default", "")) if name in ("ia3", "vera") else (lambda k: "prompt_embeddings")
    record(out, model, trainable, rename, {"losses": torch.tensor(losses)})
    print(name, list(saved), losses)
