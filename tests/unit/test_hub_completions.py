"""Descriptions through a real local HTTP server: retries, refusals, resumption; a key never leaks."""

from __future__ import annotations

import base64
import io
import json
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
import pytest
from feature_tables import write
from PIL import Image
from scipy.stats import fisher_exact

from vlmdiff.features.descriptions import (
    Cache,
    DescribedTables,
    Request,
    announce,
    describe_features,
    digest,
    evidence_text,
)
from vlmdiff.hub.completions import Endpoint
from vlmdiff.hub.replies import EndpointError, clean, read_reply
from vlmdiff.tables.io import read_table
from vlmdiff.tables.labels import DESCRIPTIONS, DETECTIONS, LABEL_EVIDENCE, LABEL_SAMPLES, LABELS

KEY = "sk-very-secret"


class Handler(BaseHTTPRequestHandler):
    """Answers by the server's script: a list of statuses, then chat completions."""

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        self.server.requests.append(
            (self.path, self.headers.get("Authorization"), json.loads(self.rfile.read(length)))
        )
        time.sleep(self.server.pause_s)
        status = self.server.script.pop(0) if self.server.script else 200
        body = self.server.body
        if body is None:
            said = self.server.requests[-1][2]["messages"][0]["content"]
            told = self.server.answer(said) if self.server.answer else f" about {len(said)} "
            answer = {"message": {"content": told}, "finish_reason": "stop"}
            body = json.dumps(
                {"choices": [answer], "model": "m-1", "usage": {"prompt_tokens": 7, "completion_tokens": 2}}
            )
        self.send_response(status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.requests, found.script, found.body, found.answer = [], [], None, None
    found.pause_s, found.headers = 0.0, {}
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()


def url(server) -> str:
    return f"http://127.0.0.1:{server.server_port}/v1"


def request(server, **changes) -> Request:
    values = {
        "base_url": url(server), "model": "m", "temperature": 0.0, "max_tokens": 9,
        "template": "{concept}: {evidence}", "api_key_env": None, "timeout_s": 5.0, "retries": 3,
        "backoff_s": 0.0, "price_input": None, "price_output": None, "images": 0, "scored": False,
    }  # fmt: skip
    return Request(**{**values, **changes})


@pytest.fixture
def tables(tmp_path):
    own = [{"layer": 0, "feature": f, "name": f"L0F{f}"} for f in (3, 5, 9)]
    evidence = [
        {**row, "kind": kind, "rank": 0, "what": f"<b>{row['feature']}</b>", "effect": 0.5}
        for row in own
        for kind in ("word", "trait", "promoted", "suppressed")
    ]
    evidence += [{**row, "kind": "neighbour", "rank": 0, "what": "L0F9", "effect": 0.25} for row in own]
    chosen = [
        {**row, "use": use, "rank": rank, "sample_id": f"{use}{rank}", "activation": 1.0}
        for row in own
        for use in ("shown", "fires", "silent")
        for rank in range(4)
    ]
    picture = tmp_path / "picture.png"
    Image.new("RGB", (900, 600), "teal").save(picture)
    samples = [
        {"sample_id": f"{use}{rank}", "prompt": f"text {use} {rank}", "group": "g"}
        | ({"image": "picture.png"} if rank != 1 else {})
        for use in ("shown", "fires", "silent")
        for rank in range(4)
    ]
    lines = [json.dumps(sample) for sample in samples]
    (tmp_path / "samples.jsonl").write_text("\n".join(lines) + "\n")
    return DescribedTables(
        write(tmp_path / "labels.csv", LABELS, [{**row, "label": f"called {row['feature']}"} for row in own]),
        write(tmp_path / "evidence.csv", LABEL_EVIDENCE, evidence),
        write(tmp_path / "chosen.csv", LABEL_SAMPLES, chosen),
        tmp_path / "samples.jsonl",
    )


def describe(tables, tmp_path, how, features=3):
    outputs = tmp_path / "descriptions.csv", tmp_path / "detections.csv"
    describe_features("space", 0, tables, features, how, tmp_path / "cache" / "answers.jsonl", outputs)
    return read_table(outputs[0], DESCRIPTIONS)


def test_every_feature_is_described_with_its_own_evidence(server, tables, tmp_path):
    found = describe(tables, tmp_path, request(server))
    assert list(found["feature"]) == [3, 5, 9]
    assert (found["description"].str.startswith("about ")).all()
    assert (found["prompt_tokens"] == 7).all()
    assert set(found["model"]) == {"m-1"}
    path, key, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert key is None
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.0, 9)
    assert "space" in body["messages"][0]["content"]
    assert "<b>3</b>" in body["messages"][0]["content"]
    assert "to tell it apart (cosine): 'called 9' (0.25)" in body["messages"][0]["content"]
    assert found["prompt_sha256"].nunique() == 3


def test_a_busy_endpoint_is_asked_again(server, tables, tmp_path):
    server.script = [429, 503]
    assert len(describe(tables, tmp_path, request(server), features=1)) == 1
    assert len(server.requests) == 3


def test_an_endpoint_that_stays_busy_is_an_error(server, tables, tmp_path):
    server.script = [429] * 10
    with pytest.raises(EndpointError, match="429; too many requests"):
        describe(tables, tmp_path, request(server, retries=2))


@pytest.mark.parametrize(
    ("status", "words"), [(401, "api_key_env"), (403, "labelling.model"), (404, "base_url")]
)
def test_a_refusal_says_what_to_do(server, tables, tmp_path, status, words):
    server.script = [status]
    with pytest.raises(EndpointError, match=words):
        describe(tables, tmp_path, request(server))


@pytest.mark.parametrize(
    "body", ["not json", "{}", '{"choices": []}', '{"choices": [{"message": null}]}', "[]"]
)
def test_something_else_than_a_completion_is_an_error(server, tables, tmp_path, body):
    server.body = body
    with pytest.raises(EndpointError, match="not a chat completion"):
        describe(tables, tmp_path, request(server))


def completion(message: dict, finish_reason: str | None = "stop", **more) -> str:
    return json.dumps({"choices": [{"message": message, "finish_reason": finish_reason}], **more})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (completion({"content": None}, "length"), "labelling.max_tokens = 9 cut it off; raise it"),
        (completion({"content": "a place on the"}, "length"), "'a place on the': labelling.max_tokens = 9"),
        (completion({"content": "a place"}, "MAX_TOKENS"), "max_tokens = 9 cut it off"),
        (completion({"content": None, "reasoning_content": "Hm"}, "length"), "max_tokens = 9 cut it off"),
        (completion({"content": None, "reasoning_content": "Hm"}), "the model said nothing"),
        (completion({"content": "<think>Hm, left"}, "stop"), "the model said nothing"),
        (completion({"content": "[THINK]Hm[/THINK]"}, "stop"), "the model said nothing"),
        (completion({"content": "<|channel|>analysis<|message|>Hm, left"}, "stop"), "the model said nothing"),
        *(
            (completion({"content": text}), "the model said nothing")
            for text in ("None", "null", '"None"', "…", "<|eot_id|>", "<pad><pad>", "</s>", "None<|im_end|>")
        ),
        (completion({"content": [{"type": "text", "text": {"value": "left"}}]}), "not a chat completion"),
        (completion({"content": [{"type": "output_text", "text": ["left"]}]}), "not a chat completion"),
        (completion({"content": ""}), "the model said nothing"),
        (completion({"content": " \n\t"}, None), "the model said nothing"),
        (completion({}), "the model said nothing"),
        (completion({"content": []}), "the model said nothing"),
        (completion({"content": "a pl"}, "content_filter"), "a content filter stopped it"),
        (completion({"content": None, "tool_calls": [{}]}, "tool_calls"), "called a tool"),
        (completion({"content": None, "refusal": "I can't."}), "the model refuses: 'I can't.'"),
        (completion({"content": [{"type": "refusal", "refusal": "No."}]}), "the model refuses: 'No.'"),
        ('{"error": {"message": "model\\n is loading"}}', "reports an error: 'model is loading'"),
        ('{"error": "overloaded", "choices": []}', "reports an error: 'overloaded'"),
        ('{"choices": null}', "not a chat completion"),
        (completion({"content": 7}), "not a chat completion"),
        ("<html>Please log in</html>", "not even JSON: '<html>Please log in</html>'"),
        ("", "not even JSON"),
    ],
)
def test_what_is_no_whole_answer_is_an_error_that_says_why_and_is_not_kept(
    server, tables, tmp_path, body, words
):
    server.body = body
    with pytest.raises(EndpointError) as error:
        describe(tables, tmp_path, request(server))
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "descriptions.csv").exists()
    cache = tmp_path / "cache" / "answers.jsonl"
    assert not cache.exists()


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        *((reason, "labelling.max_tokens = 50") for reason in (
            "limit", "max_length", "max_new_tokens", "ERROR_LIMIT", {"type": "length", "length": 5},
        )),
        *((reason, "stopped it") for reason in ("SPII", "error_toxic", "guardrail_intervened")),
        ("refusal", "the model refused"),
        *((reason, "broke off") for reason in (
            "abort", "insufficient_system_resource", {"type": "abort"}, "incomplete", "timeout", "OTHER",
            "error", "rate_limit", "unfinished", "new", "non_stop", 1, False, {}, {"matched": 2},
        )),
    ],
)  # fmt: skip
def test_an_answer_that_ended_for_a_reason_nobody_knows_is_not_taken_for_whole(reason, words):
    body = {"choices": [{"message": {"content": "This feature fires on"}, "finish_reason": reason}]}
    with pytest.raises(EndpointError, match=words) as error:
        read_reply(body, 50)
    said = str(reason.get("type", reason) if isinstance(reason, dict) else reason)
    assert f"finish_reason is '{said}' and the text 'This feature fires on'" in str(error.value)


@pytest.mark.parametrize(
    "reason",
    [
        None, "", "stop", "STOP", "eos", "eos_token", "end_turn", "stop_sequence", "stop_token", "endoftext",
        "complete", "completed", "COMPLETE", "FINISH_REASON_STOP", "FinishReason.STOP", "normal", "done",
        "eot", "eom", "eos_id", "end_of_sequence", "end-of-turn", "endOfTurn", "<|eot_id|>", "<|im_end|>",
        "</s>", "stop ", "Stop.", {"type": "stop", "matched": 151645},
    ],
)  # fmt: skip
def test_an_answer_that_ended_by_itself_is_whole(reason):
    answer = read_reply({"choices": [{"message": {"content": "left"}, "finish_reason": reason}]}, 50)
    assert answer.text == "left" and answer.fault(50) is None


@pytest.mark.parametrize(
    "said",
    [
        "<think>right?</think>left of",
        "right, I think.</think>\n left of",
        "<thinking>a</thinking><think>b</think>left of",
        "[THINK]right?[/THINK]left of",
        "◁think▷right?◁/think▷left of",
        "<seed:think>right?</seed:think>left of",
        "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final<|message|>left of",
        "Hm<|channel|>final <|constrain|>text<|message|>left of<|return|>",
        "analysisWe see.assistantfinalleft of",
        "right? (I think)</think> left of",
        "Hm\n</think> left of",
        "Hm </think>\n\nleft of",
        "</think>\n\nleft of",
        "Hm </think>left of",
        "<think>right? `</think>` is a tag.</think>left of",
        "[THINK]right?[/THINK]\nleft of<|im_end|>",
    ],
)
def test_reasoning_is_cut_off(said):
    assert clean(said) == "left of"


@pytest.mark.parametrize(
    "end",
    [
        "</s>", "<|im_end|>", "<|eot_id|>", "<pad><pad>", "<eos>", "<end_of_turn>", "[EOS]", "[/INST]",
        "\n</s>", "<|im_end|>\n<|endoftext|>", "<｜end▁of▁sentence｜>", ". <|im_end|>",
    ],
)  # fmt: skip
def test_marks_of_the_end_are_cut_off(end):
    assert clean(f"left of{end}") == f"left of{'.' * end.startswith('.')}"


@pytest.mark.parametrize(
    "said",
    [
        "fires on <|channel|> and [INST]", "a < b", "analysis of [thought] words", "Fires on </think> tags",
        "The token [/think] and </reasoning> markers", "[Reasoning] and logic words", "[thinking] verbs",
        "Ends of reasoning, </think>", "Tags (</think>) and `</think>`", "Pairs <think></think> in prompts",
        "The mark <|eot_id|>", "Padding, such as <pad><pad>", "The marks <s>/</s>", "Marks like '</s>'",
        "Generics: List<Thought>",
    ],
)  # fmt: skip
def test_what_only_looks_like_reasoning_stays(said):
    assert clean(said) == said


@pytest.mark.parametrize(
    "said", ["</think></think>", "Hm</think></think>left", "left</s><pad>\n<think>Hm", "left. <s> [EOS]</s>"]
)
def test_nothing_is_left_to_be_cut_off(said):
    """Or an answer that was kept would be asked for again in every run."""
    assert clean(clean(said)) == clean(said)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"content": [{"type": "text", "text": "left "}, {"type": "text", "text": "of"}]}, "left of"),
        ({"content": [{"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "left"}]}, "left"),
        ({"content": "<think>right?</think>\nleft"}, "left"),
        ({"content": "left \ud800", "refusal": None}, "left ?"),
        ({"content": [{"text": "left "}, {"type": None, "text": "of"}]}, "left of"),
        ({"content": {"text": "left"}}, "left"),
    ],
)
def test_an_answer_is_its_text_alone(server, tables, tmp_path, message, expected):
    server.body = completion(message, None, model=None, usage={"prompt_tokens": None})
    found = describe(tables, tmp_path, request(server))
    assert set(found["description"]) == {expected}
    assert set(found["finish_reason"].fillna("")) == {""}
    assert set(found["model"].fillna("")) == {""}
    assert set(found["prompt_tokens"]) == {-1}


def test_answers_of_old_versions_that_are_none_are_asked_for_again(server, tables, tmp_path):
    """They kept the text "None" where an endpoint sent null, and answers that were cut off."""
    describe(tables, tmp_path, request(server))
    cache = tmp_path / "cache" / "answers.jsonl"
    old = [json.loads(line) for line in cache.read_text().splitlines()]
    old[0]["answer"] |= {"text": "None", "finish_reason": "stop"}
    old[1]["answer"] |= {"text": "about a", "finish_reason": "abort"}
    old[2]["answer"] |= {"text": "Hm</think> about a"}
    cache.write_text("".join(json.dumps(entry) + "\n" for entry in old))
    found = describe(tables, tmp_path, request(server))
    assert len(server.requests) == 3 + 3
    assert (found["description"].str.startswith("about ")).all()


@pytest.mark.parametrize("retry_after", ["1", "nonsense", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_a_pause_that_the_endpoint_asks_for_is_kept_if_it_can_be_read(server, retry_after):
    server.script, server.headers = [429], {"Retry-After": retry_after}
    started = time.monotonic()
    answer = Endpoint(url(server), None, 5.0, 1, 0.0).ask("m", "hello", 0.0, 5)
    assert answer.text == "about 5"
    assert (time.monotonic() - started >= 1) == (retry_after == "1")


def test_a_slow_endpoint_is_told_from_an_absent_one(server):
    server.pause_s = 0.5
    with pytest.raises(EndpointError, match=r"longer than labelling.timeout_s = 0.1 s; raise it"):
        Endpoint(url(server), None, 0.1, 0, 0.0).ask("m", "hello", 0.0, 5)


def test_a_complaint_that_repeats_the_key_does_not_show_it(server):
    server.script, server.body = [401], json.dumps({"error": {"message": f"bad key {KEY}"}})
    with pytest.raises(EndpointError, match=r"says 'bad key \*\*\*'"):
        Endpoint(url(server), KEY, 5.0, 0, 0.0).ask("m", "hello", 0.0, 5)


def test_no_endpoint_is_an_error(tables, tmp_path, server):
    closed = request(server, base_url="http://127.0.0.1:9/v1", retries=0)
    with pytest.raises(EndpointError, match="no answer"):
        describe(tables, tmp_path, closed)


def test_a_key_is_sent_and_shown_nowhere(server, tables, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TEST_KEY", KEY)
    with caplog.at_level(logging.DEBUG):
        describe(tables, tmp_path, request(server, api_key_env="TEST_KEY"))
        server.script = [401]
        with pytest.raises(EndpointError) as error:
            describe(tables, tmp_path, request(server, api_key_env="TEST_KEY", max_tokens=8))
    assert server.requests[0][1] == f"Bearer {KEY}"
    assert KEY not in caplog.text
    assert KEY not in str(error.value)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert not any(KEY.encode() in path.read_bytes() for path in written)


def test_a_missing_key_is_an_error_before_any_call(server, tables, tmp_path, monkeypatch):
    monkeypatch.delenv("TEST_KEY", raising=False)
    with pytest.raises(EndpointError, match="environment variable TEST_KEY is not set"):
        describe(tables, tmp_path, request(server, api_key_env="TEST_KEY"))
    assert server.requests == []


def test_nothing_is_asked_twice(server, tables, tmp_path):
    server.script = [200, 401]
    with pytest.raises(EndpointError):
        describe(tables, tmp_path, request(server))
    assert len(server.requests) == 2
    first = describe(tables, tmp_path, request(server))
    assert len(server.requests) == 4
    again = describe(tables, tmp_path, request(server))
    assert len(server.requests) == 4
    assert again.equals(first)


def test_another_model_is_asked_anew(server, tables, tmp_path):
    describe(tables, tmp_path, request(server))
    describe(tables, tmp_path, request(server, model="other"))
    assert len(server.requests) == 6


def test_a_line_that_a_crash_cut_off_is_asked_again(server, tables, tmp_path):
    describe(tables, tmp_path, request(server))
    cache = tmp_path / "cache" / "answers.jsonl"
    cache.write_text(cache.read_text()[:-10])
    assert len(Cache(cache).known) == 2
    assert len(describe(tables, tmp_path, request(server))) == 3
    assert len(server.requests) == 4


def test_an_answer_behind_a_line_that_a_crash_cut_off_is_kept(tmp_path):
    (tmp_path / "answers.jsonl").write_text('{"key": "a", "answer": {"text": "ha')
    answer = read_reply({"choices": [{"message": {"content": "left"}}], "usage": {"prompt_tokens": 3}}, 9)
    Cache(tmp_path / "answers.jsonl").add("b", answer)
    Cache(tmp_path / "answers.jsonl").add("c", answer)
    assert Cache(tmp_path / "answers.jsonl").known == {"b": answer, "c": answer}
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("count", [float("nan"), float("inf"), None, "many"])
def test_what_is_no_count_of_tokens_is_none(count):
    body = {"choices": [{"message": {"content": "left"}}], "usage": {"prompt_tokens": count}}
    assert read_reply(body, 9).prompt_tokens == -1


def test_calls_and_cost_are_announced_before_the_first(server, tables, tmp_path, caplog):
    server.script = [401]
    how = request(server, price_input=1.0, price_output=10.0)
    with caplog.at_level(logging.INFO), pytest.raises(EndpointError):
        describe(tables, tmp_path, how)
    assert "3 calls to" in caplog.text
    assert "at most about 0.00" in caplog.text
    assert announce(["x" * 4_000_000], how).endswith("at most about 1.00 at the configured prices")


def test_redirects_are_not_followed(server):
    """A redirect could carry the key to another host."""
    server.script = [307]
    with pytest.raises(EndpointError, match="status 307"):
        Endpoint(url(server), KEY, 5.0, 0, 0.0).ask("m", "hello", 0.0, 5)
    assert len(server.requests) == 1


HOW = Request("http://here/v1", "m", 0.0, 100, "{evidence}", None, 1.0, 1, 0.0, 2.0, 8.0, 0, False)


@pytest.mark.parametrize(
    "change", [{"base_url": "http://there/v1"}, {"model": "n"}, {"temperature": 0.7}, {"max_tokens": 99}]
)
def test_another_request_has_another_answer(change):
    assert digest("p", HOW) == digest("p", replace(HOW, timeout_s=9.0, price_input=None))
    assert digest("p", HOW) != digest("q", HOW)
    assert digest("p", HOW) != digest("p", replace(HOW, **change))


def test_prompts_and_answers_have_their_prices():
    # A million tokens of prompts at 2, and as many of answers at 8.
    said = announce(["x" * 400] * 10_000, HOW)
    assert "10000 calls" in said and "about 1000000 tokens of prompts" in said
    assert said.endswith("at most 1000000 tokens of answers: at most about 10.00 at the configured prices")


def test_evidence_is_written_by_rank():
    rows = [("word", 1, "b", 0.2), ("trait", 0, "c", 0.5), ("word", 0, "a", 0.7)]
    lines = evidence_text(pd.DataFrame(rows, columns=["kind", "rank", "what", "effect"]), {}).splitlines()
    assert lines[0].endswith(": 'a' (0.70), 'b' (0.20).") and lines[1].endswith(": 'c' (0.50).")
    assert [line.endswith(": none.") for line in lines] == [False, False, True, True, True]


def pictures(content):
    """Decode the pictures of a prompt; none of a text."""
    urls = [] if isinstance(content, str) else [part["image_url"]["url"] for part in content[1:]]
    return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]


def test_no_picture_leaves_the_machine_unless_asked_for(server, tables, tmp_path):
    found = describe(tables, tmp_path, request(server, scored=True))
    assert all(isinstance(body["messages"][0]["content"], str) for _, _, body in server.requests)
    assert set(found["images"]) == {0}


def test_pictures_of_the_strongest_samples_are_sent_small(server, tables, tmp_path):
    server.answer = lambda content: "a teal thing"
    found = describe(tables, tmp_path, request(server, images=2), features=1)
    (content,) = [body["messages"][0]["content"] for _, _, body in server.requests]
    assert "pictures are those of the samples on which it is strongest" in content[0]["text"]
    # The second sample has none.
    assert [one.size for one in pictures(content)] == [(512, 341)] * 2
    assert found.loc[0, "images"] == 2 and found.loc[0, "description"] == "a teal thing"


def detector(content):
    """Describe a feature; then see the description in most samples that fire, and in one that is silent."""
    text = content if isinstance(content, str) else content[0]["text"]
    if "Does the description fit" not in text:
        return "unclear." if "<b>5</b>" in text else "teal"
    fits = any(f"text {sample}" in text for sample in ("fires 0", "fires 1", "fires 2", "silent 3"))
    return " **Yes**, it does." if fits else "perhaps" if "silent 2" in text else "No"


def test_descriptions_are_scored_on_samples_they_were_not_made_of(server, tables, tmp_path):
    server.answer = detector
    found = describe(tables, tmp_path, request(server, scored=True, images=1)).set_index("feature")
    row = found.loc[3]
    # What is neither yes nor no is wrong.
    assert (row["hits"], row["fires"], row["false_alarms"], row["silent"]) == (3, 4, 2, 4)
    assert row["balanced_accuracy"] == pytest.approx((3 / 4 + 2 / 4) / 2)
    expected = fisher_exact([[3, 1], [2, 2]], alternative="greater").pvalue
    assert row["detection_p"] == pytest.approx(expected)
    unclear = found.loc[5]
    assert (unclear["fires"], unclear["silent"]) == (0, 0) and pd.isna(unclear["detection_p"])
    detections = read_table(tmp_path / "detections.csv", DETECTIONS)
    assert set(detections["feature"]) == {3, 9} and len(detections) == 16
    assert set(detections["answer"]) == {"yes", "no", "perhaps"}
    assert not detections["sample_id"].str.startswith("shown").any()
    asked = [body["messages"][0]["content"] for _, _, body in server.requests[3:]]
    assert len(asked) == 8, "features of one description ask one question"
    assert sorted(len(pictures(content)) for content in asked) == [0] * 2 + [1] * 6
    with_picture = [content for content in asked if not isinstance(content, str)]
    assert all("together with this picture" in content[0]["text"] for content in with_picture)


def test_questions_that_follow_are_announced(server, tables, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        describe(tables, tmp_path, request(server, scored=True), features=2)
    assert (
        "descriptions: 2 calls" in caplog.text
        and "then up to 16 short questions" in caplog.text
        and "detections: 8 calls" in caplog.text
    )
    assert caplog.text.count("0 answers are known already") == 2


def test_an_interrupted_scoring_asks_for_what_is_missing(server, tables, tmp_path):
    server.answer = detector
    server.script = [200] * 5 + [401]
    with pytest.raises(EndpointError, match="401"):
        describe(tables, tmp_path, request(server, scored=True))
    before = len(server.requests)
    describe(tables, tmp_path, request(server, scored=True))
    assert before == 6 and len(server.requests) - before == 3 + 8 - 5


def test_what_pictures_cost_is_not_told(server, tables, tmp_path, caplog):
    how = request(server, images=2, price_input=1.0, price_output=10.0)
    with caplog.at_level(logging.INFO):
        describe(tables, tmp_path, how)
    assert "and 6 pictures" in caplog.text and "without what pictures cost" in caplog.text


@pytest.mark.parametrize("status", [400, 415, 422])
def test_an_endpoint_that_refuses_pictures_is_told_what_to_do(server, tables, tmp_path, status):
    server.script = [status] * 9
    with pytest.raises(EndpointError, match="cannot see, set labelling.images: 0"):
        describe(tables, tmp_path, request(server, images=1))


def test_a_token_that_is_spelled_like_a_feature_stays_a_token():
    rows = [("word", 0, "L0F3", 0.2), ("neighbour", 0, "L0F3", 0.5)]
    evidence = pd.DataFrame(rows, columns=["kind", "rank", "what", "effect"])
    lines = evidence_text(evidence, {"L0F3": "on 'left'"}).splitlines()
    assert lines[0].endswith("'L0F3' (0.20).") and lines[-1].endswith("\"on 'left'\" (0.50).")
