"""Loading a base model's folder: safetensors and JSON only, no code, no network, every key accounted for."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForSequenceClassification, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils import logging as library_logging

from transfer_learning.blocks import adapter_folder, base_head
from transfer_learning.blocks.backbone import architecture_of
from transfer_learning.blocks.base_tokenizer import load_tokenizer, longest_input
from transfer_learning.blocks.model_folder import PASSPORT
from transfer_learning.blocks.safe_loading import check_configs, check_files, check_keys, count_weights
from transfer_learning.errors import BadInput, is_out_of_memory, one_line
from transfer_learning.model_files import holds_adapters, no_safetensors

LONGEST_SHOWN = 5

SLACK = 1_000_000
"""Weights that a config may describe beyond twice those of the files, before anything is allocated."""


@dataclasses.dataclass(frozen=True, slots=True)
class Base:
    """A base model in memory."""

    model: Any
    """``AutoModelForSequenceClassification`` for the architecture's head, else ``AutoModel``."""
    tokenizer: Any
    max_length: int
    """The longest input in tokens that model and tokenizer can, a multiple of 8."""
    head_labels: list[str]
    """The labels, in order, whose weights the base's own trained head brings; empty for a new head."""


def load_base(folder: Path, labels: list[str], pooling: str, seed: int, *, new_head: bool = False) -> Base:
    """Load a base model in fp32 on the CPU.

    Order of initialisation:
    1. a checkpoint of this very job, loaded over what this function returns (``checkpoint.py``);
    2. the base model: every weight it has, and those of its head for the labels that it knows by name;
    3. from scratch, from ``seed``: the head's weights for new labels, or the whole head, and nothing else. Where all of them
       are wanted from scratch (``FineTuneSpec.init_from``), ``untrained`` takes the place of this function.

    Args:
        folder: with config.json, safetensors weights and tokenizer files; or with adapters and the folder of their base, which
            are loaded as the merged model.
        labels: label names in order.
        pooling: ``architecture`` or a pooling of the last states.
        seed: of a fresh head.
        new_head: throw the base's own head away also where it knows a label by name; a pooler stays.

    Raises:
        BadInput: pickled or damaged weights, NaN weights, code in a config, keys that do not fit, a tokenizer that does not fit.
    """
    config = read_config(folder)
    check_files(folder)
    check_weights(folder)
    quiet_library()
    known = [] if new_head else labels_of(config)
    model, head_labels = _load_model(folder, config, labels, known, pooling, seed)
    return _with_tokenizer(folder, model, head_labels)


def untrained(folder: Path, seed: int, labels: Sequence[str] = (), pooling: str = "mean") -> Base:
    """Return a base model's architecture and tokenizer with random weights, drawn from ``seed`` as the architecture does.

    Args:
        folder: as of ``load_base``; no tensor of it is read.
        seed: of every weight.
        labels: as of ``load_base``.
        pooling: as of ``load_base``.

    Raises:
        BadInput: as ``load_base``.
    """
    config = read_config(folder)
    check_files(folder)
    _set_labels(config, labels)
    loader = _loader(pooling)
    _refuse_inflated(loader, config, adapter_folder.weights_of(folder), base_head.is_head)
    torch.manual_seed(seed)
    return _with_tokenizer(folder, loader.from_config(config, dtype=torch.float32), [])


def _with_tokenizer(folder: Path, model: Any, head_labels: list[str]) -> Base:
    architecture = architecture_of(model.config)
    tokenizer = load_tokenizer(folder, model, pads_with_end=architecture.causal)
    if architecture.causal:
        # By these the library's own forward finds a row's last token.
        model.config.pad_token_id, tokenizer.padding_side = tokenizer.pad_token_id, "right"
    return Base(model, tokenizer, longest_input(model, tokenizer, architecture.reserved_positions(model.config)), head_labels)


def quiet_library() -> None:
    """Let the library keep its own report of the keys: every one is accounted for here."""
    library_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    library_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def read_config(folder: Path) -> Any:
    """Return the configuration of a model that can be used as an encoder.

    Raises:
        BadInput: as ``read_any_config``, or an architecture we do not have.
    """
    config = read_any_config(folder)
    architecture_of(config)
    if getattr(config, "is_decoder", False):
        raise BadInput("ARCHITECTURE", "the model is set up as a decoder", "use an encoder", file=folder / "config.json")
    return config


def read_any_config(folder: Path) -> Any:
    """Return the model's configuration, read without running anything: only what the architecture's own class knows is kept.

    Raises:
        BadInput: no config.json, one that asks for code, or a model that is unknown to transformers.
    """
    if holds_adapters(folder):
        check_keys(folder)
        config = read_any_config(adapter_folder.base_of(folder))
        config.id2label = dict(enumerate(adapter_folder.labels_of(folder / PASSPORT)))
        return config
    values = check_configs(folder)
    kind = str(values.get("model_type"))
    if kind not in CONFIG_MAPPING:
        what = f"model_type {kind[:80]!r} is not known to transformers {transformers.__version__}"
        raise BadInput("ARCHITECTURE", what, "use a known model", file=folder / "config.json")
    try:
        known = CONFIG_MAPPING[kind]
        names = {*known().to_dict(), *known.attribute_map, "num_labels"}
        return known.from_dict({name: value for name, value in values.items() if name in names})
    except Exception as error:
        raise BadInput(
            "BAD_CONFIG", f"cannot be used: {_brief(error)}", "copy the model again", file=folder / "config.json"
        ) from None


def check_weights(folder: Path) -> None:
    """Check that the weights are whole, finite safetensors.

    Raises:
        BadInput: only pickled weights, a damaged file, or NaN or infinity in a tensor.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise no_safetensors(folder)
    for path in files:
        try:
            with safe_open(path, "pt") as weights:
                for name in weights.keys():  # noqa: SIM118 - not a dict
                    tensor = weights.get_tensor(name)
                    if not tensor.is_floating_point() or not tensor.numel():
                        continue
                    # As it will be used. Both ends are NaN where any number is: one pass, where isfinite of each writes copies.
                    if not torch.isfinite(torch.stack(torch.aminmax(tensor.float()))).all():
                        raise BadInput("BAD_WEIGHTS", f"tensor {name!r} holds NaN or infinity", "use another copy", file=path)
        except (SafetensorError, OSError, ValueError) as error:
            raise BadInput(
                "BAD_WEIGHTS", f"not a whole safetensors file: {one_line(str(error))[:200]}", "copy it again", file=path
            ) from None


def _load_model(folder: Path, config: Any, labels: list[str], known: list[str], pooling: str, seed: int) -> tuple[Any, list[str]]:
    _set_labels(config, labels)
    wants_head = pooling == "architecture"
    model, report = load_weights(_loader(pooling), folder, config, seed, base_head.is_head)
    fresh = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    if not wants_head or (known == labels and not fresh):
        return model, labels if wants_head else []
    output = architecture_of(config).output
    shared = [label for label in labels if label in known]
    inner = {key for key in fresh if not key.startswith(f"{output}.")}
    if shared and not inner and f"{output}.weight" not in report["missing_keys"]:
        base_head.grow(model, folder, output, known, labels, seed)
        return model, shared
    base_head.start(model, seed, pretrained_pooler=not any("pooler" in key for key in fresh))
    return model, []


def labels_of(config: Any) -> list[str]:
    """Return the labels of a model's head, in the order of its outputs."""
    return [str(config.id2label[number]) for number in range(config.num_labels)]


def _set_labels(config: Any, labels: Sequence[str]) -> None:
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
    config.problem_type = "single_label_classification"


def _loader(pooling: str) -> Any:
    return AutoModelForSequenceClassification if pooling == "architecture" else AutoModel


def load_weights(
    loader: Any, folder: Path, config: Any, seed: int, is_head: Callable[[str, Any], bool]
) -> tuple[Any, dict[str, Any]]:
    """Return a model in fp32 on the CPU, and the library's report of its keys.

    Args:
        loader: one of the library's ``AutoModel…`` classes.
        folder: of the base model, whose files were checked.
        config: its configuration.
        seed: of the weights that the files lack.
        is_head: (key, model) -> whether a key belongs to a head: only such keys may be missing or of another shape.

    Raises:
        BadInput: a config that describes another model than the files hold, or keys that do not fit.
    """
    if holds_adapters(folder):
        return _load_adapted(loader, folder, config, seed, is_head)
    _refuse_inflated(loader, config, folder, is_head)
    torch.manual_seed(seed)
    try:
        model, report = _load_by_name(loader, folder, config) or loader.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise BadInput("BAD_WEIGHTS", f"cannot be loaded: {_brief(error)}", "check the folder", file=folder) from None
    _account_for_keys(folder, model, report, is_head)
    return model, report


def _load_by_name(loader: Any, folder: Path, config: Any) -> tuple[Any, dict[str, Any]] | None:
    """Return a model whose weights are what the files hold, by its own names, and the report; None where that is not so.

    The library's way gives the same model, and first prepares to rename what the older files of every architecture hold.
    """
    single, index = folder / SAFE_WEIGHTS_NAME, folder / SAFE_WEIGHTS_INDEX_NAME
    names = [single.name] if single.exists() else sorted(set(json.loads(index.read_text())["weight_map"].values()))
    stored = {key: tensor for name in names for key, tensor in load_file(folder / name).items()}
    with no_init_weights():
        model = loader.from_config(copy.deepcopy(config), dtype=torch.float32)
    own = model.state_dict()
    others = stored.keys() - own.keys() - dict(model.named_buffers()).keys()  # older files hold constants too
    fits = all(key in stored and stored[key].shape == weight.shape for key, weight in own.items())
    if others or not fits or model.all_tied_weights_keys:
        return None
    model.load_state_dict({key: stored[key].to(weight.dtype) for key, weight in own.items()}, assign=True)
    return model.eval(), {"missing_keys": set(), "mismatched_keys": set(), "unexpected_keys": set()}


def _load_adapted(
    loader: Any, folder: Path, config: Any, seed: int, is_head: Callable[[str, Any], bool]
) -> tuple[Any, dict[str, Any]]:
    """Return the base with a folder's adapters merged into it, and the report that the merged model's own files would get."""
    base = adapter_folder.base_of(folder)
    check_files(base)
    check_weights(base)
    model, report = load_weights(loader, base, config, seed, is_head)
    head, own = adapter_folder.merge(folder, model), dict(model.named_parameters())
    rows, labels = head.get(f"{architecture_of(config).output}.weight"), adapter_folder.labels_of(folder / PASSPORT)
    if rows is not None and rows[0] != len(labels):
        what = f"the head has {rows[0]} rows of weights, and passport.json names {len(labels)} labels"
        raise BadInput("NO_HEAD", what, "publish the model again", file=folder)
    other_shape = [(name, shape, tuple(own[name].shape)) for name, shape in head.items() if shape != tuple(own[name].shape)]
    report["missing_keys"] = {key for key in report["missing_keys"] if key not in head}
    report["mismatched_keys"] = [entry for entry in report["mismatched_keys"] if entry[0] not in head] + other_shape
    return model, report


def _refuse_inflated(loader: Any, config: Any, folder: Path, is_head: Callable[[str, Any], bool]) -> None:
    """Refuse a config that describes far more weights than there are: what the files lack would be allocated all the same."""
    try:
        with torch.device("meta"):
            model = loader.from_config(config)
        described = sum(tensor.numel() for name, tensor in model.state_dict().items() if not is_head(name, model))
    except Exception as error:
        what = f"describes no model: {_brief(error)}"
        raise BadInput("BAD_CONFIG", what, "copy the model again", file=folder / "config.json") from None
    held = count_weights(folder)
    if described > 2 * held + SLACK:
        what = f"config.json describes {described:,} weights, and the files hold {held:,}"
        raise BadInput("WRONG_KEYS", what, "use weights and config.json of the same model", file=folder)


def _account_for_keys(folder: Path, model: PreTrainedModel, report: dict[str, Any], is_head: Callable[[str, Any], bool]) -> None:
    """Refuse a base that lacks or contradicts any weight outside the heads: only head keys may differ."""
    prefix = f"{model.base_model_prefix}."
    own = set(model.state_dict())
    missing = {key for key in report["missing_keys"] if not is_head(key, model)}
    wrong = {str(key) for key, *_ in report["mismatched_keys"] if not is_head(str(key), model)}
    # A pretraining head that is left behind is no fault; encoder weights that find no place are.
    inner = {key.removeprefix(prefix).split(".")[0] for key in own if not is_head(key, model)}
    lost = {k for k in report["unexpected_keys"] if k.removeprefix(prefix).split(".")[0] in inner and "position_ids" not in k}
    faults = [
        f"{len(keys)} {what} ({', '.join(sorted(keys)[:LONGEST_SHOWN])}{', ...' if len(keys) > LONGEST_SHOWN else ''})"
        for what, keys in (("missing", missing), ("of another shape", wrong), ("without a place", lost))
        if keys
    ]
    if faults:
        raise BadInput(
            "WRONG_KEYS",
            f"the weights do not fit the architecture {type(model).__name__}: {'; '.join(faults)}",
            "use weights and config.json of the same model",
            file=folder,
        )


def _brief(error: Exception) -> str:
    return f"{type(error).__name__} {one_line(str(error))[:200]}"
