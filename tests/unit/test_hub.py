"""The hub through a real cache and a real server: what is fetched, what is pinned, what the errors say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from local_hub import COMMIT, serving
from published_dictionaries import write_hub_cache

from vlmdiff.config.sources import HubSource

ROOT = Path(__file__).parents[2]
NEWER = "d" * 40
FILES = {"config.json": b'{"model_type": "llama"}', "model.safetensors": b"weights", "README.md": b"words"}
ERRORS = {
    "who/gated": (403, "GatedRepo"),
    "who/absent": (401, "RepoNotFound"),
    "who/model@gone": (404, "RevisionNotFound"),
}


@pytest.fixture
def server(tmp_path):
    """Address and server of a hub with one model."""
    folder = tmp_path / "hub" / "who" / "model"
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    with serving(tmp_path / "hub", ERRORS) as hub:
        yield hub.url, hub


def python(code, home, **environment):
    """Run code as a user's process would, with its own cache and endpoint."""
    values = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | {
        "PYTHONPATH": str(ROOT / "workflow_scripts"),
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        **environment,
    }
    run = subprocess.run(
        [sys.executable, "-c", code], env=values, text=True, capture_output=True, check=False
    )
    return run.returncode, run.stdout + run.stderr


def fetch(source, target):
    return (
        f"from vlmdiff.hub.checkpoints import fetch_checkpoint\nfetch_checkpoint({source!r}, {str(target)!r})"
    )


def test_a_checkpoint_is_fetched_and_stays_at_its_commit(server, tmp_path):
    endpoint, hub = server
    target = tmp_path / "vlm"
    for newest in (COMMIT, NEWER):
        hub.commit = newest
        status, output = python(fetch("hub:who/model@main", target), tmp_path / "home", HF_ENDPOINT=endpoint)
        assert status == 0, output
        record = json.loads((target / "hub.json").read_text())
        assert record["commit"] == COMMIT
        assert json.loads((target / "commit.json").read_text()) == {
            "repository": "who/model",
            "commit": COMMIT,
        }
    names = ["commit.json", "config.json", "hub.json", "model.safetensors"]
    assert sorted(path.name for path in target.iterdir()) == names
    assert not (target / "config.json").is_symlink()
    assert (target / "model.safetensors").read_bytes() == b"weights"
    assert record["files"] == {"config.json": 23, "model.safetensors": 7}
    status, output = python(fetch("hub:who/model@v2", target), tmp_path / "home", HF_ENDPOINT=endpoint)
    assert status == 0, output
    assert json.loads((target / "hub.json").read_text())["commit"] == NEWER
    assert json.loads((target / "commit.json").read_text())["commit"] == NEWER


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "hub:who/gated@main",
            ["who/gated@main: access is gated", "hf auth login", "huggingface.co/who/gated"],
        ),
        ("hub:who/absent@main", ["no such repository, or it is private"]),
        ("hub:who/model@gone", ["has no revision 'gone'"]),
    ],
)
def test_each_refusal_says_which_and_what_to_do(server, tmp_path, source, words):
    status, output = python(fetch(source, tmp_path / "vlm"), tmp_path / "home", HF_ENDPOINT=server[0])
    assert status != 0
    last = output.strip().splitlines()[-1]
    assert last.startswith("vlmdiff.hub.fetch.HubError: ")
    for word in words:
        assert word in last
    assert not (tmp_path / "vlm").exists()


def test_a_hub_that_does_not_answer(tmp_path):
    code = fetch("hub:who/model@main", tmp_path / "vlm")
    status, output = python(code, tmp_path / "home", HF_ENDPOINT="http://127.0.0.1:9")
    assert status != 0
    assert "cannot be reached" in output.strip().splitlines()[-1]


def test_a_cache_that_cannot_be_written_is_named(server, tmp_path):
    endpoint, _ = server
    code = fetch("hub:who/model@main", tmp_path / "vlm")
    status, output = python(code, "/proc/nothing", HF_ENDPOINT=endpoint)
    assert status != 0
    assert "HF_HOME (/proc/nothing) cannot be written: set HF_HOME to" in output.strip().splitlines()[-1]


def test_offline_reads_the_cache_and_says_what_is_not_there(tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    for name, content in FILES.items():
        (made / name).write_bytes(content)
    files = {name: made / name for name in FILES}
    write_hub_cache(tmp_path / "home" / "hub", "who/model", files, COMMIT)
    code = fetch("hub:who/model@main", tmp_path / "vlm")
    status, output = python(code, tmp_path / "home", HF_HUB_OFFLINE="1")
    assert status == 0, output
    assert json.loads((tmp_path / "vlm" / "hub.json").read_text())["commit"] == COMMIT
    status, output = python(code.replace("who/model", "who/other"), tmp_path / "home", HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE forbids" in output.strip().splitlines()[-1]


def test_only_pickled_weights_are_read_where_there_are_no_others(tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    names = ("config.json", "pytorch_model.bin", "tf_model.h5", "additional_chat_templates/rag.jinja")
    (made / "additional_chat_templates").mkdir()
    for name in names:
        (made / name).write_bytes(b"{}")
    write_hub_cache(tmp_path / "home" / "hub", "who/old", {n: made / n for n in names}, COMMIT)
    status, output = python(fetch("hub:who/old", tmp_path / "vlm"), tmp_path / "home", HF_HUB_OFFLINE="1")
    assert status == 0, output
    assert (tmp_path / "vlm" / "pytorch_model.bin").is_symlink()
    assert (tmp_path / "vlm" / "additional_chat_templates" / "rag.jinja").read_bytes() == b"{}"


@pytest.mark.parametrize("text", ["hub:", "hub:name", "hub:a/b/c", "hub:/b@main"])
def test_sources_of_another_form_are_refused(text):
    with pytest.raises(ValueError, match="expected hub:OWNER/NAME@REVISION"):
        HubSource.parse(text)


def test_vsr_is_read_from_the_hubs_cache_and_vqa_says_what_it_lacks(tmp_path):
    annotations = ROOT / "resources" / "vsr_random" / "dev.jsonl"
    cache = tmp_path / "home" / "hub"
    write_hub_cache(cache, "cambridgeltl/vsr_random", {"dev.jsonl": annotations}, COMMIT, "dataset")
    images = tmp_path / "coco"
    images.mkdir()
    from PIL import Image

    for line in annotations.read_text().splitlines():
        Image.new("RGB", (4, 4)).save(images / json.loads(line)["image"])
    entry = {"kind": "vsr", "source": "hub:cambridgeltl/vsr_random@main", "split": "dev", "samples": 1097}
    code = (
        "from vlmdiff.data.prepare import prepare_dataset\n"
        f"prepare_dataset('d', {entry | {'images': str(images)}!r}, "
        f"{str(tmp_path / 'd' / 'samples.jsonl')!r}, {str(tmp_path / 'd' / 'counts.csv')!r})"
    )
    status, output = python(code, tmp_path / "home", HF_HUB_OFFLINE="1")
    assert status == 0, output
    assert len((tmp_path / "d" / "samples.jsonl").read_text().splitlines()) == 1097
    vqa = code.replace("'vsr'", "'vqav2'").replace("cambridgeltl/vsr_random", "lmms-lab/VQAv2")
    status, output = python(vqa, tmp_path / "home", HF_HUB_OFFLINE="1")
    assert status != 0
    assert "hub dataset lmms-lab/VQAv2@main: not in the cache" in output.strip().splitlines()[-1]


@pytest.mark.parametrize("home", ["/proc/nothing", "file/home"])
def test_a_local_corpus_needs_no_cache_that_can_be_written(tmp_path, home):
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "train.jsonl").write_text(json.dumps({"text": "a text of eight words or a few more"}) + "\n")
    entry = {"kind": "text", "source": str(tmp_path), "samples": 1}
    code = (
        "from vlmdiff.data.prepare import prepare_dataset\n"
        f"prepare_dataset('d', {entry!r}, {str(tmp_path / 'd' / 'samples.jsonl')!r}, "
        f"{str(tmp_path / 'd' / 'counts.csv')!r})"
    )
    status, output = python(code, tmp_path / home, HF_HUB_OFFLINE="1")
    assert status == 0, output
    assert "of eight words" in (tmp_path / "d" / "samples.jsonl").read_text()
