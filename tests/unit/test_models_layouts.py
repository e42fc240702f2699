"""Decoders of many layouts: parts found by name, writers by value; what cannot be taken apart is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from family_checks import check_own_words, check_prefix, check_restart, random_direction
from tiny_models import tiny_tokenizer
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from vlmdiff.activations.tokens import TEXT
from vlmdiff.config.new import look_at_checkpoint
from vlmdiff.heads.head_values import head_values
from vlmdiff.interventions.feature_ablation import plan_ablation
from vlmdiff.models.checks import check_states
from vlmdiff.models.errors import LayoutError
from vlmdiff.models.hooks import edit_input, record_inputs, record_outputs
from vlmdiff.models.layout import verified
from vlmdiff.models.prefix import read_prefix
from vlmdiff.models.registry import check_parts, load_subject

CLOSE = {"atol": 2e-5, "rtol": 1e-4}
PROMPTS = ["the red circle is left of the blue square .", "what colour is the circle ?"]
VOCABULARY = len(tiny_tokenizer())
# Older configurations have their own names for the sizes.
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
OPT = {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "init_std": 0.2}
FALCON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {"new_decoder_architecture": True, "num_kv_heads": 2}
NEO = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]}
MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
# model_type, its values, and the names of what adds to the residual stream.
CASES = {
    "gpt2": ("gpt2", GPT2, ("attn", "mlp")),
    "gpt2 scaled": ("gpt2", GPT2 | {"scale_attn_by_inverse_layer_idx": True}, ("attn", "mlp")),
    "gptj": ("gptj", GPT2 | {"rotary_dim": 4}, ("attn", "mlp")),
    "gpt_neo": ("gpt_neo", NEO, ("attn.attention", "mlp")),
    "gpt_neox": ("gpt_neox", LLAMA, ("attention", "mlp")),
    "gpt_neox in turn": ("gpt_neox", LLAMA | {"use_parallel_residual": False}, ("attention", "mlp")),
    "opt": ("opt", OPT | {"word_embed_proj_dim": 32}, ("self_attn", "fc2")),
    "falcon": ("falcon", FALCON | {"parallel_attn": True}, ("self_attention", "mlp")),
    "falcon alibi": ("falcon", FALCON | {"parallel_attn": False, "alibi": True}, ("self_attention", "mlp")),
    "falcon grouped": ("falcon", FALCON | GROUPED, ("self_attention", "mlp")),
    "bloom": ("bloom", FALCON, ("self_attention.dense", "mlp.dense_4h_to_h")),
    "mpt": ("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2}, ("attn.out_proj", "ffn.down_proj")),
    "phi": ("phi", LLAMA, ("self_attn", "mlp")),
    "phi normalised": ("phi", LLAMA | {"qk_layernorm": True}, ("self_attn", "mlp")),
    "phi3": ("phi3", LLAMA, ("self_attn", "mlp")),
    "mistral": ("mistral", LLAMA, ("self_attn", "mlp")),
    "qwen2": ("qwen2", LLAMA, ("self_attn", "mlp")),
    "qwen3": ("qwen3", LLAMA | {"head_dim": 16}, ("self_attn", "mlp")),
    "smollm3": ("smollm3", LLAMA, ("self_attn", "mlp")),
    "mixture": ("qwen3_moe", LLAMA | MIXTURE, ("self_attn", "mlp")),
    "olmo2": ("olmo2", LLAMA, ("post_attention_layernorm", "post_feedforward_layernorm")),
    "gemma2": (
        "gemma2",
        LLAMA | {"head_dim": 16},
        ("post_attention_layernorm", "post_feedforward_layernorm"),
    ),
    "gemma3": (
        "gemma3_text",
        LLAMA | {"head_dim": 16},
        ("post_attention_layernorm", "post_feedforward_layernorm"),
    ),
    "glm4": ("glm4", LLAMA | {"head_dim": 8}, ("post_self_attn_layernorm", "post_mlp_layernorm")),
    "stablelm": ("stablelm", LLAMA | {"use_parallel_residual": True}, ("self_attn", "mlp")),
    "stablelm in turn": (
        "stablelm",
        LLAMA | {"use_parallel_residual": False, "qk_layernorm": True},
        ("self_attn", "mlp"),
    ),
    "cohere": ("cohere", LLAMA | {"logit_scale": 0.25}, ("self_attn", "mlp")),
    "granite": (
        "granite",
        LLAMA | {"residual_multiplier": 0.22, "logits_scaling": 6.0},
        ("self_attn", "mlp"),
    ),
}


def build(folder: Path, kind: str, values: dict) -> Path:
    """Save a random model, its norms stirred so that none can stand in for another, with a tokenizer."""
    config = AutoConfig.for_model(kind, **{"vocab_size": VOCABULARY, "initializer_range": 0.2, **values})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for name, parameter in model.named_parameters():
            if any(word in name for word in ("norm", "ln_")):
                nn.init.normal_(parameter, mean=0.8, std=0.2)
            elif name.endswith("bias"):
                nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def load(folder: Path):
    return load_subject("lm", {"family": "causal_lm", "attention": "eager"}, folder, "cpu")


@pytest.fixture(params=sorted(CASES))
def case(request, tmp_path):
    kind, values, writers = CASES[request.param]
    return load(build(tmp_path, kind, values)), writers


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "gemma3_text"])
def test_a_window_ends_where_it_does_in_a_whole_run(tmp_path, kind):
    """The window of four tokens reaches into the prefix, or begins behind it."""
    subject = load(build(tmp_path, kind, LLAMA | {"sliding_window": 4, "head_dim": 8}))
    wide = load(build(tmp_path / "wide", kind, LLAMA | {"sliding_window": 64, "head_dim": 8}))
    batch = subject.prepare(PROMPTS, [None, None], as_chat=False)
    logits = subject.final_logits(batch)
    assert not torch.allclose(logits, wide.final_logits(batch), atol=1e-3)
    for length in range(1, int(batch.last.min())):
        found = subject.final_logits(batch, past=read_prefix(subject, batch, length).past())
        torch.testing.assert_close(found, logits, **CLOSE)


def test_every_part_of_a_decoder_is_where_the_method_reads_it(case):
    """Residuals, logits, writers, heads, restart and ablation, by transformers' own values."""
    subject, writers = case
    batch = subject.prepare(PROMPTS, [None, None], as_chat=False)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    output = subject.model(**inputs, output_hidden_states=True, output_attentions=True, use_cache=True)
    residuals = subject.residuals(batch, [0, 1])
    real = batch.attention_mask.bool()
    torch.testing.assert_close(residuals[0][real], output.hidden_states[1][real], **CLOSE)
    torch.testing.assert_close(subject.norm(residuals[1])[real], output.hidden_states[2][real], **CLOSE)
    expected = output.logits[torch.arange(2), batch.last]
    torch.testing.assert_close(subject.final_logits(batch), expected, **CLOSE)
    assert subject.layout.writers == writers
    check_sum(subject, batch)
    check_head_slices(subject, batch)
    check_heads_of_class(subject, batch, output)
    check_words(subject, batch)
    check_restart(subject, batch)
    check_prefix(subject, batch)
    check_writers_are_ablated(subject, batch)
    check_ablation_of_blocks(subject, batch)


def check_sum(subject, batch) -> None:
    """What a block puts out is what entered it, and what its writers put out."""
    scale = getattr(subject.model.config, "residual_multiplier", 1.0)
    attention, mlp = subject.writers(1)
    clone = torch.clone
    with record_outputs({0: attention, 1: mlp}, clone) as parts, record_inputs({0: subject.block(1)}) as into:
        leaving = subject.residuals(batch, [1])[1]
    total = into[0] + scale * sum(part.reshape(leaving.shape) for part in parts.values())
    torch.testing.assert_close(total, leaving, **CLOSE)


def check_head_slices(subject, batch) -> None:
    """Heads lie side by side: attention without a slice is the projection without its columns."""
    projection = subject.attention_output(0)
    with record_inputs({0: projection}) as into, record_outputs({0: projection}) as out:
        subject.residuals(batch, [0])
    heads = into[0].unflatten(-1, (subject.n_heads, subject.d_head))
    weight = projection.weight if isinstance(projection, nn.Linear) else projection.weight.T
    by_head = [
        heads[..., head, :] @ weight[:, head * subject.d_head : (head + 1) * subject.d_head].T
        for head in range(subject.n_heads)
    ]
    bias = 0 if projection.bias is None else projection.bias
    torch.testing.assert_close(sum(by_head) + bias, out[0], **CLOSE)
    with edit_input(projection, torch.zeros_like), record_outputs({0: projection}) as off:
        subject.residuals(batch, [0])
    torch.testing.assert_close(off[0], torch.zeros_like(off[0]) + bias, **CLOSE)


def check_heads_of_class(subject, batch, output) -> None:
    """Heads are what the class returns as attention weights, times what it keeps as values."""
    real = batch.attention_mask.bool()
    for layer, found in head_values(subject, batch, [0, 1], subject.embed(batch)).items():
        values = output.past_key_values.layers[layer].values
        shared = subject.n_heads // values.shape[1]
        expected = output.attentions[layer] @ values.repeat_interleave(shared, dim=1)
        heads = found.reshape(*real.shape, subject.n_heads, -1)
        torch.testing.assert_close(heads[real], expected.transpose(1, 2)[real], **CLOSE)


def check_words(subject, batch) -> None:
    """Go on as transformers does, greedily, from each prompt alone."""
    ends = {"eos_token_id": subject.tokenizer.eos_token_id, "pad_token_id": subject.pad_id}
    spoken = []
    for row, last in zip(batch.input_ids, batch.last.tolist(), strict=True):
        ids = row[None, : last + 1]
        mask = torch.ones_like(ids)
        made = subject.model.generate(
            ids, attention_mask=mask, max_new_tokens=3, min_new_tokens=1, do_sample=False, **ends
        )
        spoken.append(made[0, last + 1 :].tolist())
    check_own_words(subject, batch, spoken)


def check_writers_are_ablated(subject, batch) -> None:
    """A direction that is removed from all that is written is gone from what the writers add."""
    direction = random_direction(7, subject.d_model)
    ablation = plan_ablation(subject, {(0, 0): direction}, [(0, 0)], "own_layer")
    text = batch.token_type == TEXT
    attention, mlp = subject.writers(0)
    with ablation.at(ablation.tokens(batch)), record_outputs({0: attention, 1: mlp}, torch.clone) as parts:
        subject.residuals(batch, [0])
    for part in parts.values():
        assert (part.reshape(*text.shape, -1)[text] @ direction).abs().max() < 1e-4


def check_ablation_of_blocks(subject, batch) -> None:
    """A direction that is ablated is gone from what the block puts out."""
    direction = random_direction(7, subject.d_model)
    clean = subject.residuals(batch, [1])[1]
    ablation = plan_ablation(subject, {(1, 0): direction}, [(1, 0)], "own_layer")
    with ablation.at(ablation.tokens(batch)):
        ablated = subject.residuals(batch, [1])[1]
    text = batch.token_type == TEXT
    assert (clean[text] @ direction).abs().max() > 0.05
    assert (ablated[text] @ direction).abs().max() < 1e-4


@pytest.mark.parametrize("name", sorted(CASES))
def test_family_depth_and_width_are_told_before_it_is_loaded(tmp_path, name):
    kind, values, _ = CASES[name]
    AutoConfig.for_model(kind, **values).save_pretrained(tmp_path)
    found = look_at_checkpoint(str(tmp_path), sees=False)
    assert (found.family, found.blocks, found.width) == ("causal_lm", 2, 32)


def test_heads_of_gpt2_are_weights_times_values(tmp_path):
    """Its projections are transposed and fused: the values are the last third of one of them."""
    subject = load(build(tmp_path, *CASES["gpt2"][:2]))
    batch, attention = subject.prepare(PROMPTS, [None, None], as_chat=False), subject.attention(1)
    seen = {}
    handles = [
        attention.register_forward_hook(lambda _m, _a, out: seen.update(weights=out[1])),
        attention.c_attn.register_forward_hook(lambda _m, _a, out: seen.update(values=out[..., 64:])),
    ]
    with record_inputs({1: subject.attention_output(1)}) as into:
        subject.residuals(batch, [1])
    for handle in handles:
        handle.remove()
    found, values = (one.unflatten(-1, (4, 8)) for one in (into[1], seen["values"]))
    for head in range(4):
        torch.testing.assert_close(found[:, :, head], seen["weights"][:, head] @ values[:, :, head], **CLOSE)


REFUSED = {
    "opt 350m": ("opt", OPT | {"do_layer_norm_before": False}, "found no final norm in its decoder"),
    "projections around the blocks": (
        "opt",
        OPT | {"word_embed_proj_dim": 16},
        "found embeddings of 16 values before blocks of 32",
    ),
    "a sum that starts from a norm": (
        "bloom",
        FALCON | {"apply_residual_connection_post_layernorm": True},
        "a block's output is not its input plus what attention and MLP put out",
    ),
    "a norm over all heads": ("bitnet", LLAMA, "heads do not lie side by side before self_attn.o_proj"),
    "differences of heads": ("diffllama", LLAMA, "heads do not lie side by side before self_attn.o_proj"),
    "no attention": ("mamba", {"hidden_size": 32, "num_hidden_layers": 2}, "found no attention in block 0"),
    "norm behind the sum": ("openai-gpt", GPT2, "found no final norm"),
    "no list of blocks": ("bert", LLAMA | {"is_decoder": True}, "found no list of blocks in its decoder"),
    "blocks of two kinds": ("minimax", LLAMA | {"head_dim": 8}, "found blocks of 2 kinds"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_decoder_of_another_build_is_refused_by_one_line(name, tmp_path):
    kind, values, words = REFUSED[name]
    with pytest.raises(
        LayoutError, match=f"model 'lm': {words}.*docs/configure/model_families.md lists"
    ) as caught:
        load(build(tmp_path, kind, values))
    assert "\n" not in str(caught.value)


def test_a_block_that_adds_something_else_is_refused(tmp_path):
    """Names fit, but the block scales what it adds in a way that its configuration does not tell."""
    folder = build(tmp_path, *CASES["granite"][:2])
    subject = load(folder)
    subject.model.config.residual_multiplier = 1.0
    batch = subject.prepare(PROMPTS, [None, None], as_chat=False)
    with pytest.raises(LayoutError, match="a block's output is not its input plus what attention and MLP"):
        verified(subject, batch)


@pytest.mark.parametrize("block", [0, 1])
def test_one_block_that_adds_something_else_is_enough(tmp_path, block):
    subject = load(build(tmp_path, *CASES["mistral"][:2]))
    batch = subject.prepare(PROMPTS, [None, None], as_chat=False)
    assert verified(subject, batch).writers == subject.layout.writers
    double = lambda _module, _given, out: tuple(2 * one for one in out) if isinstance(out, tuple) else 2 * out  # noqa: E731
    with subject.blocks[block].register_forward_hook(double), pytest.raises(LayoutError):
        verified(subject, batch)


def test_a_head_that_does_something_else_is_refused(tmp_path):
    subject = load(build(tmp_path, *CASES["cohere"][:2]))
    subject.model.config.logit_scale = None
    with pytest.raises(LayoutError, match="the logits of its head are not those"):
        check_parts(subject)


@pytest.fixture(scope="module")
def mistral(tmp_path_factory):
    return build(tmp_path_factory.mktemp("mistral"), *CASES["mistral"][:2])


def test_other_states_than_those_of_its_class_are_refused(mistral):
    """Sums and norms are right, but what enters is not what the class lets in."""
    subject = load(mistral)
    own = subject.embed
    subject.embed = lambda batch: 1.01 * own(batch)
    with pytest.raises(LayoutError, match="block 0 puts out something else than the hidden states that"):
        check_parts(subject)


@pytest.mark.parametrize("block", [0, 1])
def test_other_states_of_one_block_are_enough(mistral, block):
    subject = load(mistral)
    batch = subject.prepare(PROMPTS[:1], [None], as_chat=False)
    own = subject.model(input_ids=batch.input_ids, output_hidden_states=True).hidden_states
    check_states(subject, batch, own)
    others = [*own[: block + 1], own[block + 1] + 0.01, *own[block + 2 :]]
    with pytest.raises(LayoutError, match=f"block {block} puts out something else"):
        check_states(subject, batch, tuple(others))
    lost = [*own[: block + 1], own[block + 1] * torch.nan, *own[block + 2 :]]
    with pytest.raises(LayoutError, match=f"block {block} puts out something else"):
        check_states(subject, batch, tuple(lost))


@pytest.mark.parametrize(("kept", "found"), [(None, 0), (slice(2), 2)])
def test_a_class_without_states_cannot_be_compared(mistral, kept, found):
    subject = load(mistral)
    batch = subject.prepare(PROMPTS[:1], [None], as_chat=False)
    own = subject.model(input_ids=batch.input_ids, output_hidden_states=True).hidden_states
    with pytest.raises(LayoutError, match=f"its class returns {found} hidden states, expected 3"):
        check_states(subject, batch, own[kept] if kept else None)


def test_a_norm_that_is_not_the_last_is_refused(mistral):
    subject = load(mistral)
    subject.layout = replace(subject.layout, norm="layers.1.input_layernorm")
    with pytest.raises(LayoutError, match=r"something between its last block, layers.1.input_layernorm and"):
        check_parts(subject)


def turned(_module, given):
    """Put the heads of a projection's input into other places."""
    return (given[0].roll(8, dims=-1), *given[1:])


def mixed(_module, given):
    """Let one head see a trace of another."""
    values = given[0].clone()
    values[..., 0] += 0.01 * values[..., -1]
    return (values, *given[1:])


def frozen(_module, given):
    """Hand over the same, whatever is kept."""
    return (torch.ones_like(given[0]), *given[1:])


@pytest.mark.parametrize("change", [turned, mixed, frozen])
def test_heads_that_do_not_lie_side_by_side_are_refused(mistral, change):
    subject = load(mistral)
    check_parts(subject)
    with (
        subject.attention_output(0).register_forward_pre_hook(change),
        pytest.raises(LayoutError, match="block 0 .MistralAttention.: a change in one of 2 groups of them"),
    ):
        check_parts(subject)


def test_heads_of_which_nothing_is_kept_are_refused(mistral, monkeypatch):
    subject = load(mistral)
    monkeypatch.setattr("vlmdiff.models.checks.read_prefix", lambda *_: None)
    with pytest.raises(LayoutError, match="it keeps no keys and values of earlier tokens"):
        check_parts(subject)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["bloom", "falcon", "gemma3", "opt"])
def test_rounding_of_16_bits_is_no_reason_to_refuse(tmp_path, name, dtype):
    # BLOOM's class knows no other.
    spec = {"family": "causal_lm", "attention": "eager" if name == "bloom" else "sdpa", "dtype": dtype}
    subject = load_subject("lm", spec, build(tmp_path, *CASES[name][:2]), "cpu")
    assert subject.layout.writers == CASES[name][2]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rounding_of_16_bits_hides_no_mixed_heads(tmp_path, dtype):
    spec = {"family": "causal_lm", "attention": "eager", "dtype": dtype}
    with pytest.raises(LayoutError, match="heads do not lie side by side"):
        load_subject("lm", spec, build(tmp_path, *REFUSED["a norm over all heads"][:2]), "cpu")
