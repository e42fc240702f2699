"""Extraction and streaming with random weights in LLaVA-MORE's shape: speed beside the bare model, memory."""

from __future__ import annotations

import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from outcomes import Row, Setting
from small_trainings import STAGE, TOPK
from tiny_models import write_samples
from tiny_tokenizers import byte_tokenizer

from vlmdiff.data.batching import prepare_batches
from vlmdiff.data.samples import Sample, load_samples
from vlmdiff.dictionaries.one_pass import train_in_passes
from vlmdiff.extraction.blocks import Keeping, capture_samples
from vlmdiff.extraction.left_out import LeftOut
from vlmdiff.extraction.stream import ActivationStream, ModelPasses
from vlmdiff.models.llava import Llava

NAME = "forward_passes"
SPECIAL = ("<bos>", "<eos>", "<pad>", "<image>")
QUESTION = "Is the following statement correct? The cat is at the left side of the car. Answer only with Yes."
# Llama 3.1 8B and CLIP-L/14 at 336 pixels.
TEXT = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192}  # fmt: skip
VISION = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
          "image_size": 336, "patch_size": 14, "projection_dim": 768}  # fmt: skip
SMALL_TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
              "num_key_value_heads": 2, "vocab_size": 1024, "max_position_embeddings": 2048}  # fmt: skip
SMALL_VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
                "image_size": 56, "patch_size": 14, "projection_dim": 32}  # fmt: skip


def rows(setting: Setting) -> list[Row]:
    """Measure one pass over some samples: bare, captured at two blocks, and streamed to a training."""
    count, batch_tokens, train_tokens = (6, 512, 64) if setting.small else (192, 16384, 4096)
    subject = build(setting)
    with tempfile.TemporaryDirectory() as name:
        samples = write_questions(Path(name), count, subject)
        found = captured(subject, samples, batch_tokens, setting)
        found += streamed(subject, samples, batch_tokens, train_tokens, setting)
        return found + grouped(subject, samples, batch_tokens, train_tokens, setting)


def build(setting: Setting) -> Llava:
    """Return a LLaVA with random weights on the device, in bfloat16 on a GPU."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(**(SMALL_VISION if setting.small else VISION))
    text = LlamaConfig(**(SMALL_TEXT if setting.small else TEXT))
    tokenizer = byte_tokenizer(SPECIAL, bos="<bos>", eos="<eos>", pad="<pad>", adds_bos=True)
    side = vision.image_size // vision.patch_size
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=image_id, image_seq_length=side**2
    )
    dtype = torch.bfloat16 if setting.device == "cuda" else torch.float32
    with torch.device(setting.device):
        model = LlavaForConditionalGeneration._from_config(config, dtype=dtype, attn_implementation="sdpa")
    return Llava("llava", model, processor(tokenizer, vision), "random", image_id)


def processor(tokenizer, vision):
    """Return LLaVA's processor for a tower."""
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    side = {"height": vision.image_size, "width": vision.image_size}
    return LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": vision.image_size}, crop_size=side),
        tokenizer,
        patch_size=vision.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
    )


def write_questions(folder: Path, count: int, subject: Llava) -> list[Sample]:
    """Write questions about pictures of noise."""
    from PIL import Image

    side, rng, lines = subject.model.config.vision_config.image_size, np.random.default_rng(0), []
    (folder / "images").mkdir(parents=True)
    for index in range(count):
        picture = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / "images" / f"{index}.png", compress_level=0)
        lines.append(
            {"sample_id": f"q{index}", "image": f"images/{index}.png", "prompt": QUESTION, "answer": None,
             "choices": None, "group": "g", "chat": False}
        )  # fmt: skip
    return load_samples(write_samples(folder, lines) / "samples.jsonl")


def seconds(work, setting: Setting) -> float:
    """Return the time of the second of two runs."""
    setting.timed(work)()
    started = time.perf_counter()
    setting.timed(work)()
    return time.perf_counter() - started


@torch.inference_mode()
def captured(subject: Llava, samples: list[Sample], batch_tokens: int, setting: Setting) -> list[Row]:
    """Compare capturing two blocks with a forward pass of batches that are ready on the device."""
    ready = [batch for _, batch in prepare_batches(subject, samples, batch_tokens)]
    layers = [subject.n_layers // 2 - 1, subject.n_layers - 1]
    tokens = sum(int(batch.attention_mask.sum()) for batch in ready)

    def bare() -> None:
        for batch in ready:
            subject.run_decoder(batch, subject.embed(batch))

    def capture() -> None:
        capture_samples(subject, samples, layers, Keeping("bfloat16"), batch_tokens, LeftOut())

    forward, whole = seconds(bare, setting), seconds(capture, setting)
    peak = setting.peak_gib(capture)
    size = f"{len(samples)} pictures, {tokens} tokens, blocks {layers}"
    return [
        Row(NAME, size, "bare decoder: tokens a second", tokens / forward),
        Row(NAME, size, "extraction: tokens a second", tokens / whole, "reading pictures and tower included"),
        Row(NAME, size, "extraction / bare decoder", whole / forward),
        Row(NAME, size, "extraction: peak GiB", peak),
    ]


def streamed(
    subject: Llava, samples: list[Sample], batch_tokens: int, train_tokens: int, setting: Setting
) -> list[Row]:
    """Measure text tokens that come straight from the model to a training."""
    layer = subject.n_layers // 2 - 1
    passes = ModelPasses(subject, samples, storage="bfloat16", batch_tokens=batch_tokens)
    stream = ActivationStream(passes, layer)
    batches = 2 * sum(stream.token_counts(["text"])) // train_tokens
    started = time.perf_counter()
    for _ in islice(stream.batches(["text"], train_tokens, 0), batches):
        pass
    setting.synchronise()
    took = time.perf_counter() - started
    size = f"{len(samples)} pictures, block {layer}, batches of {train_tokens} text tokens"
    rate = batches * train_tokens / took
    return [Row(NAME, size, "stream: text tokens a second", rate, f"{batches} batches")]


def grouped(
    subject: Llava, samples: list[Sample], batch_tokens: int, train_tokens: int, setting: Setting
) -> list[Row]:
    """Train dictionaries of one layer and of four, from one pass of the model each."""
    last, steps, times, peaks = subject.n_layers - 1, 16, {}, {}
    for count in (1, 4):
        layers = sorted({last - i * max(1, last // 4) for i in range(count)})
        passes = ModelPasses(subject, samples, storage="bfloat16", batch_tokens=batch_tokens)

        def work(passes: ModelPasses = passes, layers: list[int] = layers) -> None:
            with tempfile.TemporaryDirectory() as name:
                train_in_passes(passes, trainings(Path(name), layers, steps, train_tokens, setting))

        started = time.perf_counter()
        peaks[count] = setting.peak_gib(work)
        times[count] = time.perf_counter() - started
    size = f"{len(samples)} pictures, {steps} steps of {train_tokens} text tokens, up to block {last}"
    return [
        *(Row(NAME, size, f"{count} layers: layers x tokens a second", count * steps * train_tokens / took)
          for count, took in times.items()),
        *(Row(NAME, size, f"{count} layers: peak GiB", peak) for count, peak in peaks.items()),
        Row(NAME, size, "four layers / one layer, seconds", times[4] / times[1], "4 if nothing were shared"),
    ]  # fmt: skip


def trainings(
    folder: Path, layers: list[int], steps: int, train_tokens: int, setting: Setting
) -> list[dict[str, object]]:
    """Return what `train_dictionary` is told for each layer."""
    size = {"d_sae": 256, "k": 4} if setting.small else {"d_sae": 32768, "k": 50}
    stage = STAGE | {"steps": steps, "batch_tokens": train_tokens, "snapshots": []}
    return [
        {
            "initial": "random",
            "layer": layer,
            "seed": layer,
            "order": 0,
            "architecture": TOPK | size,
            "stage": stage,
            "provenance": {},
            "folder": folder / str(layer),
            "checkpoints": folder / "work" / str(layer),
        }
        for layer in layers
    ]
