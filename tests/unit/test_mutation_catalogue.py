"""`make mutants` (docs/develop/tests.md): its list fits the code, and its machinery does what it says."""

import ast
import types

import pytest
from mutation import catalogue
from mutation.bench import enclosing
from mutation.catalogue import LISTS, CatalogueError, read_entry, read_room, read_rooms, source_of
from mutation.operators import ROOMS, room_faults, sample
from mutation.swap import put_in, swaps

SOURCE = """
from functools import wraps
LIMIT = 3
def over(values):
    return [one for one in values if one > LIMIT]
class Box:
    def __init__(self, size):
        self.size = size
    @property
    def double(self):
        return self.size + self.size
"""


@pytest.mark.parametrize("path", sorted(LISTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_fault_of_the_list_still_applies(path):
    for mutation in read_room(path).mutations:
        changed = mutation.applied(source_of(mutation.file))
        assert changed != source_of(mutation.file), mutation.name
        ast.parse(changed)


def test_the_list_covers_the_core():
    rooms = {room.name: len(room.mutations) for room in read_rooms()}
    assert set(rooms) == set(ROOMS)
    assert sum(rooms.values()) >= 150 and min(rooms.values()) >= 8


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of which the catalogue reads the source."""
    monkeypatch.setattr(catalogue, "ROOT", tmp_path)
    monkeypatch.setattr(catalogue, "source_of", lambda file: SOURCE)
    return tmp_path


def entry(**values):
    return {"name": "n", "file": "m.py", "put": "0", **values}


def test_a_snippet_occurs_exactly_once(module):
    found = read_entry("room", entry(find="one > LIMIT"))
    assert "if 0]" in found.applied(SOURCE)
    for find, count in (("self.size", 3), ("nothing", 0)):
        with pytest.raises(CatalogueError, match=rf"room/n no longer applies: .* {count} times"):
            read_entry("room", entry(find=find))
    # Within one function it need not be unique elsewhere.
    inside = read_entry("room", entry(find="size = size", **{"in": "__init__"}))
    assert "self.0\n" in inside.applied(SOURCE)
    with pytest.raises(CatalogueError, match="found 0 definitions of 'gone'"):
        read_entry("room", entry(find="size", **{"in": "gone"}))


def test_functions_change_in_place_and_other_things_ask_for_an_import(tmp_path):
    file = tmp_path / "m.py"
    module = types.ModuleType("m")
    exec(compile(SOURCE, str(file), "exec", dont_inherit=True), module.__dict__)
    changed = SOURCE.replace("one > LIMIT", "one < LIMIT").replace("self.size + self.size", "self.size * 3")
    code = swaps(SOURCE, changed, file)
    assert {name for name, _ in code} == {"over", "Box.double"}
    put_in(code, file)
    assert module.over([1, 5]) == [1] and module.Box(2).double == 6
    for old, new in (("LIMIT = 3", "LIMIT = 4"), ("@property", "@wraps"), ("self, size)", "self, size=1)")):
        assert swaps(SOURCE, SOURCE.replace(old, new, 1), file) is None
    with pytest.raises(RuntimeError, match="is imported"):
        put_in({("nowhere", 1): code["over", 4]}, file)


def test_faults_by_rule_change_one_thing_each_and_are_drawn_alike():
    faults = room_faults("heads")
    assert len(faults) > 150
    for fault in faults:
        ast.parse(fault.applied(source_of(fault.file)))
    drawn = sample(faults, 20, seed=0)
    assert drawn == sample(faults[::-1], 20, seed=0) and drawn != sample(faults, 20, seed=1)
    # Without the others a fault is drawn all the same.
    assert set(sample([one for one in faults if one not in drawn[10:]], 10, seed=0)) == set(drawn[:10])


def test_the_function_around_a_fault_is_named():
    by_name = {one.name: one for room in read_rooms() for one in room.mutations}
    assert enclosing(by_name["the score of a head is A alone"]) == "head_scores"
    assert enclosing(by_name["p of the control's draws"]) == "Comparison.draws"
    assert enclosing(by_name["unknown keys are taken"]) is None


def test_faults_by_rule_are_python():
    every = [fault for room in ROOMS for fault in room_faults(room)]
    for fault in [*sample(every, 100, 1), *(fault for fault in every if fault.put == "")]:
        ast.parse(fault.applied(source_of(fault.file)))
