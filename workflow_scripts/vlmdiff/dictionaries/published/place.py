"""Where in the model a published dictionary was trained: every spelling of a block's output is one number."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from vlmdiff.dictionaries.weights import DictionaryError

# Modules above a decoder's blocks; blocks of a vision tower have others.
ABOVE = "base_model|model|language_model|text_model|transformer|gpt_neox|decoder"
AFTER = re.compile(
    r"blocks\.(\d+)\.hook_(?:resid_post|out)"
    rf"|(?:(?:{ABOVE})\.)*(?:layers|h|blocks)\.(\d+)(?:\.output)?"
    r"|resid_post_layer_(\d+)"
)
BEFORE = re.compile(
    rf"blocks\.(\d+)\.hook_(?:resid_pre|in)|(?:(?:{ABOVE})\.)*(?:layers|h)\.(\d+)\.input|resid_pre_layer_(\d+)"
)
KNOWN = (
    "blocks.N.hook_resid_post, blocks.(N+1).hook_resid_pre, model.layers.N, layers.N, transformer.h.N, "
    "gpt_neox.layers.N, resid_post_layer_N"
)

# Keys of configurations, in lower case with underscores.
NAME_KEY = re.compile(
    r"(?:hf_)?hook(?:_?(?:name|point|module|site|location))?s?(?:_(?:in|out|input|output))?"
    r"|act_name|submodule(?:_name)?"
)
# `n_layers`, `num_layers`, `encoder_layers` and `layers: 26` are counts.
NUMBER_KEY = re.compile(
    r"(?:(?:hf|hook|point|sae|target|source|model|lm|input|output|resid|residual|stream|block)_)*"
    r"(?:layer|block)(?P<many>s?)(?:_(?:in|out|input|output|idx|index|indices|ids?|no|number))*"
)
HEAD_KEY = re.compile(r"(?:hook_(?:point_)?)?head_(?:index|idx)(?:_out)?")
PART_KEY = re.compile(
    r"hook|module|location|site|component|target|stream|act_name"
    r"|(?:^|(?<!model)_)(?:part|place|point|position|type|kind|io|act(?:ivations?)?|arch(?:itecture)?)$"
)
TRANSCODER_KEY = re.compile(r"(?:trans|cross)code")
# What these tell is no place of the dictionary: files, data and the model as a whole.
OTHER_KEY = re.compile(r"path|dir|folder|file|url|data|checkpoint|tokeni[sz]er|model_name|run_name|project")

# Spellings in paths and in values of any key. Behind `hook_resid_post_` stands what concerns the training.
DOTTED = re.compile(
    r"(?<![A-Za-z0-9])(?:[A-Za-z_]\w*\.)*(?:blocks|layers|h)[.\[]\d+\]?"
    r"(?:\.hook_resid_(?:post|pre)(?=[_.])|(?:\.\w+(?:\[\d+\])?)*)"
)
MODULE = re.compile(rf"{DOTTED.pattern}|(?:resid|mlp|attn?)\w*_layer_\d+")
LAYER = re.compile(
    r"(?:(?<![A-Za-z0-9])(?<!^n[_-])(?<![^A-Za-z]n[_-])(?<!num[_-])(?i:layers?|blocks?|blk)"
    r"|(?<=[a-z])(?:Layer|Block))[-_. =]{0,2}(\d+)(?![\d]|[kKmMbBxX](?![A-Za-z]))"
    r"|(?i:res(?:id(?:ual)?)?_(?:post|pre)_)(\d+)(?![A-Za-z0-9])"
    r"|(?<![A-Za-z0-9])[Ll](\d+)(?:R|r|M|m|A|a|TC|tc)(?![A-Za-z])"
)
# Read only where nothing clearer is there. L0, L1 and L2 are norms, unless they end a part of the path.
UNCLEAR = re.compile(r"^(\d{1,3})$|(?<![A-Za-z0-9])[Ll](?:([0-2])$|([3-9]|\d\d+)(?![A-Za-z0-9]))")
# The next two search words in snake case: `ResidPre` is `Resid_Pre`.
OTHER = re.compile(
    r"""(?<![a-z])(?:
        (?<!flash[_-])(?:mlp|ffn|feed[_-]?forward|att(?:n|ention)?)[s\d]?(?:_?out)?
            (?![a-z0-9]|[_-](?:projector|adapter|connector|sinks?|mask|only))
        | (?: (?:trans|cross)[_-]?code(?:rs?)? | clt
            | res(?:id(?:ual)?)?(?:[_-]stream)?[_.-]?mid(?:dle)?
            | hook[_-](?:[qkvz]|pattern|result|normalized) | (?:[qkvoc]|qkv|out|up|down|gate)_proj
            | ln[_-]?(?:[12f]|final) | final[_-]?(?:layer|rms)?[_-]?norm | input_layernorm
            | vi(?:sion|sual)[_-](?:tower|model|encoder) | clip[_-]vision | vi_?t | head[_-]?\d+
        )(?![a-z])
        | (?<!\d)l(?:\d+|x)(?:m|a|tc|h\d+)(?![a-z])
    ) | ^(?:hook_)?embed(?:dings?)?(?:$|[_-](?:layer|tokens)) | ^in_(?:and_|to_)?out$""",
    re.IGNORECASE | re.VERBOSE,
)
BEFORE_BLOCK = re.compile(
    r"""(?<![a-z])(?:
        res(?:id(?:ual)?)?(?:[_-]stream)?[_-]?(?:pre|in(?:put)?)(?![a-z])
        | (?:layers?|blocks?|blk|l)[-_.\ ]?\d+[-_./](?:pre|inputs?|in(?![_-][a-z]))
            (?![a-z]|[_-](?:train|bias|relu|act|enc|scale))
        | (?:pre|before|inputs?)[-_.]?(?:layer|block)[-_.\ ]?\d
    ) | ^(?:pre|in|inputs?)$""",
    re.IGNORECASE | re.VERBOSE,
)
SUFFIX = re.compile(r"(?:\.sae)?\.(?:pth?|npz|safetensors|bin)$")


@dataclass(frozen=True)
class Place:
    """What files and paths tell of the place in the model, by the key or path that tells it.

    Where several are told for one key, one of them has to fit.

    Attributes:
        names: hook points or modules.
        numbers: layers without a name; where there is a name, the number in it.
        before: what tells that layers without a name count by their input.
        heads: heads of attention.
        other: what names another part of a block.
    """

    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    numbers: dict[str, tuple[int, ...]] = field(default_factory=dict)
    before: dict[str, str] = field(default_factory=dict)
    heads: dict[str, Any] = field(default_factory=dict)
    other: dict[str, str] = field(default_factory=dict)

    def __or__(self, more: Place) -> Place:
        """Put together what two sources tell."""
        return Place(
            self.names | more.names,
            self.numbers | more.numbers,
            self.before | more.before,
            self.heads | more.heads,
            self.other | more.other,
        )

    def tells_layer(self) -> bool:
        """Return whether anything tells a layer."""
        return bool(self.names or self.numbers)


def block_after(name: str) -> int | None:
    """Return the block whose output a name stands for, -1 for the embeddings; None for any other place."""
    if match := AFTER.fullmatch(name):
        return int(next(filter(None, match.groups())))
    if match := BEFORE.fullmatch(name):
        return int(next(filter(None, match.groups()))) - 1
    return None


def snake(text: str) -> str:
    """Return `ResidPre` as `Resid_Pre`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text)


def leaves(config: Mapping[Any, Any]) -> Iterator[tuple[str, str, list[Any], bool]]:
    """Yield (whole key, last key in lower case, values, whether they are a list), outer ones first.

    Values that are null or empty tell nothing and are left out.
    """
    todo, seen = deque([("", config)]), {id(config)}
    while todo:
        prefix, current = todo.popleft()
        for key, value in current.items():
            whole, listed = f"{prefix}{key}", isinstance(value, list | tuple)
            values = value if listed else [value]
            for inner in values:
                # A mapping of a pickle that holds itself would be looked into for ever.
                if isinstance(inner, Mapping) and id(inner) not in seen:
                    seen.add(id(inner))
                    todo.append((f"{whole}.", inner))
            plain = [one for one in values if isinstance(one, str | int | float) and one != ""]
            if plain:
                yield whole, snake(str(key)).replace("-", "_").lower(), plain, listed


def place_in(config: Mapping[Any, Any], path: Any) -> Place:
    """Return what a published configuration tells, under any key and however deep.

    Raises:
        DictionaryError: the name of a hook is no text, or a layer no whole number.
    """
    found = Place()
    for whole, key, values, listed in leaves(config):
        texts = [one for one in values if isinstance(one, str)]
        modules = [one for one in texts if MODULE.fullmatch(one.rpartition("/")[2])]
        if HEAD_KEY.fullmatch(key):
            found |= Place(heads={whole: values[0]})
        elif NAME_KEY.fullmatch(key):
            found |= Place(names={whole: checked(values, str, whole, path)})
        elif modules and not OTHER_KEY.search(key):
            found |= Place(names={whole: tuple(modules)})
        elif match := NUMBER_KEY.fullmatch(key):
            if not match["many"] or listed or "hook" in key:
                found |= Place(numbers={whole: checked(values, int, whole, path)})
        elif PART_KEY.search(key):
            for kind, pattern in (("before", BEFORE_BLOCK), ("other", OTHER)):
                if parts := [one for one in texts if pattern.search(snake(one))]:
                    found |= Place(**{kind: {whole: parts[0]}})
        elif TRANSCODER_KEY.search(key) and values[0] in (True, "true", "True"):
            found |= Place(other={whole: key})
    return found


def checked(values: list[Any], kind: type, key: str, path: Any) -> tuple[Any, ...]:
    """Return values if all of them are text, or layers.

    Raises:
        DictionaryError: naming the first that is not.
    """
    for value in values:
        if type(value) is not kind:
            raise DictionaryError(
                f"{path}: {key} is {value!r}, expected {'text' if kind is str else 'a layer'}. "
                "It tells the place in the model; correct it, or download the file again"
            )
    return tuple(values)


def place_in_path(path: str, unclear: bool = True, above: str = "") -> Place:
    """Return what the path of a dictionary within its source tells.

    Args:
        path: with `/` between its parts.
        unclear: read `1` and `sae_l1` too, where nothing clearer is there.
        above: folders that hold it, which may tell that layers count by their input.
    """
    found, parts = Place(), PurePosixPath(path).parts
    stems = [SUFFIX.sub("", part) for part in parts]
    kind = "names" if BEFORE_BLOCK.search(snake(f"{above}/{path}")) else "numbers"
    told = {"names": "resid_pre_layer_{}".format, "numbers": int}[kind]
    for number, stem in enumerate(stems, 1):
        key = f"the path '{PurePosixPath(*parts[:number])}'"
        if match := DOTTED.search(stem):
            found |= Place(names={key: (match[0],)})
        elif layers := numbers_in(LAYER, stem):
            found |= Place(**{kind: {key: tuple(map(told, layers))}})
        if OTHER.search(snake(stem)):
            found |= Place(other={key: stem})
    layers = [layer for stem in stems for layer in numbers_in(UNCLEAR, stem)]
    if unclear and layers and not found.tells_layer():
        found |= Place(**{kind: {f"the path '{path}'": tuple(map(told, layers))}})
    return found


def numbers_in(pattern: re.Pattern[str], text: str) -> list[int]:
    """Return the numbers that the groups of a pattern find in a text."""
    return [int(one) for match in pattern.finditer(text) for one in match.groups() if one]


def place_of_file(source: str, file: str) -> Place:
    """Return what the path of a dictionary tells, and that of its source.

    Args:
        source: as in the configuration. Its folders tell a layer only where the file does not, and a part
            of a block by its last two, or from the one above the layer on; a repository by its name.
        file: path within the source.
    """
    remote = re.match(r"(?:hub|saelens):(?:[^@]*/)?([^@]*)", source)
    folders = PurePosixPath(remote[1] if remote else source)
    above = [place_in_path(part, unclear=False) for part in folders.parts]
    first = next((i for i, one in enumerate(above) if one.tells_layer()), len(above) - 1)
    found = place_in_path(file, above=folders.name)
    if not found.tells_layer():
        found |= place_in_path(str(PurePosixPath(*folders.parts[max(0, first - 1) :])), unclear=False)
    for one in above[max(0, first - 1) :]:
        found |= Place(other=one.other)
    return found


def problems(place: Place, layer: int) -> Iterator[str]:
    """Yield what speaks against the residual stream after a block."""
    for key, value in place.heads.items():
        yield f"{key} is {value!r}: it acts on one head of attention, not on a residual stream"
    numbered = set()
    for key, names in place.names.items():
        fitting = [name for name in names if block_after(name) == layer]
        numbered |= {int(number) for name in fitting for number in re.findall(r"\d+", name)[:1]}
        if not fitting:
            yield another_place(key, names[0], layer)
    # A bare number is that of the hook or, where this is told, that of the layer.
    allowed = numbered | {layer} if numbered else {layer + bool(place.before)}
    by = "".join(f" by its input ({key} is '{one}')" for key, one in list(place.before.items())[:1])
    for key, numbers in place.numbers.items():
        if not set(numbers) & allowed:
            told, expected = (", ".join(map(str, some)) for some in (numbers, sorted(allowed)))
            yield f"{key} tells layer {told}{by}, expected {expected}"
    for key, part in place.other.items():
        yield f"{key} names another part of a block ('{part}'), not the residual stream after it"


def another_place(key: str, name: str, layer: int) -> str:
    """Say in words that a name stands for another place than the output of a block, or for an unknown one."""
    found = block_after(name)
    if found is None:
        return (
            f"{key} is '{name}', which is not known as the output of a block; known are {KNOWN}. A "
            "dictionary of another place (attention, MLP, inside a block) does not fit"
        )
    where = f"after block {found}" if found >= 0 else "before all blocks"
    return (
        f"{key}: was trained at {name}, expected blocks.{layer}.hook_resid_post; the former is the "
        f"residual stream {where}"
    )


def check_place(place: Place, path: Any, layer: int) -> None:
    """Refuse a dictionary of another place than the residual stream after a block, or of an unknown one.

    What tells no place at all is not refused.

    Raises:
        DictionaryError: saying what tells which place.
    """
    for problem in problems(place, layer):
        raise DictionaryError(
            f"{path}: {problem}. It would be imported as layer {layer}; correct `file`, `by_layer` or "
            "`layers` in the config"
        )
