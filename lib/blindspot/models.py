"""Models: one frozen base, and adapters as plain tensors that load and save as ordinary PEFT folders.

The task model T is base + LoRA + a classification head; the generator G is base + LoRA (+ its own embeddings and LM
head). Both keep the base as it is, so it is loaded once a notebook, in 4-bit NF4 where the study says so, and where
memory allows dequantised once to the compute dtype: the numbers of the 4-bit weights at the speed of plain matrices.

An adapter here is a `dict[str, Tensor]` in fp32 under PEFT's own names ("base_model.model.model.layers.0...").
Saved modules (head, embeddings) train in fp32: in bf16 at a rate of 2e-5 most of their weights could not move.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from blindspot.data import LABELS
from blindspot.device import is_gpu
from blindspot.memory import keep_freed_memory
from blindspot.quantized import PackedLinear, nf4_config, replace_4bit_linears
from blindspot.runs import hash_file
from blindspot.study import ROOT, BaseModelSettings, Lora

Adapter = dict[str, Tensor]
PREFIX = "base_model.model."
HEAD = PREFIX + "score.weight"
SAVED_MODULES = {"embed_tokens": PREFIX + "model.embed_tokens.weight", "lm_head": PREFIX + "lm_head.weight"}


@dataclass
class Base:
    """The frozen base: `model` is a LlamaForCausalLM, weights in the compute dtype, `pad_token_id` set in one place.

    packed: the linear layers are `quantized.PackedLinear`, whose weights stay in 4 bits; else plain ones.
    """

    model: Any
    tokenizer: Any
    settings: BaseModelSettings
    pad_token_id: int
    packed: bool = False
    stop_tokens: Tensor | None = None  # see generation.mark_stops

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def hidden_size(self) -> int:
        return self.model.config.hidden_size


def choose_device() -> torch.device:
    """The GPU that this process sees, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_base(settings: BaseModelSettings, *, sandbox_model: Path | None = None, arithmetic: str | None = None) -> Base:
    """Load the base model and its tokenizer as the study says; the weights are frozen.

    sandbox_model: folder that `00_build_sandbox` wrote, for the name 'sandbox'. arithmetic: the dtype to compute in
    where that is not compute_dtype; the weights keep the values that compute_dtype and the quantisation give them.
    NF4 weights are dequantised once where memory allows (see quantized.replace_4bit_linears); a line says which way.
    Raises FileNotFoundError for a model that is neither here nor on the hub.
    """
    from transformers import AutoModelForCausalLM

    source, tokenizer = load_tokenizer(settings, sandbox_model=sandbox_model)
    dtype = getattr(torch, settings.compute_dtype)
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": "sdpa"}
    if settings.quantization == "nf4":
        options |= {"quantization_config": nf4_config(dtype), "device_map": {"": choose_device()}}
    try:
        with without_progress_bars() if Path(source).is_dir() else nullcontext():
            model = AutoModelForCausalLM.from_pretrained(source, revision=settings.revision, **options)
    except OSError as error:
        raise base_not_found(settings, error) from error
    kept_dtype = getattr(torch, arithmetic or settings.compute_dtype)
    packed = settings.quantization == "nf4" and replace_4bit_linears(model, dtype, arithmetic=kept_dtype)
    if model.lm_head.weight is model.model.embed_tokens.weight:  # adapters may train the two apart
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    if not is_gpu(choose_device()):
        keep_freed_memory()
    model = model.to(choose_device(), kept_dtype)
    model = model.eval().requires_grad_(False)
    pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return Base(model=model, tokenizer=tokenizer, settings=settings, pad_token_id=pad_token_id, packed=packed)


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """No bars of transformers: where nothing is downloaded, all that stays of one is a blank widget of 9 KB."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def load_tokenizer(settings: BaseModelSettings, *, sandbox_model: Path | None = None) -> tuple[str, Any]:
    """(Where the base's files are, its tokenizer). Raises FileNotFoundError for a model neither here nor on the hub."""
    from transformers import AutoTokenizer

    source = find_base(settings, sandbox_model=sandbox_model)
    try:
        return source, AutoTokenizer.from_pretrained(source, revision=settings.revision)
    except OSError as error:
        raise base_not_found(settings, error) from error


def base_not_found(settings: BaseModelSettings, error: Exception) -> FileNotFoundError:
    """What to say where a base can't be loaded."""
    return FileNotFoundError(
        f"base_model.name {settings.name!r} can't be loaded: {str(error).splitlines()[0]} Expected a folder, a "
        "'.gguf' file, or a hub id that is in the local cache or can be downloaded"
    )


def find_base(settings: BaseModelSettings, *, sandbox_model: Path | None) -> str:
    """Where the base's files are: a folder or a hub id. A .gguf file is unpacked into a folder once."""
    if settings.name == "sandbox":
        if sandbox_model is None:
            raise FileNotFoundError("base_model.name 'sandbox' needs the folder that 00_build_sandbox wrote")
        return str(sandbox_model)
    path = Path(settings.name) if Path(settings.name).is_absolute() else ROOT / settings.name
    if settings.name.endswith(".gguf"):
        if not path.is_file():
            raise FileNotFoundError(f"base_model.name {settings.name!r}: no such file (relative to the project's root)")
        return str(convert_gguf(path))
    return str(path) if path.is_dir() else settings.name


def convert_gguf(path: Path) -> Path:
    """Unpack a .gguf file into `models/converted/<checksum>/`, once: a model opened from GGUF can't be saved as is."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = ROOT / "models" / "converted" / hash_file(path)[:12]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            opened = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
            config = type(opened.config).from_dict(
                {k: v for k, v in opened.config.to_dict().items() if k != "quantization_config"}
            )
            fresh = type(opened)(config)
            fresh.load_state_dict(opened.state_dict())
            temporary = folder.with_suffix(f".{os.getpid()}")
            fresh.save_pretrained(temporary)
            AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(temporary)
            os.replace(temporary, folder)
    return folder


def list_targets(base: Base, lora: Lora) -> list[str]:
    """Names of the linear layers that get LoRA, such as 'model.layers.0.self_attn.q_proj'."""
    wanted = set(lora.target_modules)
    return [
        name
        for name, module in base.model.named_modules()
        if name.rpartition(".")[2] in wanted and isinstance(module, nn.Linear)
    ]


def new_adapter(
    base: Base, lora: Lora, *, seed: int, head: bool = False, saved_modules: tuple[str, ...] = ()
) -> Adapter:
    """A fresh adapter in fp32 on the CPU: A as peft draws it (Kaiming uniform), B zero, the head normal.

    head: add a 3 x hidden classification head, rows in the order of LABELS, drawn with the config's
    initializer_range as transformers does. The same seed gives the same tensors on every machine.
    """
    generator = torch.Generator().manual_seed(seed)
    adapter: Adapter = {}
    if head:
        spread = getattr(base.model.config, "initializer_range", 0.02)
        adapter[HEAD] = torch.empty(len(LABELS), base.hidden_size).normal_(0.0, spread, generator=generator)
    for target in list_targets(base, lora):
        layer = base.model.get_submodule(target)
        low_rank = torch.empty(lora.r, layer.in_features)
        nn.init.kaiming_uniform_(low_rank, a=math.sqrt(5), generator=generator)
        adapter[f"{PREFIX}{target}.lora_A.weight"] = low_rank
        adapter[f"{PREFIX}{target}.lora_B.weight"] = torch.zeros(layer.out_features, lora.r)
    weights = {"embed_tokens": base.model.model.embed_tokens.weight, "lm_head": base.model.lm_head.weight}
    for name in saved_modules:
        adapter[SAVED_MODULES[name]] = weights[name].detach().float().cpu().clone()
    return adapter


def save_adapter(
    folder: Path, adapter: Adapter, *, lora: Lora, base: Base, extra: dict[str, Any] | None = None
) -> None:
    """Write an ordinary PEFT folder (adapter_config.json, adapter_model.safetensors) and labels.json.

    labels.json names the head's rows, so that no reader relies on a number; `extra` is added to it.
    """
    from peft import LoraConfig, TaskType

    folder.mkdir(parents=True, exist_ok=True)
    has_head = HEAD in adapter
    saved = ["score"] if has_head else [name for name, key in SAVED_MODULES.items() if key in adapter]
    LoraConfig(
        task_type=TaskType.SEQ_CLS if has_head else TaskType.CAUSAL_LM,
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=list(lora.target_modules),
        modules_to_save=saved or None,
        base_model_name_or_path=base.settings.name,
        inference_mode=True,
    ).save_pretrained(folder)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter.items()}
    temporary = folder / f".adapter_model.{os.getpid()}"
    save_file(tensors, temporary, metadata={"format": "pt"})
    os.replace(temporary, folder / "adapter_model.safetensors")
    if has_head:
        (folder / "labels.json").write_text(json.dumps({"labels": list(LABELS), **(extra or {})}) + "\n")


def load_adapter(folder: Path) -> Adapter:
    """Read a PEFT folder back; head rows are put in the order of LABELS by the names beside them."""
    adapter = load_file(folder / "adapter_model.safetensors")
    if HEAD in adapter:
        labels = json.loads((folder / "labels.json").read_text())["labels"]
        if sorted(labels) != sorted(LABELS):
            raise ValueError(f"{folder.name}/labels.json names the labels {labels}; expected {list(LABELS)}")
        adapter[HEAD] = adapter[HEAD][[labels.index(label) for label in LABELS]]
    return adapter


@contextmanager
def merged(base: Base, adapter: Adapter, lora: Lora) -> Iterator[None]:
    """The base with an adapter merged onto its weights; they are put back at the end.

    On packed weights the adapter computes beside the layer instead: B(A(x)) in fp32, added to what the layer gives.
    Both are exact up to rounding of the base's dtype: use fp32 where numbers are reported.
    """
    scaling = lora.lora_alpha / lora.r
    kept: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        try:
            for target in list_targets(base, lora):
                layer = base.model.get_submodule(target)
                low, high = (adapter[f"{PREFIX}{target}.lora_{part}.weight"].to(layer.weight.device) for part in "AB")
                if isinstance(layer, PackedLinear):
                    hooks.callback(layer.register_forward_hook(partial(add_update, low, scaling * high)).remove)
                else:
                    kept[target] = layer.weight.data
                    layer.weight.data = (layer.weight.data.float() + scaling * (high @ low)).to(layer.weight.dtype)
            for key in SAVED_MODULES.values():
                if key in adapter:
                    name = key.removeprefix(PREFIX).removesuffix(".weight")
                    module = base.model.get_submodule(name)
                    kept[name] = module.weight.data
                    module.weight.data = adapter[key].to(module.weight.device, module.weight.dtype)
            yield
        finally:
            for name, weight in kept.items():
                base.model.get_submodule(name).weight.data = weight


def add_update(low: Tensor, high: Tensor, _: Any, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
    """A layer's output [..., out] and the update of an adapter: low [r, in], high [out, r] with the scaling, fp32."""
    return out + (inputs[0].float() @ low.T @ high.T).to(out.dtype)
