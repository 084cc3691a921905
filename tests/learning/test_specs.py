"""Specs are complete and checked when built, and every mistake is one line."""

import dataclasses
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer_learning import specs
from transfer_learning.errors import BadInput
from transfer_learning.settings import Settings, canonical_json
from transfer_learning.specs import (
    EvaluateSpec,
    FeatureSpec,
    FineTuneSpec,
    Gate,
    PretrainSpec,
    PullSpec,
    SplitSpec,
    TaskSpec,
    check_name,
    duration,
)

PULL = {"name": "news", "source": "s3://bucket/*.csv"}


@pytest.mark.parametrize(
    ("build", "line"),
    [
        (lambda: PullSpec.from_dict({**PULL, "nmae": 1}), "UNKNOWN_SETTING PullSpec has no setting 'nmae'; did you mean 'name'?"),
        (lambda: PullSpec.from_dict({"source": "x"}), "MISSING_SETTING PullSpec needs name"),
        (lambda: PullSpec.from_dict("news"), "BAD_SETTING PullSpec is built from a dict, found str"),
        (lambda: PullSpec(name="news"), "BAD_SETTING PullSpec needs source or split_sources, and not both"),
        (lambda: PullSpec(**PULL, split={"key": "id"}), "BAD_SETTING split.key='id' needs the column task.id — set task.id"),
        (
            lambda: PullSpec(**PULL, task=TaskSpec(group="story")),
            "BAD_SETTING split.key='content' would tear apart the groups of column 'story'"
            " — set split.key='group', with reset_split where the dataset stands, or leave task.group out",
        ),
        (lambda: PullSpec(**PULL, split={"key": "given"}), "needs split.column or split_sources"),
        (lambda: PullSpec(**PULL, window="P7D"), "BAD_SETTING PullSpec.window needs the column task.time — set task.time"),
        (lambda: PullSpec(name="news", source="sql://db"), "a sql:// source and PullSpec.query go together"),
        (lambda: PullSpec(name="news", source=" "), "BAD_SETTING a source of PullSpec is empty — name a file"),
        (lambda: PullSpec(name="news", source=()), "BAD_SETTING a source of PullSpec is empty"),
        (lambda: PullSpec(name="news", split_sources={}, split={"key": "given"}), "BAD_SETTING a source of PullSpec is empty"),
        (lambda: TaskSpec(label=""), "BAD_SETTING TaskSpec.text and TaskSpec.label must name a column"),
        (
            lambda: TaskSpec(text_pair=""),
            "BAD_SETTING TaskSpec.text_pair is empty, and must name a column — leave it out",
        ),
        (lambda: TaskSpec(id=""), "BAD_SETTING TaskSpec.id is empty, and must name a column — leave it out"),
        (lambda: TaskSpec(group=""), "BAD_SETTING TaskSpec.group is empty, and must name a column — leave it out"),
        (lambda: TaskSpec(time=""), "BAD_SETTING TaskSpec.time is empty, and must name a column — leave it out"),
        (
            lambda: TaskSpec(slices=("desk", "")),
            "BAD_SETTING TaskSpec.slices[1] is empty, and must name a column — leave it out",
        ),
        (
            lambda: EvaluateSpec(slices=("",)),
            "BAD_SETTING EvaluateSpec.slices[0] is empty, and must name a column — leave it out",
        ),
        (
            lambda: PullSpec(name="books", source="a.csv", task=TaskSpec(label=None)),
            "BAD_SETTING task.label is None, so no row has a label, and unlabelled is 'refuse' — set unlabelled='keep'",
        ),
        (lambda: TaskSpec(text="desk", label="desk"), "BAD_SETTING TaskSpec.label is 'desk', which is a text too"),
        (lambda: SplitSpec(test=0.7, validation=0.4), "leave no row to train on — lower one of them"),
        (lambda: SplitSpec(key="time"), "a split by time needs SplitSpec.test_period — write test_period='P7D'"),
        (lambda: SplitSpec(test_period="P7D"), "periods belong to a split by time, and SplitSpec.key is 'content'"),
        (
            lambda: FineTuneSpec(strategy="ful"),
            "'probe_then_fine_tune', 'top_layers', 'gradual_unfreeze', 'lora', 'auto'; did you mean 'full'?",
        ),
        (lambda: FineTuneSpec(epochs="3"), "BAD_SETTING FineTuneSpec.epochs must be a whole number, found '3'"),
        (lambda: FineTuneSpec(epochs=True), "BAD_SETTING FineTuneSpec.epochs must be a whole number, found 'True'"),
        (
            lambda: FineTuneSpec(backbone_lr=float("nan")),
            "BAD_SETTING FineTuneSpec.backbone_lr must be a finite number, found 'nan'",
        ),
        (lambda: FineTuneSpec(layer=1.5), "BAD_SETTING FineTuneSpec.layer must be a whole number or text, found '1.5'"),
        (
            lambda: FineTuneSpec(layer_decay="discriminate"),
            "FineTuneSpec.layer_decay must be a number or one of 'discriminative'; did you mean 'discriminative'?, found 'discriminate'",
        ),
        (lambda: FeatureSpec(layers=(None,)), "BAD_SETTING FeatureSpec.layers[0] must be a whole number or text, found 'None'"),
        (lambda: FineTuneSpec(epochs=0), "BAD_SETTING FineTuneSpec.epochs must be above 0, found 0"),
        (
            lambda: FineTuneSpec(seed=2**32),
            "BAD_SETTING FineTuneSpec.seed must lie between 0 and 4294967295, found 4294967296",
        ),
        (lambda: FineTuneSpec(seed=2**63), "BAD_SETTING FineTuneSpec.seed needs more than 64 bits — write a smaller number"),
        (lambda: FineTuneSpec(replay=10**400), "BAD_SETTING FineTuneSpec.replay needs more than 64 bits"),
        (lambda: FineTuneSpec(strategy=10**5000), "BAD_SETTING FineTuneSpec.strategy needs more than 64 bits"),
        (lambda: FineTuneSpec(layer=-(10**30)), "BAD_SETTING FineTuneSpec.layer needs more than 64 bits"),
        (lambda: Gate(floors={"accuracy": 5}), "BAD_SETTING Gate.floors['accuracy'] must lie between 0 and 1, found 5.0"),
        (lambda: Gate(floors={"macro_f1": -1}), "BAD_SETTING Gate.floors['macro_f1'] must lie between 0 and 1, found -1.0"),
        (lambda: Gate(floors={"accuracy": 10**400}), "BAD_SETTING Gate.floors['accuracy'] needs more than 64 bits"),
        (lambda: FeatureSpec(shard=(2, 10**30)), "BAD_SETTING FeatureSpec.shard[1] needs more than 64 bits"),
        (
            lambda: PullSpec(**PULL, reset_split="\ud800"),
            "BAD_SETTING PullSpec.reset_split holds half a surrogate pair — write the text again",
        ),
        (lambda: TaskSpec(slices=("\udfff",)), "BAD_SETTING TaskSpec.slices[0] holds half a surrogate pair"),
        (
            lambda: PullSpec(**PULL, memory_limit_mb=2**43),
            "BAD_SETTING PullSpec.memory_limit_mb must lie between 256 and 2147483647, found 8796093022208",
        ),
        (
            lambda: PullSpec(**PULL, cpu_limit_seconds=2**62),
            "BAD_SETTING PullSpec.cpu_limit_seconds must lie between 1 and 2147483647, found 4611686018427387904",
        ),
        (lambda: PullSpec(**PULL, cpu_limit_seconds=0), "BAD_SETTING PullSpec.cpu_limit_seconds must lie between 1 and "),
        (lambda: EvaluateSpec(seed=-1), "BAD_SETTING EvaluateSpec.seed must lie between 0 and 4294967295, found -1"),
        (
            lambda: FineTuneSpec(unfreeze_blocks=2),
            "BAD_SETTING unfreeze_blocks does not apply to strategy 'full' — use 'top_layers'",
        ),
        (
            lambda: FineTuneSpec(strategy="linear_probe", unfreeze_blocks=2),
            "unfreeze_blocks does not apply to strategy 'linear_probe'",
        ),
        (lambda: FineTuneSpec(strategy="top_layers"), "trains the head and the top blocks — set unfreeze_blocks"),
        (lambda: FineTuneSpec(head_epochs=2), "strategy 'full' has no phase for the head alone"),
        (
            lambda: FineTuneSpec(strategy="top_layers", unfreeze_blocks=1, head_epochs=2),
            "strategy 'top_layers' has no phase for the head alone",
        ),
        (
            lambda: FineTuneSpec(strategy="auto", layer=2, classifier="linear_svm"),
            "BAD_SETTING only strategy 'linear_probe' takes layer and classifier, and the strategy is 'auto'",
        ),
        (
            lambda: FineTuneSpec(strategy="auto", init_from="scratch"),
            "strategy 'auto' measures what the base has learned, and init_from is 'scratch', which leaves that out — name",
        ),
        (lambda: FineTuneSpec(strategy="auto", lora_rank=4), "only strategy 'lora' takes lora_rank, and the strategy is 'auto'"),
        (lambda: FineTuneSpec(strategy="auto", unfreeze_blocks=2), "unfreeze_blocks does not apply to strategy 'auto' — use"),
        (
            lambda: FineTuneSpec(strategy="auto", head_epochs=2),
            "strategy 'auto' may choose one without a phase for the head alone: head_epochs does not apply",
        ),
        (lambda: FineTuneSpec(strategy="linear_probe", epochs=2), "a linear_probe trains no backbone: epochs cannot apply"),
        (
            lambda: FineTuneSpec(strategy="linear_probe", backbone_lr=1e-3, layer_decay=0.9, schedule="slanted_triangular"),
            "backbone_lr and layer_decay and schedule cannot apply",
        ),
        (lambda: FineTuneSpec(layer_decay=2.6), "at most 1, found 2.6 — a rate divided by 2.6 is layer_decay='discriminative'"),
        (lambda: FineTuneSpec(layer_decay="discriminatory"), "one of 'discriminative'; did you mean 'discriminative'?"),
        (lambda: FineTuneSpec(lora_rank=4), "BAD_SETTING only strategy 'lora' takes lora_rank, and the strategy is 'full'"),
        (lambda: FineTuneSpec(lora_merge=False), "BAD_SETTING only strategy 'lora' takes lora_merge, and the strategy is 'full'"),
        (
            lambda: FineTuneSpec(strategy="lora", lora_merge=False, pooling="mean"),
            "BAD_SETTING with lora_merge=False the head is the one that peft loads, the architecture's, and pooling is 'mean' — leave",
        ),
        (lambda: FineTuneSpec(strategy="lora", lora_rank=0), "BAD_SETTING FineTuneSpec.lora_rank must be above 0, found 0"),
        (lambda: FineTuneSpec(schedule="triangular"), "must be one of 'linear', 'slanted_triangular'"),
        (
            lambda: FineTuneSpec(layer=2, normalize=True),
            "BAD_SETTING only strategy 'linear_probe' takes layer and normalize, and the strategy is 'full'",
        ),
        (
            lambda: FineTuneSpec(strategy="linear_probe", classifier="linear_svm", head_lr=1e-3, head_epochs=5),
            "BAD_SETTING a linear_svm is fitted until it converges: head_epochs and head_lr cannot apply — leave them out, or take",
        ),
        (
            lambda: FineTuneSpec(
                strategy="linear_probe", pooling="architecture", classifier="linear_svm", normalize=True, layer=2
            ),
            "BAD_SETTING with pooling='architecture' the model's own head trains, which takes no layer and no normalize and no classifier",
        ),
        (
            lambda: PretrainSpec(architecture="gpt2"),
            "ARCHITECTURE 'gpt2' does not support the objective 'masked_lm' — masked_lm is learned by bert, roberta, distilbert,",
        ),
        (
            lambda: PretrainSpec(objective="causal_lm", architecture="bert"),
            "— causal_lm is learned by gpt2; masked_lm is learned by bert",
        ),
        (lambda: PretrainSpec(architecture="bert", size="bse"), "bert has no size 'bse'; did you mean 'base'?"),
        (
            lambda: PretrainSpec(size="base", layers=2),
            "BAD_SETTING size, layers belong to a model from scratch, and this one is not",
        ),
        (lambda: PretrainSpec(tokenizer="base"), "BAD_SETTING tokenizer belong to a model from scratch, and this one is not"),
        (
            lambda: PretrainSpec(architecture="bert", tokenizer="base", vocab_size=100),
            "BAD_SETTING vocab_size belongs to a tokenizer that is trained",
        ),
        (lambda: PretrainSpec(architecture="bert", head_lr=1e-3), "head_lr belong to a model continued from a base"),
        (lambda: PretrainSpec(architecture="bert", heads=3), "BAD_SETTING a width of 128 cannot be cut into 3 attention heads"),
        (lambda: PretrainSpec(architecture="roberta", vocab_size=100), "the tokenizer of roberta has 261 at least"),
        (lambda: PretrainSpec(masked_share=1.0), "BAD_SETTING PretrainSpec.masked_share must lie between 0 and 1, found 1.0"),
        (lambda: PretrainSpec(objective="causal_lm", masked_share=0.2), "masked_share belongs to 'masked_lm'"),
        (lambda: PretrainSpec(objective="supervised", masked_share=0.2), "and the objective is 'supervised'"),
        (lambda: PretrainSpec(objective="supervised", sentences="next_sentence"), "sentences belongs to 'masked_lm'"),
        (
            lambda: PretrainSpec(objective="supervised", head_lr=1e-3, head_epochs=1),
            "BAD_SETTING head_epochs, head_lr belong to a head that trains alone first",
        ),
        (
            lambda: PretrainSpec(architecture="electra", sentences="sentence_order"),
            "ARCHITECTURE 'electra' does not support 'sentence_order' — it is learned by bert, albert",
        ),
        (
            lambda: PretrainSpec(objective="replaced_token", architecture="bert"),
            "'bert' does not support the objective 'replaced_token' — replaced_token is learned by electra; masked_lm is",
        ),
        (lambda: PretrainSpec(objective="causal_lm", sentences="next_sentence"), "sentences belongs to 'masked_lm'"),
        (lambda: PretrainSpec(epochs=0), "BAD_SETTING PretrainSpec.epochs must be above 0, found 0"),
        (lambda: Gate(floors={"acuracy": 0.9}), "Gate.floors has no metric 'acuracy'"),
        (lambda: Gate(slice_margin=-0.01), "BAD_SETTING Gate.slice_margin must be at least 0 and below 1, found -0.01"),
        (lambda: Gate(confidence=1.0), "Gate.confidence must lie between 0 and 1"),
        (lambda: EvaluateSpec(gate={"margn": 1}), "UNKNOWN_SETTING Gate has no setting 'margn'; did you mean 'margin'?"),
        (lambda: EvaluateSpec(alias="../x"), "BAD_NAME alias '../x' is not allowed"),
    ],
)
def test_a_mistake_in_a_spec_is_one_line(build, line):
    with pytest.raises(BadInput) as caught:
        build()

    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spec",
    [
        PullSpec(**PULL),
        FineTuneSpec(task=TaskSpec(slices=("desk",))),
        PretrainSpec(),
        EvaluateSpec(),
        Gate(floors={"accuracy": 0.9}),
    ],
)
def test_a_spec_survives_the_way_through_json(spec):
    values = spec.to_dict()

    assert type(spec).from_dict(values) == spec
    assert canonical_json(type(spec).from_dict(values).to_dict()) == canonical_json(values)


def test_only_fields_that_differ_from_their_defaults_are_canonical():
    spec = FineTuneSpec(seed=3, micro_batch=2, strategy="full", task=TaskSpec(text="headline"))

    assert spec.canonical() == {"seed": 3, "task": {"text": "headline"}}


def test_a_form_overrides_single_settings_of_nested_specs():
    spec = EvaluateSpec(gate=Gate(margin=0.01, floors={"accuracy": 0.9}))

    merged = spec.merged({"gate": {"margin": 0.05}, "seed": 4})

    assert (merged.gate.margin, merged.gate.floors, merged.seed) == (0.05, {"accuracy": 0.9}, 4)
    assert spec.gate.margin == 0.01


def test_a_form_that_was_left_empty_changes_nothing():
    spec = EvaluateSpec(gate=Gate(floors={"accuracy": 0.9}))

    assert spec.merged({"gate": {"floors": {}}}) == spec
    assert spec.merged({"gate": {"floors": {"macro_f1": 0.8}}}).gate.floors == {"accuracy": 0.9, "macro_f1": 0.8}
    assert FineTuneSpec().merged({"task": {}}) == FineTuneSpec()
    assert spec.merged({"gate": {"floors": {"accuracy": 0.7}}}).gate.floors == {"accuracy": 0.7}


def test_every_setting_is_described():
    for spec in [s for s in vars(specs).values() if isinstance(s, type) and issubclass(s, Settings) and s is not Settings]:
        source = __import__("inspect").getsource(spec)
        for field in dataclasses.fields(spec):
            line = next(i for i, text in enumerate(source.splitlines()) if text.strip().startswith(f"{field.name}:"))
            assert source.splitlines()[line + 1].strip().startswith('"""'), f"{spec.__name__}.{field.name}"


@pytest.mark.parametrize("name", ["news", "bbc-headlines", "a.b_c-9", "0"])
def test_plain_names_are_allowed(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a//b",
        "%2e%2e",
        "a#b",
        "a\x00b",
        "A",
        "ａ",
        "nеws",
        "a..b",
        "x" * 64,
        "news\n",
        "-a",
        " a",
        "a\\b",
    ],
)
def test_names_that_could_leave_the_root_are_refused(name):
    with pytest.raises(BadInput, match="^BAD_NAME"):
        check_name(name)


@given(st.text(max_size=80))
def test_no_allowed_name_holds_anything_but_plain_characters(name):
    try:
        check_name(name)
    except BadInput:
        return
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
    assert ".." not in name


def test_durations_are_weeks_days_hours_minutes_and_seconds():
    assert duration("P1W2DT3H4M5S") == timedelta(weeks=1, days=2, hours=3, minutes=4, seconds=5)


@pytest.mark.parametrize("text", ["", "P", "P1M", "P1Y", "7", "P0D", "PT", "-P1D", "P1D "])
def test_durations_of_no_fixed_length_are_refused(text):
    with pytest.raises(BadInput, match="ISO 8601 duration"):
        duration(text)


@pytest.mark.parametrize("text", ["P36526D", "P99999999999W", f"PT{'9' * 5000}S"])
def test_durations_beyond_the_calendar_are_refused(text):
    with pytest.raises(BadInput, match="longer than a hundred years"):
        duration(text)
