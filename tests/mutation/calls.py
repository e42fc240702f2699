"""Which test calls which function: a plugin for the run without any fault."""

from __future__ import annotations

import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest


class Calls:
    """Notes what functions each test calls (file, qualified name), how long it takes, and what fails."""

    def __init__(self, library: Path) -> None:
        """Note calls into the modules of one folder."""
        self.library = f"{library}/"
        self.called: dict[str, set[tuple[str, str]]] = defaultdict(set)
        self.shared: dict[str, set[tuple[str, str]]] = defaultdict(set)
        self.seconds: dict[str, float] = defaultdict(float)
        self.failed: set[str] = set()
        self.current: set[tuple[str, str]] = set()

    def note(self, frame: FrameType, event: str, argument: object) -> None:
        """Note a call; lines are not followed."""
        code = frame.f_code
        if code.co_filename.startswith(self.library):
            self.current.add((code.co_filename[len(self.library) :], code.co_qualname))

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef) -> Iterator[None]:
        """Give what a shared fixture calls to all tests that ask for it, not only to the first."""
        before, self.current = self.current, set()
        try:
            return (yield)
        finally:
            if fixturedef.scope != "function":
                self.shared[fixturedef.argname] |= self.current
            self.current |= before

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Collect the calls of one test."""
        self.current = set()
        sys.settrace(self.note)
        threading.settrace(self.note)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)
            for name in getattr(item, "fixturenames", ()):
                self.current |= self.shared.get(name, set())
            self.called[item.nodeid] = self.current

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add up the time of a test, and note failures."""
        self.seconds[report.nodeid] += report.duration
        if report.failed:
            self.failed.add(report.nodeid)

    def table(self) -> dict[str, dict]:
        """Return what was noted, for JSON."""
        return {
            test: {
                "seconds": round(self.seconds[test], 3),
                "failed": test in self.failed,
                "called": sorted(called),
            }
            for test, called in self.called.items()
        }
