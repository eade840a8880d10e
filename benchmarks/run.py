"""The gate beside nginx, HAProxy and an aiohttp relay: python3 deploy/dev.py bench

Rounds of all measures; in each measure all subjects after one another (peer, ours, peer, ours ...), each started anew on a core of
its own, with load and backend on the other. What counts is the proxy's CPU time, not the clock's, and the ratio to a peer in the
same round. Machines differ and are noisy: absolute figures of two runs do not compare.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks import measures, report
from benchmarks.measures import Measure
from benchmarks.plot import svg
from benchmarks.report import Results, Row, Sample
from benchmarks.subjects import (
    ROOT,
    SUBJECTS,
    BenchmarkError,
    Cores,
    Tools,
    echo_server,
    end_children,
    on_cores,
    open_files,
    share_out,
)

LOAD_SOURCES = ROOT / "benchmarks" / "load"
DOCUMENT = ROOT / "docs" / "performance.md"
LOAD_TIMEOUT = 180  # seconds for one load
SPARE_FILES = 200  # beyond two per connection


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev.py bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small loads, one round: under a minute, for a first look only")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often everything is measured (5; with --quick 1)")
    parser.add_argument("--only", action="append", metavar="NAME", help=f"a subject or the start of a measure's key; repeat. {names()}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to save all samples (.dev/benchmarks/results.json)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="where to save a plot (.dev/benchmarks/results.svg)")
    parser.add_argument("--from", type=Path, metavar="FILE", dest="saved", help="do not measure: take the samples of an earlier --json")
    parser.add_argument("--doc", action="store_true", help=f"put the figures into {DOCUMENT.relative_to(ROOT)}, and the plot beside it")
    parser.add_argument("--nginx", type=Path, default=Path("nginx"), help=argparse.SUPPRESS)
    parser.add_argument("--haproxy", type=Path, default=Path("haproxy"), help=argparse.SUPPRESS)
    parser.add_argument("--cc", type=Path, default=Path("cc"), help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, default=ROOT / ".dev" / "benchmarks", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def names() -> str:
    keys = (measure.key for measure in measures.full_plan())
    return f"Subjects: {', '.join(SUBJECTS)}. Measures: {', '.join(dict.fromkeys(keys))}"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 1 when a measurement failed."""
    arguments = parse(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        results = report.from_json(json.loads(arguments.saved.read_text())) if arguments.saved else measure_all(arguments)
    except BenchmarkError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    save(results, arguments)
    return 1 if results.failures else 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """SIGTERM leaves like Ctrl-C: through everything that stops what was started."""
    raise KeyboardInterrupt


def save(results: Results, arguments: argparse.Namespace) -> None:
    figures = report.markdown(results)
    print(figures)
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    (arguments.json or arguments.scratch / "results.json").write_text(json.dumps(report.to_json(results), indent=1) + "\n")
    (arguments.plot or arguments.scratch / "results.svg").write_text(svg(results))
    if arguments.doc:
        DOCUMENT.write_text(report.put_into(DOCUMENT.read_text(), figures))
        DOCUMENT.with_suffix(".svg").write_text(svg(results))


# --- measuring ----------------------------------------------------------------------------------------------------------------


def measure_all(arguments: argparse.Namespace) -> Results:
    """Raises BenchmarkError when nothing can be measured; what fails by itself is told in the results."""
    plan, subjects = choose(arguments)
    tools = build_tools(arguments)
    cores = share_out(frozenset(os.sched_getaffinity(0)))
    rounds = arguments.rounds or (1 if arguments.quick else 5)
    samples: list[Sample] = []
    failures: list[str] = []
    began = time.monotonic()
    for number in range(rounds):
        for same_load in by_load(plan):
            print(f"bench: round {number + 1} of {rounds}: {same_load[0].title}", file=sys.stderr, flush=True)
            for subject in subjects:
                try:
                    samples += measure(same_load, subject, number, tools, cores)
                except BenchmarkError as error:
                    failures.append(f"{subject}, round {number + 1}: {error}")
                    print(f"bench: {failures[-1]}", file=sys.stderr, flush=True)
    facts = {**machine(arguments, cores), "run": f"{rounds} rounds in {(time.monotonic() - began) / 60:.1f} minutes"}
    return Results(facts, [Row(one.key, one.title, one.unit) for one in plan], subjects, samples, failures)


def choose(arguments: argparse.Namespace) -> tuple[list[Measure], list[str]]:
    """What to measure and on whom. Raises BenchmarkError when the choice leaves nothing."""
    plan = measures.quick_plan() if arguments.quick else measures.full_plan()
    chosen = arguments.only or []
    subjects = [name for name in SUBJECTS if name in chosen] or list(SUBJECTS)
    prefixes = tuple(name for name in chosen if name not in SUBJECTS)
    if prefixes:
        plan = [measure for measure in plan if measure.key.startswith(prefixes)]
    possible = [measure for measure in plan if 2 * measure.connections + SPARE_FILES <= open_files()]
    for measure in plan:
        if measure not in possible:
            print(f"bench: left out, too few open files are allowed (ulimit -n): {measure.title}", file=sys.stderr)
    if not possible:
        raise BenchmarkError(f"nothing to measure. {names()}")
    return possible, subjects


def by_load(plan: Sequence[Measure]) -> Iterator[list[Measure]]:
    """Measures that read the same load, together."""
    loads: dict[tuple[object, ...], list[Measure]] = {}
    for measure in plan:
        loads.setdefault((measure.load, measure.status), []).append(measure)
    yield from loads.values()


def measure(same_load: Sequence[Measure], subject: str, number: int, tools: Tools, cores: Cores) -> list[Sample]:
    """One load on one subject. Raises BenchmarkError."""
    wanted = [one for one in same_load if subject != "direct" or one.on_direct]
    if not wanted:
        return []
    with echo_server(tools, cores) as backend, SUBJECTS[subject](tools, cores, backend.port) as running:
        for one in (measures.warm_up(wanted[0]), wanted[0]):
            answer = generate(tools, cores, measures.arguments(one, running.port, running.pid))
    return [Sample(one.key, subject, number, one.value(answer)) for one in wanted]


def generate(tools: Tools, cores: Cores, load: Sequence[str]) -> dict[str, Any]:
    """Run the load generator. Its exit code repeats what its line says. Raises BenchmarkError."""
    with on_cores(cores.others):
        generator = subprocess.Popen([tools.wsload, *load], stdout=subprocess.PIPE, text=True)
    with generator:
        try:
            output, _ = generator.communicate(timeout=LOAD_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise BenchmarkError("the load generator did not come to an end") from None
        finally:
            generator.kill()
    try:
        answer = json.loads(output)
    except ValueError:
        raise BenchmarkError(f"the load generator printed no result (exit code {generator.returncode})") from None
    assert isinstance(answer, dict)
    return answer


# --- the machine ----------------------------------------------------------------------------------------------------------------


def build_tools(arguments: argparse.Namespace) -> Tools:
    """Compile the load generator and the backend. Raises BenchmarkError."""
    scratch: Path = arguments.scratch.absolute()
    scratch.mkdir(parents=True, exist_ok=True)
    for name in ("wsecho", "wsload"):
        command = [arguments.cc, "-O2", "-o", scratch / name, LOAD_SOURCES / f"{name}.c"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise BenchmarkError(f"no C compiler: {arguments.cc} ({error.strerror}); install gcc, or give --cc") from error
        if done.returncode:
            raise BenchmarkError(f"{arguments.cc} cannot compile {name}.c: {done.stderr.strip()}")
    return Tools(arguments.nginx, arguments.haproxy, scratch / "wsecho", scratch / "wsload", scratch)


def machine(arguments: argparse.Namespace, cores: Cores) -> dict[str, str]:
    """What a reader must know of this run."""
    python = f"Python {platform.python_version()}, aiohttp {version('aiohttp')}, uvloop {version('uvloop')}"
    return {
        "when": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{cpu_model()}, {len(os.sched_getaffinity(0))} cores, Linux {platform.release().partition('-')[0]}",
        "cores": f"proxy on {cores.proxy}, load and backend on {', '.join(map(str, sorted(cores.others)))}",
        "gate": f"{first_line('git', '-C', str(ROOT), 'describe', '--always', '--dirty')}; {python}",
        "peers": f"{first_line(str(arguments.nginx), '-v')}; {first_line(str(arguments.haproxy), '-v')}",
        "load and backend": "tcc" if arguments.cc.name == "tcc" else first_line(str(arguments.cc), "--version"),
    }


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def first_line(*command: str) -> str:
    """What a program says of itself, on whichever stream."""
    with contextlib.suppress(OSError):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = (done.stdout + done.stderr).strip().splitlines()
        if done.returncode == 0 and lines:
            return lines[0]
    return "unknown"


if __name__ == "__main__":
    try:
        sys.exit(main())
    finally:
        end_children()
