"""SmolVLM's layout on real weights: published vocabulary, transformers' numbers, the first look's stages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from smolvlm import IMAGE, IMAGE_TOKENS, MARK, PUBLISHED, TOKENS, WHOLE, WORDS
from tiny_smolvlm import CHAT_TEMPLATE
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Idefics3Processor,
    SmolVLMForConditionalGeneration,
)

from vlmdiff.models.registry import load_subject

ROOT = Path(__file__).parents[2]
CONFIG = Path(__file__).with_name("smolvlm.yaml")
PROMPTS = [
    "What is left of the cat?",
    "Is the following statement correct? The dog is left of the car. Yes or No?",
]
CLOSE = {"atol": 2e-4, "rtol": 2e-4}


@pytest.fixture(scope="module")
def shown(pictures) -> list[Image.Image]:
    files = sorted((pictures / "coco2017" / "train2017").iterdir())[: len(PROMPTS)]
    return [Image.open(file).convert("RGB") for file in files]


@pytest.fixture(scope="module")
def subject(smolvlm):
    return load_subject("vlm", {"family": "idefics3", "attention": "eager"}, smolvlm, "cpu")


@pytest.fixture(scope="module")
def inputs(smolvlm, subject, shown) -> list:
    """What transformers' own processor makes of each prompt: SmolVLM's is Idefics3's, with videos."""
    images, tokenizer = subject.processor.image_processor, AutoTokenizer.from_pretrained(smolvlm)
    processor = Idefics3Processor(images, tokenizer, image_seq_len=IMAGE_TOKENS)
    found = []
    for prompt, picture in zip(PROMPTS, shown, strict=True):
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        turn = [{"role": "user", "content": content}]
        text = processor.apply_chat_template(turn, add_generation_prompt=True, chat_template=CHAT_TEMPLATE)
        found.append(
            processor(text=[text], images=[[picture]], do_image_splitting=False, return_tensors="pt")
        )
    return found


def test_marks_have_the_published_numbers(subject, smollm2):
    tokenizer, words = subject.tokenizer, AutoTokenizer.from_pretrained(smollm2)
    assert (len(words), len(tokenizer)) == (WORDS, TOKENS)
    assert {mark: tokenizer.convert_tokens_to_ids(mark) for mark in PUBLISHED} == PUBLISHED
    assert tokenizer.convert_tokens_to_ids("<row_6_col_6>") == PUBLISHED[MARK] - 1
    assert (
        subject.image_id == PUBLISHED[IMAGE] and subject.model.get_input_embeddings().num_embeddings == TOKENS
    )
    text = "The cat is left of the dog; it isn't above it. 1234 café"
    assert tokenizer.encode(text) == words.encode(text)


def test_tokens_are_those_of_transformers_processor(subject, inputs, shown):
    batch = subject.prepare(PROMPTS, shown)
    for row, one in enumerate(inputs):
        ids = one.input_ids[0].tolist()
        assert batch.input_ids[row, : len(ids)].tolist() == ids
        at = ids.index(PUBLISHED[IMAGE])
        assert ids[at - 2 : at] == [PUBLISHED[MARK], PUBLISHED[WHOLE]]
        assert ids[at : at + IMAGE_TOKENS] == [PUBLISHED[IMAGE]] * IMAGE_TOKENS
        assert ids[at + IMAGE_TOKENS] == PUBLISHED[MARK] and ids[0] == subject.tokenizer.bos_token_id
    assert batch.seen.grids.tolist() == [[8, 8]] * len(PROMPTS)


def test_hidden_states_and_logits_are_those_of_transformers(smolvlm, subject, inputs, shown):
    model = SmolVLMForConditionalGeneration.from_pretrained(smolvlm, attn_implementation="eager").eval()
    batch, last = subject.prepare(PROMPTS, shown), subject.n_layers - 1
    residuals, logits = subject.residuals(batch, [0, 14, last]), subject.final_logits(batch)
    for row, one in enumerate(inputs):
        with torch.inference_mode():
            output = model(**one, output_hidden_states=True)
        length = one.input_ids.shape[1]
        found = {layer: residuals[layer][row, :length] for layer in residuals}
        for layer in (0, 14):
            states = output.hidden_states[layer + 1][0]
            # The attention sink is ten thousand times as long as others.
            torch.testing.assert_close(found[layer], states, atol=2e-5 * float(states.abs().max()), rtol=1e-3)
        torch.testing.assert_close(subject.decoder.norm(found[last]), output.hidden_states[-1][0], **CLOSE)
        torch.testing.assert_close(logits[row], output.logits[0, -1], **CLOSE)
    assert not torch.allclose(logits[0], logits[1], atol=0.1)


def test_without_a_picture_it_is_smollm2(smollm2, subject):
    """Its words have SmolLM2's logits; those of the marks are of random rows."""
    text = "The capital of France is"
    alone, tokenizer = (one.from_pretrained(smollm2) for one in (AutoModelForCausalLM, AutoTokenizer))
    with torch.inference_mode():
        expected = alone(**tokenizer(text, return_tensors="pt")).logits[0, -1]
    found = subject.final_logits(subject.prepare([text], [None], as_chat=False))[0]
    torch.testing.assert_close(found[:WORDS], expected, **CLOSE)
    assert tokenizer.decode(int(expected.argmax())) == " Paris"


@pytest.fixture(scope="module")
def run(smolvlm, pictures, text) -> Path:
    """Folder of the finished first look; what was made before is brought up to date."""
    command = [sys.executable, "-m", "snakemake", "--configfile", str(CONFIG), "--cores", "2"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return ROOT / "results" / "real_smolvlm"


def rows(table: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    for column, value in wanted.items():
        table = table[table[column] == value]
    return table


def test_the_first_look_ends_with_a_summary_and_an_explorer(run):
    assert "Tokens that are left out" in (run / "summary.md").read_text()
    assert (run / "explorer" / "index.html").stat().st_size > 1000


def test_dictionaries_of_the_text_explain_it(run):
    metrics = pd.concat(pd.read_csv(file) for file in (run / "dictionaries").rglob("metrics*.csv"))
    base = rows(metrics, dictionary="base", model="base_lm", dataset="text_val", tokens="text", snapshot=100)
    assert sorted(base["layer"]) == [14, 24]
    assert base["fvu"].between(0.05, 0.6).all()
    np.testing.assert_allclose(base["l0"], 32, atol=0.5)


def test_nothing_tells_true_statements_from_false_ones(run):
    funnel = pd.read_csv(run / "features" / "main" / "seed_0" / "spatial_grounded" / "funnel.csv")
    assert int(rows(funnel, stage="final", layer=-1)["features"].sum()) == 0
