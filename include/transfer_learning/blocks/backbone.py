"""The one seam to a pretrained model: an ordered list of blocks, embeddings first.

Freezing, gradual unfreezing, layer-wise rates, adapters, layer choice and caches of frozen work speak in block numbers: block 0
is the embeddings, block ``n`` the last layer. What differs between architectures stands in ``ARCHITECTURES`` and nowhere else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers.masking_utils import causal_mask_function, create_bidirectional_mask

from transfer_learning.errors import BadInput, nearest

Batch = Mapping[str, torch.Tensor]
"""``input_ids``, ``attention_mask`` and maybe ``token_type_ids``, int64 (rows, length)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Architecture:
    """Where the parts of one architecture of ``transformers`` lie."""

    layers: Callable[[Any], Sequence[nn.Module]]
    """The layers in the order they run; a module that stands twice shares its weights."""
    head_keys: tuple[str, ...]
    """First part of the names of the classification head, below the model with a head."""
    classify: Callable[[Any, torch.Tensor], torch.Tensor]
    """(model with head, the states of the token it sees (rows, 1, width)) -> logits."""
    causal: bool = False
    """A token sees nothing to its right, so the head sees a row's last token; otherwise it sees the first."""
    query_and_value: tuple[str, ...] = ("query", "value")
    """Last part of the names of the attention's query and value; a single name where they are one weight."""
    output: str = "classifier"
    """The head's last layer, with one row of weights for each label."""
    embeddings: Callable[[Any], Sequence[nn.Module]] = lambda m: [m.embeddings]
    """What makes states of tokens; block 0."""
    embed: Callable[[Any, Batch], torch.Tensor] = lambda m, inputs: m.embeddings(**inputs)
    """(model, batch without its mask) -> states."""
    projection: Callable[[Any], nn.Module | None] = lambda _: None
    """What brings narrow embeddings to the encoder's width; part of block 0."""
    final_norm: Callable[[Any], nn.Module | None] = lambda _: None
    """What normalises the states behind the last layer; part of the last block."""
    reserved_positions: Callable[[Any], int] = lambda _: 0
    """Position embeddings that no token can take."""
    stack: Callable[[Any], nn.ModuleList | None] = lambda m: m.encoder.layer
    """The list that holds the layers; None where all layers share their weights."""


def _shared_layers(model: Any) -> list[nn.Module]:
    """Return ALBERT's layer groups as often as they run; the same rule as ``AlbertTransformer.forward``."""
    config = model.config
    each = config.num_hidden_layers / config.num_hidden_groups
    return [model.encoder.albert_layer_groups[int(i / each)] for i in range(config.num_hidden_layers)]


def _bert_head(model: Any, states: torch.Tensor) -> torch.Tensor:
    return model.classifier(model.dropout(model.bert.pooler(states)))  # type: ignore[no-any-return]


def _albert_head(model: Any, states: torch.Tensor) -> torch.Tensor:
    pooled = model.albert.pooler_activation(model.albert.pooler(states[:, 0]))
    return model.classifier(model.dropout(pooled))  # type: ignore[no-any-return]


def _distilbert_head(model: Any, states: torch.Tensor) -> torch.Tensor:
    return model.classifier(model.dropout(torch.relu(model.pre_classifier(states[:, 0]))))  # type: ignore[no-any-return]


def _gpt2_embed(model: Any, inputs: Batch) -> torch.Tensor:
    ids = inputs["input_ids"]
    positions = torch.arange(ids.shape[1], device=ids.device).unsqueeze(0)
    return model.drop(model.wte(ids) + model.wpe(positions))  # type: ignore[no-any-return]


def _gpt2_head(model: Any, states: torch.Tensor) -> torch.Tensor:
    return model.score(states[:, 0])  # type: ignore[no-any-return]


def _own_head(model: Any, states: torch.Tensor) -> torch.Tensor:
    return model.classifier(states)  # type: ignore[no-any-return]


ARCHITECTURES: dict[str, Architecture] = {
    "bert": Architecture(lambda m: list(m.encoder.layer), ("bert.pooler", "classifier"), _bert_head),
    "roberta": Architecture(
        # Positions start behind the padding index.
        lambda m: list(m.encoder.layer),
        ("classifier",),
        _own_head,
        output="classifier.out_proj",
        reserved_positions=lambda config: config.pad_token_id + 1,
    ),
    "distilbert": Architecture(
        lambda m: list(m.transformer.layer),
        ("pre_classifier", "classifier"),
        _distilbert_head,
        query_and_value=("q_lin", "v_lin"),
        stack=lambda m: m.transformer.layer,
    ),
    "electra": Architecture(
        lambda m: list(m.encoder.layer),
        ("classifier",),
        _own_head,
        output="classifier.out_proj",
        projection=lambda m: getattr(m, "embeddings_project", None),
    ),
    "albert": Architecture(
        _shared_layers,
        ("albert.pooler", "classifier"),
        _albert_head,
        projection=lambda m: m.encoder.embedding_hidden_mapping_in,
        stack=lambda _: None,
    ),
    "gpt2": Architecture(
        lambda m: list(m.h),
        ("score",),
        _gpt2_head,
        causal=True,
        query_and_value=("c_attn",),
        output="score",
        embeddings=lambda m: [m.wte, m.wpe, m.drop],
        embed=_gpt2_embed,
        final_norm=lambda m: m.ln_f,
        stack=lambda m: m.h,
    ),
}
"""By ``model_type`` of config.json."""


def architecture_of(config: Any) -> Architecture:
    """Return where the parts of a model lie.

    Raises:
        BadInput: an architecture that is not in the table.
    """
    kind = str(config.model_type)
    if kind not in ARCHITECTURES:
        raise BadInput(
            "ARCHITECTURE",
            f"a model of type {kind!r} cannot be fine-tuned yet{nearest(kind, ARCHITECTURES)}",
            f"known: {', '.join(ARCHITECTURES)}",
        )
    return ARCHITECTURES[kind]


class Backbone:
    """An encoder, or a decoder that is used as one, as ordered blocks.

    Args:
        encoder: a model of ``transformers`` without a task head, such as ``BertModel`` or ``GPT2Model``.
    """

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder
        self.architecture = architecture_of(encoder.config)
        self._projection = self.architecture.projection(encoder)
        self.blocks = self._blocks()
        """The modules of each block."""

    def _blocks(self) -> list[list[nn.Module]]:
        final = self.architecture.final_norm(self.encoder)
        embeddings = [*self.architecture.embeddings(self.encoder), *([self._projection] if self._projection is not None else [])]
        *lower, top = ([layer] for layer in self.architecture.layers(self.encoder))
        return [embeddings, *lower, [*top, *([final] if final is not None else [])]]

    @property
    def width(self) -> int:
        """Width of the states."""
        return int(self.encoder.config.hidden_size)

    @property
    def has_segments(self) -> bool:
        """Whether the model tells two texts apart by segment embeddings."""
        return getattr(self.encoder.config, "type_vocab_size", 0) > 1

    @property
    def names(self) -> dict[str, int]:
        """The blocks by their modules' names, such as ``encoder.layer.3`` for block 4; a shared layer names its last block."""
        found = {id(modules[0]): number for number, modules in enumerate(self.blocks)}
        return {name: found[id(module)] for name, module in self.encoder.named_modules() if id(module) in found}

    def block_number(self, layer: int | str) -> int:
        """Return the number of a block given by number, by a negative number from the last, or by its module's name.

        Raises:
            BadInput: there is no such block (the nearest name is given).
        """
        if isinstance(layer, str):
            if layer not in self.names:
                known = f"known: {', '.join(self.names)}"
                raise BadInput("NO_LAYER", f"the model has no layer {layer[:80]!r}{nearest(layer, self.names)}", known)
            return self.names[layer]
        if not -len(self.blocks) <= layer < len(self.blocks):
            known = f"0 (embeddings) to {len(self.blocks) - 1}, or -1 to {-len(self.blocks)}"
            raise BadInput("NO_LAYER", f"the model has no layer {layer}", known)
        return layer % len(self.blocks)

    def can_end_at(self, block: int) -> bool:
        """Return whether what lies above a block can be cut off: not all of it, and not what its states are normalised by."""
        return block > 0 and (self.architecture.final_norm(self.encoder) is None or block == len(self.blocks) - 1)

    def end_at(self, block: int) -> None:
        """Cut off what lies above a block; the model that is saved then ends there.

        Raises:
            BadInput: the embeddings alone, which no common library loads as a model, or a layer whose states the model would
                normalise if it ended there.
        """
        if block == 0:
            raise BadInput("NO_LAYER", "a model that ends at its embeddings cannot be published", "name layer 1 or higher")
        if not self.can_end_at(block):
            kind = self.encoder.config.model_type
            what = f"a model of type {kind!r} normalises the states of its last layer: it cannot end at layer {block}"
            raise BadInput("NO_LAYER", what, f"name layer {len(self.blocks) - 1} or leave it out")
        stack = self.architecture.stack(self.encoder)
        if stack is not None:
            del stack[block:]
        self.encoder.config.num_hidden_layers = block
        self.blocks = self._blocks()

    def parameters(self, block: int) -> list[nn.Parameter]:
        """Return the weights of one block."""
        return [parameter for module in self.blocks[block] for parameter in module.parameters()]

    def can_split(self, block: int) -> bool:
        """Whether blocks below ``block`` can be frozen and those from it trained: no weights shared across (ALBERT shares)."""
        below = {id(p) for number in range(block) for p in self.parameters(number)}
        return not any(id(p) in below for number in range(block, len(self.blocks)) for p in self.parameters(number))

    def run(self, batch: Batch, until: int | None = None) -> torch.Tensor:
        """Run blocks 0 to ``until`` (None means all) and return the state behind the last of them, (rows, length, width)."""
        last = len(self.blocks) - 1 if until is None else until
        return self._layers(self._embed(batch), batch["attention_mask"], 1, last)

    def states(self, batch: Batch, blocks: Sequence[int]) -> list[torch.Tensor]:
        """Run the model once, as far as needed, and return the states behind several blocks, each (rows, length, width)."""
        wanted, done = {}, 0
        state = self._embed(batch)
        for block in sorted(set(blocks)):
            state = self._layers(state, batch["attention_mask"], done + 1, block)
            wanted[block], done = state, block
        return [wanted[block] for block in blocks]

    def _embed(self, batch: Batch) -> torch.Tensor:
        inputs = {name: tensor for name, tensor in batch.items() if name != "attention_mask"}
        state = self.architecture.embed(self.encoder, inputs)
        if self._projection is not None:
            state = self._projection(state)
        return state

    def run_from(self, state: torch.Tensor, attention_mask: torch.Tensor, start: int) -> torch.Tensor:
        """Run the blocks from ``start`` on a stored state of block ``start - 1`` and return the last state."""
        return self._layers(state, attention_mask, start, len(self.blocks) - 1)

    def _layers(self, state: torch.Tensor, attention_mask: torch.Tensor, first: int, last: int) -> torch.Tensor:
        causal = causal_mask_function if self.architecture.causal else None
        # An accelerator has another kernel for batches without padding: a row's bits would depend on the rows beside it, and
        # looking for padding would make it wait.
        mask = create_bidirectional_mask(
            self.encoder.config,
            state,
            attention_mask,
            and_mask_function=causal,
            allow_is_bidirectional_skip=state.device.type == "cpu",
        )
        for layer, *behind in self.blocks[first : last + 1]:
            output = layer(state, attention_mask=mask)
            state = output[0] if isinstance(output, tuple) else output
            for module in behind:
                state = module(state)
        return state
