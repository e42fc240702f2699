"""Scoring of multiple-choice questions."""

import math

import numpy as np
import pytest
import torch
from tiny_models import tiny_tokenizer

from vlmdiff.config.choices import AnswerError, answer_token_ids, choice_token_ids, spellings
from vlmdiff.data.samples import Sample, load_samples
from vlmdiff.interventions.answers import Answers, ChoiceScorer
from vlmdiff.interventions.evaluation import Evaluation
from vlmdiff.models.registry import load_subject


class SpellingTokenizer:
    """Tells capitals and leading spaces apart, as byte-pair tokenizers do; digits follow a bare space."""

    unk_token_id = 0
    vocabulary = ("?", "Ġ", "yes", "Yes", "Ġyes", "no", "ĠNo", "1", "2", "left", "ĠLeft")

    def encode(self, text, add_special_tokens):
        assert not add_special_tokens
        text = text.replace(" ", "Ġ")
        if text.startswith("Ġ") and text[1:].isdigit():
            return [1, self.vocabulary.index(text[1:])]
        return [self.vocabulary.index(text) if text in self.vocabulary else 0]

    def decode(self, ids):
        return "".join(self.vocabulary[i] for i in ids).replace("Ġ", " ")


def sample(answer="true", choices=("true", "false"), name="s"):
    return Sample(sample_id=name, prompt="p", answer=answer, choices=list(choices), group="g")


def test_all_spellings_that_the_vocabulary_has():
    tokenizer = SpellingTokenizer()
    assert answer_token_ids(tokenizer, "yes") == [2, 3, 4]
    assert answer_token_ids(tokenizer, "no") == [5, 6]
    assert set(spellings("yes")) == {"yes", "Yes", " yes", " Yes"}


def test_a_leading_bare_space_is_not_a_token_of_the_choice():
    assert choice_token_ids(SpellingTokenizer(), ["1", "2"]) == [[7], [8]]


def test_unknown_and_clashing_choices_are_refused():
    with pytest.raises(AnswerError, match="'maybe'.*vocabulary"):
        answer_token_ids(SpellingTokenizer(), "maybe")
    with pytest.raises(AnswerError, match="'left of' and 'left'.*Reword"):
        choice_token_ids(tiny_tokenizer(), ["left of", "left"])


@pytest.mark.parametrize("changes", [{"choices": None}, {"answer": None}, {"choices": ["true"]}])
def test_samples_without_choices_or_answer_are_refused(changes):
    wrong = sample().model_copy(update=changes)
    with pytest.raises(AnswerError, match="sample 's'"):
        ChoiceScorer(tiny_tokenizer(), [wrong])


def test_scores_are_log_sum_exp_over_spellings():
    scorer = ChoiceScorer(SpellingTokenizer(), [sample("no", ("yes", "no"))])
    logits = torch.randn(1, 11)
    row = logits[0].double()
    yes, no = (torch.logsumexp(row[ids], 0) for ids in ([2, 3, 4], [5, 6]))
    assert scorer.margins(logits, [0]).item() == pytest.approx((no - yes).item(), abs=1e-5)


def test_questions_with_different_numbers_of_choices_share_a_batch():
    tokenizer = tiny_tokenizer()
    colours = ("red", "blue", "green", "yellow")
    scorer = ChoiceScorer(tokenizer, [sample(), sample("blue", colours, "t")])
    logits = torch.zeros(2, len(tokenizer))
    logits[:, tokenizer.convert_tokens_to_ids("blue")] = 2.0
    logits[:, tokenizer.convert_tokens_to_ids("green")] = 1.5
    logits[:, tokenizer.convert_tokens_to_ids("true")] = -1.0
    assert scorer.margins(logits, [0, 1]).tolist() == [-1.0, 0.5]
    assert scorer.scores(logits[:1], [0])[0, 2:].tolist() == [-math.inf, -math.inf]
    # A tie is not an answer.
    assert scorer.margins(torch.zeros(2, len(tokenizer)), [0, 1]).tolist() == [0.0, 0.0]
    assert Answers(np.array([0.0, 1e-6, -1.0])).correct.tolist() == [False, True, False]


def test_answers_come_in_the_order_of_samples(tiny_vlm_path, tiny_dataset):
    subject = load_subject("vlm", {"family": "llava"}, tiny_vlm_path)
    samples = load_samples(tiny_dataset / "samples.jsonl", limit=15)
    together = Evaluation(subject, samples, 256).answers()
    alone = [Evaluation(subject, [one], 256).answers().margin[0] for one in samples]
    np.testing.assert_allclose(together.margin, alone, atol=1e-4)
    assert len(set(np.round(together.margin, 4))) > 5
    assert (together.correct == (together.margin > 0)).all()
