"""Files that extend others, several files, and keys of the command line make one configuration."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from snakemake_interface_executor_plugins.utils import format_cli_arg

from vlmdiff.config.layers import command_value, has_section, reaches_jobs, read_layers
from vlmdiff.config.load import ConfigError, load_config

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "workflow" / "config.yaml"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Work in a folder of its own, so that relative paths are those of the test."""
    monkeypatch.chdir(tmp_path)


def write(path: str, text: str) -> Path:
    """Write a file into the working directory."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def merged(*texts: str, settings: tuple[str, ...] = ()) -> dict:
    """Return what several files, the first one lowest, and the command line make together."""
    files = [write(f"{number}.yaml", text) for number, text in enumerate(texts)]
    return read_layers({}, files, settings).values


def refused(*files: Path, settings: tuple[str, ...] = (), values: object = None) -> str:
    with pytest.raises(ConfigError) as error:
        read_layers(values or {}, files, settings)
    return str(error.value)


def test_sections_are_merged_and_all_else_is_replaced():
    below = "a: {x: 1, y: {z: 2, w: [1, 2]}}\nb: [1, 2, 3]\nc: {d: 1}\ne: 5"
    above = "a: {y: {w: [9]}, v: 4}\nb: [7]\nc: 6\ne: {f: 8}"
    assert merged(below, above) == {
        "a": {"x": 1, "y": {"z": 2, "w": [9]}, "v": 4},
        "b": [7],
        "c": 6,
        "e": {"f": 8},
    }


def test_a_null_removes_what_is_inherited_and_is_never_a_value():
    assert merged("a: {x: 1, y: 2}\nb: 3\nc: {d: 4}", "a: {x: ~}\nc: ~\nnew: {z: ~}") == {
        "a": {"y": 2},
        "b": 3,
        "new": {},
    }
    assert merged("a: {x: ~, y: 2}\nb: ~") == {"a": {"y": 2}}
    # What was removed does not come back with what is set after it.
    assert merged("s: {x: 1}", "s: ~", "s: {y: 2}") == {"s": {"y": 2}}
    assert merged("a: [1, ~, {b: ~}]") == {"a": [1, None, {"b": None}]}, "lists are taken as they are"


def test_a_section_can_inherit_nothing():
    assert merged("a: {x: 1, y: {z: 2}}\nb: 1", "a: {extends: false, w: 3}") == {"a": {"w": 3}, "b": 1}
    assert merged("a: {x: 1}", "a: {extends: false}") == {"a": {}}
    assert merged("a: {x: 1}", "extends: false\nb: 2") == {"b": 2}


def test_files_extend_files_and_later_ones_win():
    write("deep/er/root.yaml", "seed: 1\nthreads: 2\nseeds: 3\na: {x: 1, y: 1}")
    write("deep/middle.yaml", "extends: er/root.yaml\nthreads: 20\na: {y: 20}")
    write("deep/side.yaml", "seeds: 300\nthreads: 200")
    top = write("top.yaml", "extends: [deep/middle.yaml, deep/side.yaml]\na: {z: 4000}")
    layers = read_layers({}, [top])
    assert layers.values == {"seed": 1, "threads": 200, "seeds": 300, "a": {"x": 1, "y": 20, "z": 4000}}
    assert [file.name for file in layers.files] == ["top.yaml", "middle.yaml", "root.yaml", "side.yaml"]


def test_a_file_removes_a_key_of_the_files_below_those_that_it_extends():
    write("part.yaml", "b: 2")
    assert merged("a: 1\nc: 3", "extends: part.yaml\na: ~") == {"c": 3, "b": 2}


def test_one_file_may_be_extended_along_two_ways():
    write("root.yaml", "seed: 1")
    write("left.yaml", "extends: root.yaml\nthreads: 2")
    write("right.yaml", "extends: root.yaml\nseeds: 3")
    assert merged("extends: [left.yaml, right.yaml]") == {"seed": 1, "threads": 2, "seeds": 3}


def test_files_are_looked_for_beside_the_file_then_here_then_in_the_workflow():
    home = Path("workflow/config")
    for folder, seed in (("own", 1), (".", 2), (str(home), 3)):
        write(f"{folder}/parent.yaml", f"seed: {seed}")
    overlay = write("own/overlay.yaml", "extends: parent.yaml")
    for expected in (1, 2, 3):
        found = read_layers({}, [overlay], home=home)
        assert found.values == {"seed": expected}
        found.files[1].unlink()
    with pytest.raises(ConfigError) as error:
        read_layers({}, [overlay], home=home)
    said = str(error.value)
    assert said.startswith(
        "extends: found 'parent.yaml', in own/overlay.yaml, line 1, but there is no such file"
    )
    assert all(str(Path(folder).absolute()) in said for folder in ("own", ".", home))


def test_circles_are_told():
    one = write("one.yaml", "extends: sub/two.yaml")
    write("sub/two.yaml", "extends: ../three.yaml")
    write("three.yaml", "extends: one.yaml")
    assert "a config cannot extend itself (one.yaml -> sub/two.yaml -> " in refused(one)
    assert "(self.yaml -> self.yaml)" in refused(write("self.yaml", "extends: self.yaml"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- 1", "expected `key: value` lines, found list"),
        ("", "expected `key: value` lines, found nothing"),
        ("seed", "expected `key: value` lines, found str"),
        ("a: [1", "line 1, column 6: expected ',' or ']', but got '<stream end>'"),
        ("a: [1", "while parsing a flow sequence that begins in line 1; close the bracket"),
        ("a: &a [*a]", "cannot be read as a config (an anchor holds itself)"),
        ("? [1]\n: 2", "no YAML: line 1, column 3: found unhashable key"),
        ("a: !mine 3", "no YAML: line 1, column 4: could not determine a constructor for the tag '!mine'"),
        ("a:\n\tb: 1", "line 2, column 1: found character '\\t' that cannot start any token; indent with"),
        ('a: "b\nc: 1\n', "while scanning a quoted scalar that begins in line 1; close the quotes"),
        ("a:\n  b: 1\n c: 2", "line 3, column 2: expected <block end>, but found '<block mapping start>'"),
        ("a:\n  b: 1\n c: 2", "while parsing a block mapping that begins in line 1; indent all keys"),
        ("a: b: 1", "line 1, column 5: mapping values are not allowed here; put a text that holds `: `"),
        ("a: @b", "line 1, column 4: found character '@' that cannot start any token; put the text in"),
        ("a: *b", "line 1, column 4: found undefined alias 'b'; name an anchor"),
        ("a: 1\nb:2\nc: 3", "could not find expected ':' while scanning a simple key that begins in line 2"),
        ("__use_yte__: true\na: ?1 +", "cannot be filled in: Error processing template in section /a: "),
    ],
)
def test_what_is_no_config_is_told_with_its_name(text, words):
    write("sub/parent.yaml", text)
    said = refused(write("top.yaml", "extends: sub/parent.yaml"))
    assert said.startswith("sub/parent.yaml: ") and words in said and "\n" not in said


def test_a_file_of_another_encoding_and_wrong_json_are_told():
    top = write("top.yaml", "extends: parent.json")
    Path("parent.json").write_bytes('{"experiment": "café"}'.encode("latin-1"))
    said = refused(top)
    assert "parent.json: cannot be read as a config ('utf-8' codec" in said and "save it as UTF-8" in said
    write("parent.json", '{"seed": 4,\n"a"}')
    said = refused(top)
    assert said.startswith("parent.json: no JSON: ") and "line 2 column 4" in said


@pytest.mark.parametrize("value", ["3", "{a: 1}", "[1]", "['']", "true"])
def test_extends_names_files(value):
    said = refused(write("top.yaml", f"seed: 1\nextends: {value}"))
    assert "extends: expected a file or a list of files" in said and "in top.yaml, line 2" in said


def test_json_and_templates_are_read_as_snakemake_reads_them():
    write("parent.json", json.dumps({"seed": 4, "a": {"b": [1]}}, indent="\t"))
    assert merged("extends: parent.json\nthreads: 2") == {"seed": 4, "a": {"b": [1]}, "threads": 2}
    assert merged("__use_yte__: true\nseed: ?20 + 3") == {"seed": 23}


def test_merge_keys_and_anchors_stand_for_their_values_and_their_lines():
    text = "a: &a\n  x: 1\n  y: 2\nb:\n  <<: *a\n  y: 3\n"
    layers = read_layers({}, [write("one.yaml", text)])
    assert layers.values == yaml.safe_load(text) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}
    assert layers.where("b.x") == "in one.yaml, line 2"
    assert layers.where("b.y") == "in one.yaml, line 6"


def test_each_key_has_its_place():
    write("below.yaml", "seed: 1\nmodels:\n  vlm:\n    family: llava\n    path: x\nlayers: [0]\n")
    above = write("above.yaml", "extends: below.yaml\nmodels:\n  vlm: { path: y }\nruns:\n- a: 1\n- a: 2\n")
    layers = read_layers({}, [above], ["seed=2", "models__vlm__dtype=float16"])
    places = {
        "seed": "on the command line",
        "models.vlm.family": "in below.yaml, line 4",
        "models.vlm.path": "in above.yaml, line 3",
        "models.vlm.dtype": "on the command line",
        "models.vlm.chat": "on the command line",
        "layers": "in below.yaml, line 6",
        "layers.0": "in below.yaml, line 6",
        "runs.1.a": "in above.yaml, line 6",
        "nothing": "on the command line",
    }
    assert {key: layers.where(key) for key in places} == places
    assert layers.located("layers: wrong") == "layers: wrong (in below.yaml, line 6)"
    assert layers.located("All of it is wrong") == "All of it is wrong"


def test_errors_name_the_file_of_each_key():
    write("sub/below.yaml", TINY.read_text())
    line = 1 + TINY.read_text().splitlines().index("heads:") + 1
    write("above.yaml", "extends: sub/below.yaml\nseeds: 0\nablation:\n  candidats: 3\ndiff: { null: x }")
    settings = ["extraction__storage=int8", "heads__features=5", "heads__features=many"]
    layers = read_layers({}, [Path("above.yaml")], settings)
    with pytest.raises(ConfigError) as error:
        load_config(layers.values, layers.where)
    said = {one.split(":")[0].strip(): one for one in str(error.value).splitlines()[1:]}
    assert said["seeds"].endswith("(found: 0; in above.yaml, line 2)")
    assert said["ablation.candidats"].endswith("(found: 3; in above.yaml, line 4)")
    assert said["extraction.storage"].endswith("(found: 'int8'; on the command line)")
    assert said["heads.features"].endswith("(found: 'many'; on the command line)")
    assert said["diff.None"].endswith("in above.yaml, line 5)")
    # Checks across sections begin with a key too.
    write("above.yaml", "extends: sub/below.yaml")
    layers = read_layers({}, [Path("above.yaml")], ["heads__concepts=[smell]"])
    with pytest.raises(ConfigError, match="heads.concepts: unknown concept 'smell'.*on the command line"):
        load_config(layers.values, layers.where)
    layers = read_layers({}, [Path("above.yaml")], ["concepts={shape: {extends: false}}", "heads="])
    with pytest.raises(ConfigError, match=r"concepts\.shape\.target: Field required.*on the command line"):
        load_config(layers.values, layers.where)
    write("above.yaml", "extends: sub/below.yaml\nconcepts: { extends: false, counting: ~ }")
    layers = read_layers({}, [Path("above.yaml")])
    with pytest.raises(ConfigError, match=r"concepts: .*in above\.yaml, line 2"):
        load_config(layers.values, layers.where)
    write("above.yaml", "extends: sub/below.yaml\nheads: { samples: x }")
    layers = read_layers({}, [Path("above.yaml")])
    assert layers.where("heads.concepts") == f"in sub/below.yaml, line {line}"


@pytest.mark.parametrize("section", ["models", "diff", "dictionaries.base", "world.tuning"])
def test_a_section_extends_no_file(section):
    values = read_layers({}, [TINY], [f"{section.replace('.', '__')}__extends=other.yaml"]).values
    with pytest.raises(ConfigError, match=f"{section}.extends: a file extends another one, a section cannot"):
        load_config(values)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1e-3", 0.001),
        ("true", True),
        ("True", True),
        ("", None),
        ("~", None),
        ("left of", "left of"),
        ("world:vlm", "world:vlm"),
        ("[0, 15]", [0, 15]),
        ("'quoted'", "quoted"),
        ("{a: {b: ['1', 2]}}", {"a": {"b": ["1", 2]}}),
        ("{'a': 50}", {"a": 50}),
        ("a: b: c", "a: b: c"),
    ],
)
def test_values_of_the_command_line_are_numbers_or_yaml(text, value):
    found = command_value(text).plain()
    assert found == value and type(found) is type(value)


def test_the_command_line_lies_over_all_files():
    write("more.yaml", "seed: 30\nb: {x: 9}")
    settings = ("seed=3", "a__x=4", "a__z__u=5", "a={y: [6]}", "b=", "c__d=")
    below = "seed: 1\na: {x: 1, z: {v: 2}}\nb: {x: 1, y: 2}\nc: {d: 1, e: 2}"
    expected = {"seed": 3, "a": {"x": 4, "z": {"v": 2, "u": 5}, "y": [6]}, "c": {"e": 2}}
    assert merged("seed: 0\nb: {z: 3}", below, settings=settings) == expected
    assert merged(below, settings=("extends=more.yaml", "c="))["b"] == {"x": 9, "y": 2}


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (
            "ablatoin__candidates=5",
            "ablatoin.candidates: 'ablatoin' is no section, on the command line; did you",
        ),
        (
            "dictionaries__bsae__steps=5",
            "'dictionaries.bsae' is no section, on the command line; did you mean 'base'",
        ),
        ("dictionaries__x__architecture__k=5", "'dictionaries.x' is no section"),
        ("world__datasets__mine__samples=8", "'world.datasets.mine' is no section"),
        ("seed__x=5", "seed.x: 'seed' is no section, on the command line; it has no keys: set it as a whole"),
        ("evaluation__0__seeds=1", "'evaluation' is no section, on the command line; it has no keys"),
        ("threads__x=5", "'threads' is no section"),
        ("a='\"", "a: found '\", on the command line, but Snakemake hands no backslash"),
        ("a=x\\n", "write the value into a file"),
    ],
)
def test_keys_that_lead_nowhere_are_told(setting, words):
    assert words in refused(TINY, settings=(setting,))


@pytest.mark.parametrize(
    "setting",
    [
        "resources__train_dictionary__mem_mb=9000",
        "labels__tokens=7",
        "world__tuning__skew=0.5",
        "dictionaries__scratch__architecture__k=2",
        "held_out__shared_images=keep",
        "comparisons={new: {target: all, about: x}}",
    ],
)
def test_sections_that_a_config_leaves_out_can_be_entered(setting):
    key, _, text = setting.partition("=")
    found = load_config(read_layers({}, [TINY], [setting]).values).model_dump()
    for part in key.split("__"):
        found = found[part]
    assert text.startswith("{") or str(found) == text


def test_sections_are_those_of_the_schema():
    assert has_section(["ablation"]) and has_section(["resources", "x"]) and has_section(["labelling"])
    assert has_section(["dictionaries", "x", "by_layer", "l0"]) and has_section(["stages", "grid"])
    assert not any(map(has_section, (["seed"], ["models", "x"], ["models", "x", "path"], ["x"])))
    # `layers: {evenly: 4}`.
    assert has_section(["layers"])


def test_what_jobs_are_told_means_the_same():
    settings = ["a__b=5", "a=it's", 'a={b: ["1", two words]}', "a=", "a=$HOME `x` *", "a={b: 'ü|;'}"]
    command = format_cli_arg("--config", settings)
    assert shlex.split(command) == ["--config", *settings]
    assert all(map(reaches_jobs, settings))
    for setting in ('a={b: "it\'s"}', "a=\\n", "a=1\n2"):
        assert not reaches_jobs(setting)


def test_a_workflow_above_hands_over_its_own_values():
    write("parent.yaml", "seed: 1\na: {x: 1, y: 2}")
    values = {"extends": "parent.yaml", "a": {"y": None, "z": 3}}
    layers = read_layers(values)
    assert layers.values == {"seed": 1, "a": {"x": 1, "z": 3}}
    assert layers.where("a.z") == "in `config` of the workflow"
    assert values == {"extends": "parent.yaml", "a": {"y": None, "z": 3}}, "what was handed over stays"


def test_a_job_has_the_configuration_that_was_asked_for(tmp_path):
    write("below.yaml", f"extends: {TINY}\nexperiment: lower\nseed: 3")
    write("part.yaml", "threads: 2\nseed: 5\nsteering: ~\nworld: { controls: ~ }")
    write("above.yaml", "extends: part.yaml\nexperiment: upper")
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--cores", "1"]
    command += ["results/upper/config.yaml", "--configfile", "below.yaml", "above.yaml", "--config"]
    command += [
        "ablation__candidates=5",
        'concepts={counting: {words: ["two", no one]}}',
        "heads__bootstrap=1e2",
    ]
    run = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    found = yaml.safe_load(Path("results/upper/config.yaml").read_text())
    expected = yaml.safe_load(TINY.read_text()) | {"experiment": "upper", "seed": 5, "threads": 2}
    del expected["steering"], expected["world"]["controls"]
    expected["ablation"]["candidates"] = 5
    expected["concepts"]["counting"]["words"] = ["two", "no one"]
    assert found == load_config(expected).model_dump(mode="json")


def test_a_key_that_stands_twice_is_refused_with_both_lines(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "seed: 1\nmodels:\n  a: &a {path: x, family: llava}\n  b: {<<: *a, path: y}\n  a: {path: z}\n"
    )
    with pytest.raises(
        ConfigError, match=r"^\S*mine\.yaml: found the key 'a' in lines 3 and 5 of one section"
    ):
        read_layers({}, [file])
    # A key that is said again over a merged one is no double.
    file.write_text("models:\n  a: &a {path: x, family: llava}\n  b: {<<: *a, path: y}\n")
    assert read_layers({}, [file]).values["models"]["b"] == {"path": "y", "family": "llava"}


def test_what_is_derived_was_written_at_data(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("experiment: mine\ndata: photos\nmodels: {}\n")
    found = read_layers({}, [file], ["dictionaries__base__steps=7"])
    assert found.where("datasets.train.samples").endswith("mine.yaml, line 2")
    assert found.values["dictionaries"] == {"base": {"steps": 7}}
    with pytest.raises(ConfigError, match="'dictionary' is no section"):
        read_layers({}, [file], ["dictionary__base=7"])
