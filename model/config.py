"""The training configuration: strict, frozen, and free of torch so that reading one is cheap."""

import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

_Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
_Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
_Positive = Annotated[float, Field(gt=0.0)]
_NonNegative = Annotated[float, Field(ge=0.0)]
_Count = Annotated[int, Field(ge=1)]
_CountOrZero = Annotated[int, Field(ge=0)]

Source = Literal["sotu", "stdlib", "text", "jsonl", "parquet", "tokens", "hub"]
_SOURCES_WITH_PATH = ("text", "jsonl", "parquet", "tokens")


class _Section(BaseModel):
    """A group of settings: unknown names, wrong types and non-finite numbers are refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        protected_namespaces=(),
    )


class ModelConfig(_Section):
    """Shape of the decoder-only mixture-of-experts transformer.

    `dropout` is one probability for embedding, residual and attention dropout. `d_ff` is the width of one SwiGLU
    expert, which at two thirds of a plain MLP's width has the same parameters and FLOPs (Shazeer 2020, arXiv
    2002.05202). The vocabulary size is not here, since it comes from the tokenizer.
    """

    num_layers: _Count = 6
    d_model: _Count = 384
    num_heads: _Count = 3
    num_kv_heads: _Count = 3
    d_ff: _Count = 1024
    num_experts: _Count = 8
    top_k: _Count = 2
    seq_len: Annotated[int, Field(ge=2)] = 512
    dropout: _Probability = 0.0
    rope_theta: _Positive = 10000.0
    norm_eps: _Positive = 1e-6
    aux_loss_coef: _NonNegative = 0.01
    z_loss_coef: _NonNegative = 0.001
    init_std: _Positive = 0.01

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.num_heads

    @property
    def normalises_weights(self) -> bool:
        """Whether the weights of a token's experts are divided by their sum.

        A single one's would then always be 1, whatever the router says; of a single expert there is, it always is.
        """
        return self.top_k > 1 or self.num_experts == 1

    @model_validator(mode="after")
    def _check_shapes(self) -> Self:
        if self.d_model % self.num_heads:
            raise ValueError(
                f"num_heads = {self.num_heads} does not divide d_model = {self.d_model}; "
                "choose a number of heads that divides it"
            )

        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads = {self.num_kv_heads} does not divide num_heads = {self.num_heads}; "
                "each group of query heads shares one key-value head"
            )

        if self.head_dim % 2:
            raise ValueError(
                f"d_model / num_heads = {self.head_dim} is odd; rotary positions need pairs, so make it even"
            )

        if self.top_k > self.num_experts:
            raise ValueError(
                f"top_k = {self.top_k} exceeds num_experts = {self.num_experts}; lower top_k or add experts"
            )

        # Grouped matrix products need rows of 16 bytes, which is 8 half-precision numbers.
        for name, width in (("d_model", self.d_model), ("d_ff", self.d_ff)):
            if width % 8:
                raise ValueError(
                    f"{name} = {width} is not a multiple of 8, which half-precision experts need; "
                    f"use {width // 8 * 8 + 8}"
                )

        return self


class OptimConfig(_Section):
    """Muon for the hidden matrices, AdamW for the rest, and the schedule both follow.

    `muon_lr` and `adamw_lr` are absolute peaks. The schedule runs over tokens; its fractions are of the budget.
    `weight_decay` is decoupled: at each step all weights but the norms' gains lose that times Muon's learning rate, so
    that AdamW's are forgotten as fast; "auto" is what `decay_for` says. `grad_clip` is a global norm; 0 turns clipping
    off. `decay_frac` is read by "wsd" only.
    """

    muon_lr: _NonNegative = 0.01
    adamw_lr: _NonNegative = 0.02
    muon_momentum: _Probability = 0.85
    adamw_beta1: _Probability = 0.9
    adamw_beta2: _Probability = 0.95
    weight_decay: _NonNegative | Literal["auto"] = "auto"
    grad_clip: _NonNegative = 1.0
    grad_accum_steps: _Count = 1
    schedule: Literal["wsd", "cosine", "linear"] = "wsd"
    warmup_frac: _Fraction = 0.05
    decay_frac: _Fraction = 0.2
    final_lr_frac: _Fraction = 0.0

    def decay_for(self, epochs: float = 1.0, steps: int = 1) -> float:
        """Return the weight decay of a training: none where "auto" reads its text once, and more the more it repeats.

        "auto" is a matter of the whole run: at the peak of the learning rate, its steps would shrink the weights to
        exp(-0.15 (epochs^2 - 1)), whatever its length, batch and learning rate.

        Args:
            epochs: How often it reads its text, > 0.
            steps: Its optimizer steps, >= 1.

        Source: own trainings of 6.1M tokens that read prose 1, 2, 3, 6 and 12 times, each with decays a factor of about
        3 apart; that it belongs to the run, and not to the step, by runs of two lengths (tests/benchmarks/RESULTS.md).
        """
        if self.weight_decay != "auto":
            return self.weight_decay
        if not self.muon_lr:
            return 0.0

        forgotten = 0.15 * max(0.0, epochs**2 - 1)
        return -math.expm1(-forgotten / steps) / self.muon_lr

    @model_validator(mode="after")
    def _check_schedule(self) -> Self:
        if self.schedule == "wsd" and self.warmup_frac + self.decay_frac > 1:
            raise ValueError(
                f"warmup_frac + decay_frac = {self.warmup_frac + self.decay_frac:g} is more than "
                "the whole budget; lower one of them"
            )
        return self


class DataConfig(_Section):
    """Where the text comes from, how it becomes tokens, and what is held out.

    `source` is one of:

    - "sotu": the embedded corpus, US presidents' annual messages;
    - "stdlib": Python's own source;
    - "text", "jsonl" or "parquet": `path` is a file, a folder or a glob;
    - "tokens": `path` is a file of token ids (.bin of `token_dtype`, or .npy), and `val_path` may be a second one;
    - "hub": `name`, `subset` and `split` of a dataset, fetched up to `max_tokens`.

    `train_tokens` of the training text are used, evenly spread over it; 0 means all. `tokenizer` is a tokenizer.json
    or a hub name; "" trains a byte-level BPE of `vocab_size` tokens on the training documents. For "tokens" without a
    tokenizer `vocab_size` is the size of the vocabulary. `val_frac` of the text is held out. `eos_id` is the token that
    ends a text, where the tokenizer does not say it. A training whose tokens have another hash than `expected_hash` is
    refused, unless that is "".
    """

    source: Source = "sotu"
    path: str = ""
    val_path: str = ""
    token_dtype: Literal["uint16", "uint32"] = "uint16"
    text_field: str = "text"
    name: str = ""
    subset: str = ""
    split: str = "train"
    tokenizer: str = ""
    vocab_size: _Count = 2048
    max_tokens: _CountOrZero = 0
    train_tokens: _CountOrZero = 0
    val_frac: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    eval_tokens: _Count = 65536
    num_evals: _Count = 10
    eos_id: _CountOrZero | None = None
    cache_dir: str = "runs/corpus"
    bytes_per_token: _NonNegative = 0.0
    expected_hash: str = ""

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if self.source in _SOURCES_WITH_PATH and not self.path:
            raise ValueError(f'source = "{self.source}" needs path; set data.path to a file, folder or glob')
        if self.source == "hub" and not self.name:
            raise ValueError('source = "hub" needs name; set data.name, for example "HuggingFaceTB/smollm-corpus"')
        if self.source == "hub" and not self.max_tokens:
            raise ValueError('source = "hub" needs max_tokens: the dataset is fetched up to there')
        if self.val_path and self.source != "tokens":
            raise ValueError(
                f'val_path is read only by source = "tokens", not by "{self.source}"; remove it '
                "(val_frac holds out whole documents)"
            )
        return self


class SystemConfig(_Section):
    """The machine: device, number format, micro-batch and memory cap.

    `micro_batch_size` x `optim.grad_accum_steps` sequences make one optimizer step. They run in passes of at most
    `max_pass_sequences` (0: of `micro_batch_size`). The size of a pass matters for memory and speed alone, since the
    gradient is the same mean.

    `memory_bytes` caps this process's share of the GPU; 0 means no cap. `cuda_graphs` replays recorded optimizer steps
    where the device can (bf16 on compute capability 9 and 10); without it the same kernels are launched one by one.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    micro_batch_size: _Count = 24
    max_pass_sequences: _CountOrZero = 0
    memory_bytes: _CountOrZero = 0
    flash_attention: bool = True
    cuda_graphs: bool = True


class OutputConfig(_Section):
    """What a run leaves on disk: nothing when `dir` is empty.

    `provenance` are lines for the model card, "name: value", which say where these settings come from.
    """

    dir: str = ""
    checkpoint_every_s: _NonNegative = 600.0
    checkpoint_every_tokens: _CountOrZero = 0
    keep_checkpoints: _Count = 2
    sample_tokens: _CountOrZero = 200
    prompt: str = ""
    provenance: list[str] = []


length_rules = {
    "optim.grad_accum_steps": "batch",
    "optim.muon_lr": "learning_rate",
    "optim.adamw_lr": "learning_rate",
    "optim.weight_decay": "weight_decay",
    "optim.warmup_frac": "warmup_frac",
}
"""Settings whose best value depends on the length of a run: dotted path -> kind of setting."""

setting_roles = {
    "seed": "seed",
    "device": "system.device",
    "dtype": "system.dtype",
    "memory_bytes": "system.memory_bytes",
    "flash_attention": "system.flash_attention",
    "micro_batch_size": "system.micro_batch_size",
    "grad_accum_steps": "optim.grad_accum_steps",
    "max_pass_sequences": "system.max_pass_sequences",
    "train_tokens": "data.train_tokens",
    "num_evals": "data.num_evals",
    "output_dir": "output.dir",
    "provenance": "output.provenance",
    "expected_data": "data.expected_hash",
}
"""Settings that the caller of a run may fill in: role -> dotted path."""

untrained_settings = ("seed", "system.", "output.", "data.cache_dir", "data.expected_hash")
"""Beginnings of the dotted paths of settings that say where files go and what a run computes on, not what it trains."""


class TrainConfig(_Section):
    """Everything that decides a training run, apart from its budget in tokens."""

    seed: _CountOrZero = 0
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    data: DataConfig = DataConfig()
    system: SystemConfig = SystemConfig()
    output: OutputConfig = OutputConfig()

    @property
    def batch_sequences(self) -> int:
        """Sequences of one optimizer step."""
        return self.system.micro_batch_size * self.optim.grad_accum_steps

    @property
    def pass_sequences(self) -> int:
        """Sequences of one forward and backward pass: the most within the limit that divide the batch."""
        size = min(self.system.max_pass_sequences or self.system.micro_batch_size, self.batch_sequences)
        while self.batch_sequences % size:
            size -= 1
        return size

    @property
    def batch_tokens(self) -> int:
        """Tokens of one optimizer step."""
        return self.batch_sequences * self.model.seq_len
