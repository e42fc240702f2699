"""Labels of features, and the optional descriptions by a language model."""

from __future__ import annotations

from string import Formatter

from pydantic import Field, field_validator, model_validator

from vlmdiff.config.base import Count, Probability, Section

TEMPLATE = (
    "A feature is one direction of a dictionary inside a vision-language model. This one was selected as a "
    "candidate for the concept '{concept}'. Evidence:\n{evidence}\n\nSay in at most fifteen words what the "
    "feature responds to. If the evidence does not tell, answer exactly: unclear."
)


class LabelsConfig(Section):
    """Labels from logit lens, words and traits of samples (docs/understand/label_features.md)."""

    tokens: Count = Field(5, description="Tokens, words and traits that are kept of each kind of evidence.")
    strong_samples: Probability = Field(
        0.1, gt=0, description="Fraction of samples that counts as a feature's strongest."
    )
    moderate: Probability = Field(0.3, description="Effect from which a word or trait is named.")
    strong: Probability = Field(0.6, description="Effect from which a label counts as strong.")
    fdr: Probability = Field(0.05, description="Largest Benjamini-Hochberg adjusted p.")
    shown: Count = Field(4, description="Strongest samples that descriptions are made of, at most.")
    tested: Count = Field(
        5, description="Other samples on which a feature fires, and as many silent ones, that score them."
    )


class LabellingConfig(Section):
    """Descriptions by any OpenAI-compatible endpoint (docs/configure/describe_features.md)."""

    base_url: str = Field(
        description="URL of the endpoint up to `/chat/completions`, e.g. `http://localhost:8000/v1`."
    )
    model: str = Field(min_length=1, description="Name of the model at the endpoint.")
    api_key_env: str | None = Field(
        None, description="Environment variable that holds the key; the key itself never stands in a config."
    )
    features: Count = Field(50, description="At most this many final features of each concept and seed.")
    temperature: float = Field(0.0, ge=0, le=2, description="Sampling temperature.")
    max_tokens: Count = Field(60, description="Most tokens of an answer.")
    template: str = Field(
        TEMPLATE, description="Prompt; `{concept}` and `{evidence}` stand for what they say."
    )
    images: int = Field(
        0,
        ge=0,
        le=20,
        description="Pictures of the strongest samples that are sent along, as small copies; 0: no picture "
        "leaves this machine.",
    )
    scored: bool = Field(
        True, description="Ask of further samples, one by one, whether a description fits them."
    )
    timeout_s: float = Field(60.0, gt=0, description="Seconds to wait for an answer.")
    retries: int = Field(6, ge=0, le=20, description="How often a busy endpoint is asked again.")
    backoff_s: float = Field(1.0, ge=0, description="Pause before the second retry; doubled each time.")
    price_input: float | None = Field(None, ge=0, description="Price of a million tokens of prompts.")
    price_output: float | None = Field(None, ge=0, description="Price of a million tokens of answers.")

    @field_validator("base_url")
    @classmethod
    def url_is_plain(cls, value: str) -> str:
        """Refuse other protocols, and keys hidden in the URL."""
        if not value.startswith(("http://", "https://")) or "@" in value or "?" in value:
            raise ValueError("expected http:// or https:// without user, password or query")
        return value

    @model_validator(mode="after")
    def template_has_evidence(self) -> LabellingConfig:
        """A prompt without evidence asks for a guess."""
        try:
            names = {name for _, name, _, _ in Formatter().parse(self.template) if name is not None}
            known = "evidence" in names and names <= {"evidence", "concept"}
            if known:
                self.template.format(evidence="", concept="")
        except (ValueError, KeyError, IndexError) as error:
            raise ValueError(f"template: cannot be filled in ({error})") from error
        if not known:
            raise ValueError(
                f"template: expected {{evidence}} and perhaps {{concept}}; found {sorted(names)}"
            )
        return self


def check_labelling(labels: LabelsConfig, labelling: LabellingConfig | None) -> None:
    """Check that as many samples are kept of a feature as pictures are sent.

    Raises:
        ValueError: more are asked for.
    """
    if labelling is not None and labelling.images > labels.shown:
        raise ValueError(
            f"labelling.images: found {labelling.images}, but `labels.shown` keeps {labels.shown} samples of "
            "a feature; raise that, or ask for fewer pictures"
        )
