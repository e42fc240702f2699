"""What is known of each family of models and each format of dictionaries, and their smallest examples.

The page docs/configure/supported.md and `make published` are made of it. No job reads it, so that a fact that
is corrected makes nothing stale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Example:
    """The smallest published checkpoint of a family, or a file of a format.

    Attributes:
        repository: `owner/name` on the Hugging Face hub.
        gigabytes: what is downloaded of it, about.
        seen: where its name was read; empty if nothing was found that confirms it.
        revision: commit, tag or branch.
        gated: its terms have to be accepted first.
        file: of a dictionary, its folder or file in the repository.
        k: of a dictionary, TopK where no file tells it.
        release: of a dictionary, release and id in SAELens, which reads the same file; None if it has none.
        vision_tower: of a checkpoint, the repository of a tower that lies apart.
    """

    repository: str
    gigabytes: float
    seen: str = ""
    revision: str = "main"
    gated: bool = False
    file: str | None = None
    k: int | None = None
    release: str | None = None
    vision_tower: str | None = None


@dataclass(frozen=True)
class FamilyFacts:
    """How a family shows pictures, and where that is tested.

    Attributes:
        example: a checkpoint of it.
        tests: files that compare it with transformers.
        tiles: what becomes of a large picture.
        several: whether a sample may have several pictures.
        video: whether it may have a video.
        heads: what is done with the heads of attention.
        peer: whether a class of transformers reads the same checkpoint.
    """

    example: Example
    tests: tuple[str, ...]
    tiles: str = "none: every picture is brought to one size"
    several: str = "refused"
    video: str = "no"
    heads: str = "attributed, patched, ablated"
    peer: bool = True


@dataclass(frozen=True)
class FormatFacts:
    """How a format's dictionaries compute, and where that is tested.

    Attributes:
        example: a published file; None if there is none.
        activation: by which features are active.
        subtracts: whether `b_dec` is subtracted from the encoder's input.
        scale: the factor on the residual stream before the encoder.
        reference: what the tests compare with.
        tests: files of these tests.
    """

    example: Example | None
    activation: str
    subtracts: str
    scale: str
    reference: str
    tests: tuple[str, ...]


TRANSFORMERS, SAELENS_LIST = "transformers 5.23: {}", "sae-lens 6.54: pretrained_saes.yaml"
FAMILY_FACTS: Mapping[str, FamilyFacts] = MappingProxyType(
    {
        "causal_lm": FamilyFacts(
            Example(
                "HuggingFaceTB/SmolLM2-135M-Instruct",
                0.27,
                "huggingface.co: HuggingFaceTB/SmolVLM-256M-Instruct",
            ),
            ("tests/unit/test_models_subject.py", "tests/unit/test_models_layouts.py"),
            tiles="none: it is shown no pictures",
            heads="none: they are traced to pictures",
        ),
        "gemma3": FamilyFacts(
            Example(
                "google/gemma-3-4b-it",
                8.6,
                TRANSFORMERS.format("models/gemma3/modeling_gemma3.py"),
                gated=True,
            ),
            ("tests/unit/test_models_gemma3.py",),
            tiles='none: the whole picture, without "pan and scan"',
        ),
        "idefics3": FamilyFacts(
            Example("HuggingFaceTB/SmolVLM-256M-Instruct", 0.52, "huggingface.co: its processor_config.json"),
            ("tests/unit/test_models_idefics3.py", "tests/unit/test_models_idefics3_tiles.py"),
            tiles="one: the whole picture; with `tiles: true` its tiles before it, as transformers has them",
        ),
        "internvl": FamilyFacts(
            Example(
                "OpenGVLab/InternVL3-1B-hf", 1.9, TRANSFORMERS.format("models/internvl/modeling_internvl.py")
            ),
            ("tests/unit/test_models_internvl.py",),
            tiles="one: the whole picture, not cut",
        ),
        "llava": FamilyFacts(
            Example(
                "llava-hf/llava-interleave-qwen-0.5b-hf",
                1.8,
                TRANSFORMERS.format("pipelines/image_text_to_text.py"),
            ),
            (
                "tests/unit/test_models_subject.py",
                "tests/unit/test_models_towers.py",
                "tests/unit/test_heads_patching.py",
            ),
        ),
        "llava_next": FamilyFacts(
            Example("llava-hf/llava-onevision-qwen2-0.5b-ov-hf", 1.8, "code on GitHub that loads it"),
            ("tests/unit/test_models_llava_next.py",),
            tiles="none: the whole picture, and the token that ends it",
        ),
        "llava_original": FamilyFacts(
            Example(
                "liuhaotian/llava-v1.5-7b",
                15.3,
                "huggingface.co: its list of files",
                vision_tower="openai/clip-vit-large-patch14-336",
            ),
            ("tests/unit/test_models_llava_original.py",),
            peer=False,
        ),
        "paligemma": FamilyFacts(
            Example(
                "google/paligemma2-3b-mix-224",
                6.1,
                TRANSFORMERS.format("models/paligemma/modeling_paligemma.py"),
                gated=True,
            ),
            ("tests/unit/test_models_paligemma.py",),
        ),
        "pixtral": FamilyFacts(
            Example("mistralai/Ministral-3-3B-Instruct-2512-BF16", 7.7, "code on GitHub that loads it"),
            ("tests/unit/test_models_pixtral.py",),
            tiles="none: tokens follow the picture's size",
        ),
        "qwen_vl": FamilyFacts(
            Example("Qwen/Qwen3-VL-2B-Instruct", 4.3, TRANSFORMERS.format("pipelines/__init__.py")),
            ("tests/unit/test_models_qwen_vl.py",),
            tiles="none: tokens follow the picture's size",
        ),
    }
)

TESTS = "tests/unit/test_dictionaries_{}.py"
LOADED = "sae-lens, on the same file"
FORMAT_FACTS: Mapping[str, FormatFacts] = MappingProxyType(
    {
        "llama_scope": FormatFacts(
            Example(
                "fnlp/Llama3_1-8B-Base-LXR-8x",
                0.54,
                SAELENS_LIST,
                file="Llama3_1-8B-Base-L15R-8x",
                release="llama_scope_lxr_8x/l15r_8x",
            ),
            "`act_fn`: JumpReLU with `jump_relu_threshold`, which is in units of `x`, TopK with `top_k`, or "
            "ReLU; compared with `n_i` times pre-activation if `sparsity_include_decoder_norm`",
            "`apply_decoder_bias_to_pre_encoder`",
            "`sqrt(d_model) / dataset_average_activation_norm.in`; 1 if `norm_activation` is `inference`",
            LOADED,
            (TESTS.format("saelens"),),
        ),
        "gemma_scope": FormatFacts(
            Example(
                "google/gemma-scope-2b-pt-res",
                0.30,
                SAELENS_LIST,
                file="layer_12/width_16k/average_l0_82",
                release="gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82",
            ),
            "JumpReLU with `threshold`",
            "no",
            "1",
            LOADED,
            (TESTS.format("saelens"),),
        ),
        "gemma_scope_2": FormatFacts(
            Example(
                "google/gemma-scope-2-270m-pt",
                0.08,
                SAELENS_LIST,
                file="resid_post_all/layer_9_width_16k_l0_small",
                release="gemma-scope-2-270m-pt-res-all/layer_9_width_16k_l0_small",
            ),
            "JumpReLU with `threshold`; transcoders are refused",
            "no",
            "1",
            LOADED,
            (TESTS.format("saelens"),),
        ),
        "mmdiff": FormatFacts(
            Example(
                "OX-PIXL/MMDiff_SAEs",
                0.30,
                "the authors' README on GitHub",
                file="paligemma2/jumprelu_text_only/text-only_layer_13.pt",
            ),
            "JumpReLU with `threshold` or `log_threshold`, else TopK with `k` of the config",
            "`subtract_decoder_bias` of the config, else no",
            "`input_scale` of the config, else 1",
            "sae-lens' classes, with the same tensors",
            (TESTS.format("saelens"),),
        ),
        "qwen_scope": FormatFacts(
            Example(
                "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50",
                0.54,
                SAELENS_LIST,
                file="layer14.sae.pt",
                k=50,
                release="qwen-scope-3-1.7b-base-w32k-l50/layer14",
            ),
            "TopK with `k` of the config, which the name of the repository tells",
            "no",
            "`input_scale` of the config, else 1",
            LOADED,
            (TESTS.format("saelens"),),
        ),
        "saelens": FormatFacts(
            Example(
                "jbloom/GPT2-Small-SAEs-Reformatted",
                0.15,
                SAELENS_LIST,
                file="blocks.8.hook_resid_pre",
                release="gpt2-small-res-jb/blocks.8.hook_resid_pre",
            ),
            "`standard` (ReLU), `topk`, `jumprelu`",
            "`apply_b_dec_to_input` (yes, if a file of before 6.0 does not say)",
            "1; for `expected_average_only_in` the `scaling_factor` of `activation_scaler.json` or "
            "`input_scale` of the config",
            LOADED,
            (TESTS.format("saelens"),),
        ),
        "sparsify": FormatFacts(
            Example(
                "EleutherAI/sae-pythia-160m-deduped-32k",
                0.21,
                "code on GitHub that loads it",
                file="layers.4",
            ),
            "TopK with `k`; `groupmax`, `signed`, transcoders and skip connections are refused",
            "yes",
            "`input_scale` of the config, else 1",
            "the authors' package eai-sparsify, on the same file",
            (TESTS.format("readers"), TESTS.format("packages")),
        ),
        "openmoss": FormatFacts(
            None,
            "`act_fn`: JumpReLU with `log_jumprelu_threshold`, in units of the scaled input, TopK with "
            "`top_k`, or ReLU; compared with `n_i` times pre-activation unless "
            "`sparsity_include_decoder_norm` is false; `batchtopk` is refused",
            "`apply_decoder_bias_to_pre_encoder` of files of 2025, else no",
            "`sqrt(d_model)` / `dataset_average_activation_norm.<hook point>`, a tensor; 1 if "
            "`norm_activation` is `inference`",
            "the authors' package llamascopium, on the same file",
            (TESTS.format("readers"), TESTS.format("packages")),
        ),
        "dictionary_learning": FormatFacts(
            Example(
                "canrager/saebench_gemma-2-2b_width-2pow12_date-1109",
                0.08,
                SAELENS_LIST,
                file="gemma-2-2b_topk_width-2pow12_date-1109/resid_post_layer_12/trainer_0",
                release="sae_bench_gemma-2-2b_topk_width-2pow12_date-1109/blocks.12.hook_resid_post__trainer_0",
            ),
            "by `dict_class`: ReLU, TopK with `k`, or JumpReLU with `threshold`, as BatchTopK encodes too",
            "by `dict_class` ([table](import_dictionary.md#conventions))",
            "`input_scale` of the config, else 1; a stored normalisation is folded into the weights",
            "the authors' package, and sae-lens, on the same file",
            (TESTS.format("readers"), TESTS.format("packages")),
        ),
        "vlmdiff": FormatFacts(
            None,
            "`topk`, `jumprelu`",
            "`apply_b_dec_to_input`",
            "1; `input_scale` is kept for warm starts",
            "what was written is read again; sae-lens reads it too",
            (TESTS.format("published"),),
        ),
        "crosscoder": FormatFacts(
            Example(
                "science-of-finetuning/gemma-2-2b-L13-k100-lr1e-04-local-shuffling-CCLoss",
                2.7,
                "code on GitHub that loads it",
                file="model.safetensors",
            ),
            "JumpReLU: `threshold` by the norm that `code_normalization_id` names (sum of both models' "
            "norms, joint norm, none); ReLU without one",
            "no",
            "told by the file, one for both models, for each, or for each dimension, with the mean that is "
            "taken off first; both are folded into the weights",
            "its definition (arXiv 2504.02922), and the authors' code, on the same file",
            (TESTS.format("crosscoders"), TESTS.format("packages")),
        ),
    }
)
