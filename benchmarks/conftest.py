"""Options of `python -m pytest benchmarks`, and its order: budget by budget, all methods in turn."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from benchmarks import command, record
from benchmarks.data import Missing
from benchmarks.problems import Problem, make
from benchmarks.record import Table
from benchmarks.suite import ENTRIES, FULL, QUICK, Plan

QUICK_SIZES = ((2, 1000), (16, 10_000), (64, 10_000))  # dimension and number of targets of a test of the kernels
SIZES = tuple((d, m) for d in (2, 3, 8, 16, 32, 64, 128) for m in (1000, 10_000, 100_000))


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("sdot")
    group.addoption("--full", action="store_true", help="all problems and the long ladder: a day; resumes where it was stopped")
    group.addoption("--problems", nargs="+", help="names of benchmarks.problems, with -M after them for M targets")
    group.addoption("--budgets", nargs="+", type=float, help="CPU seconds of the rungs of the ladder")
    group.addoption("--settings", type=int, help="the first so many settings of every grid only")
    group.addoption("--threads", type=int, default=1, help="CPU threads, for every library alike (1)")
    group.addoption("--data", help="folder of the real data; problems that need it are skipped without")
    group.addoption("--results", type=Path, default=record.RESULTS, help="folder of the results")


def pytest_configure(config: pytest.Config) -> None:
    capture = config.pluginmanager.getplugin("capturemanager")
    capture.suspend_global_capture()
    command.start(config.option)  # which may start the process anew: its output must not be captured then
    capture.resume_global_capture()
    record.RESULTS = config.option.results
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning")  # of peers


def plan_of(config: pytest.Config) -> Plan:
    option, plan = config.option, FULL if config.option.full else QUICK
    if option.problems:
        plan = dataclasses.replace(plan, problems=tuple(option.problems))
    if option.budgets:
        kept = (plan.kept + plan.kept[-1:] * len(option.budgets))[: len(option.budgets)]
        plan = dataclasses.replace(plan, budgets=tuple(option.budgets), kept=kept)
    return dataclasses.replace(plan, settings=option.settings)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    plan, full = plan_of(metafunc.config), metafunc.config.option.full
    here = [entry for entry in ENTRIES if entry.installed]
    values = {
        "name": plan.problems,
        "rung": [pytest.param(k, id=f"{budget:g}s") for k, budget in enumerate(plan.budgets)],
        "wanted": plan.wanted,
        "size": [pytest.param(size, id=f"d{size[0]}-m{size[1]}") for size in (SIZES if full else QUICK_SIZES)],
        "entry": [pytest.param(entry, id=entry.label) for entry in here],
    }
    for argument in values:  # the last one varies fastest
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, values[argument])


@pytest.fixture(scope="session")
def plan(request: pytest.FixtureRequest) -> Plan:
    return plan_of(request.config)


@pytest.fixture(scope="session")
def tables() -> dict[str, tuple[Problem, Table]]:
    return {}


@pytest.fixture
def problem(name: str, tables: dict[str, tuple[Problem, Table]]) -> tuple[Problem, Table]:
    """A problem and its table of results."""
    if name not in tables:
        try:
            made = make(name)
        except Missing as reason:
            pytest.skip(str(reason))
        tables[name] = made, Table(f"solvers-{made.name}")
    return tables[name]


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, object]) -> None:
    machine_info.clear()
    machine_info.update(record.environment())
