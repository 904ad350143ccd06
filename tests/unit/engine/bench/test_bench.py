"""`forge bench`: the order of turns, medians, ratios and errors, with a program that prints what llama-bench prints."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mmojo_forge.engine.bench import measure, plot, targets
from mmojo_forge.engine.bench.llama_bench import Contestant, Figures
from mmojo_forge.engine.bench.measure import BenchMachine, BenchReport, BenchReporter, Turn, Workload
from mmojo_forge.errors import ForgeError

REPOSITORY = Path(__file__).resolve().parents[4]
FORGE_BENCH = [sys.executable, "-m", "mmojo_forge", "bench"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
MACHINE = BenchMachine("a processor", 2, "linux-x86_64", 0.0)

# Prints the JSON of tools/llama-bench/llama-bench.cpp, all fields of it. `drift` slows call after call of this program
# down (or speeds it up); every call leaves a line in the log that all programs of a test share.
FAKE = """#!{python} -IS
import json, os, sys, time
settings = json.loads({settings!r})
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
calls = open(settings["log"]).read().split("\\n").count(settings["name"]) if os.path.exists(settings["log"]) else 0
with open(settings["log"], "a") as log:
    log.write(settings["name"] + "\\n" + " ".join(sys.argv[1:]) + "\\n")
exec(settings["trick"])
threads, rows = int(given["-t"]), []
for prompt, generate in ((int(given["-p"]), 0), (0, int(given["-n"]))):
    if prompt or generate:
        speed = settings["prompt" if prompt else "generate"] * threads
        speed *= settings["drift"][calls % len(settings["drift"])]
        speeds = [speed * factor for factor in settings["repetitions"][: int(given["-r"])]]
        rows.append({{
            "build_commit": "0c1e57098", "build_number": 0, "cpu_info": "a processor", "gpu_info": "",
            "backends": "CPU", "model_filename": given["-m"], "model_type": "llama ?B Q8_0", "model_size": 20000000,
            "model_n_params": 18000000, "n_batch": 2048, "n_ubatch": 512, "n_threads": threads, "cpu_mask": "0x0",
            "cpu_strict": False, "poll": 50, "type_k": "f16", "type_v": "f16", "n_gpu_layers": -1, "n_cpu_moe": 0,
            "split_mode": "layer", "main_gpu": 0, "no_kv_offload": False, "flash_attn": -1, "devices": "auto",
            "tensor_split": "0.00", "tensor_buft_overrides": "none", "load_mode": "auto", "lazy_mode": "auto",
            "embeddings": False, "no_op_offload": 0, "no_host": False, "repack": True, "fit_target": 0,
            "fit_min_ctx": 0, "n_prompt": prompt, "n_gen": generate, "n_depth": 0, "test_time": "2026-01-01T00:00:00Z",
            "avg_ns": 1, "stddev_ns": 0, "avg_ts": sum(speeds) / len(speeds), "stddev_ts": 0.0,
            "samples_ns": [1] * len(speeds), "samples_ts": speeds,
        }})
assert given["-o"] == "json"
print(json.dumps(rows))
"""


@dataclass
class Bench:
    """A folder with fake programs, a model and the log of what was started."""

    folder: Path
    model: Path = field(init=False)

    def __post_init__(self) -> None:
        self.model = self.folder / "model.gguf"
        self.model.write_bytes(gguf())

    def program(self, name: str, **settings: Any) -> Contestant:
        """A program of 100 tokens/s a thread for prompts and 10 for generation, unless the settings say otherwise."""
        known = {"prompt": 100.0, "generate": 10.0, "drift": [1.0], "repetitions": [1.0] * 9, "trick": ""}
        document = json.dumps({**known, "name": name, "log": str(self.folder / "log"), **settings})
        file = self.folder / name
        file.write_text(FAKE.format(python=sys.executable, settings=document))
        file.chmod(0o755)
        return Contestant(name, file)

    def measure(self, *contestants: Contestant, **workload: Any) -> BenchReport:
        work = Workload(self.model, **{"threads": (1,), "rounds": 1, **workload})
        return measure.measure(contestants, work, MACHINE, os.environ, BenchReporter())

    @property
    def started(self) -> list[tuple[str, int]]:
        """Name and thread count of every process, in order."""
        lines = (self.folder / "log").read_text().splitlines()
        return [
            (name, int(words.split()[words.split().index("-t") + 1]))
            for name, words in zip(lines[::2], lines[1::2], strict=True)
        ]


@pytest.fixture
def fakes(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def gguf(*, magic: bytes = b"GGUF", version: int = 3, tensor_type: int = 8, tensors: int = 1) -> bytes:
    """A GGUF file with a fact of every kind and one Q8_0 tensor of 2 × 32 weights, whose data is 68 bytes."""

    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    facts = [
        text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama"),
        text(b"general.alignment") + struct.pack("<II", 4, 64),
        text(b"tokens") + struct.pack("<IIQ", 9, 8, 2) + text(b"a") + text(b"bc"),
        text(b"scores") + struct.pack("<IIQ3f", 9, 6, 3, 0.0, 1.0, 2.0),
        text(b"flag") + struct.pack("<IB", 7, 1),
    ]
    header = magic + struct.pack("<IQQ", version, tensors, len(facts)) + b"".join(facts)
    for index in range(tensors):
        header += text(b"t%d" % index) + struct.pack("<IQQIQ", 2, 32, 2, tensor_type, 0)
    return header + bytes(-len(header) % 64) + bytes(68)


def refused(call: Callable[[], object]) -> ForgeError:
    with pytest.raises(ForgeError) as caught:
        call()
    assert caught.value.message and caught.value.detail
    return caught.value


# The order of turns.


def test_programs_take_turns_at_every_thread_count_in_every_round(fakes: Bench) -> None:
    fakes.measure(fakes.program("A"), fakes.program("B"), threads=(1, 2), rounds=2)
    assert fakes.started == [("A", 1), ("B", 1), ("A", 2), ("B", 2)] * 2


def test_the_reporter_is_told_of_each_turn_before_and_after(fakes: Bench) -> None:
    told: list[tuple[object, ...]] = []

    class Watcher(BenchReporter):
        def began(self, turn: Turn) -> None:
            told.append(("began", turn.number, turn.of, turn.round))

        def measured(self, turn: Turn, figures: object) -> None:
            told.append((turn.contestant.name, figures))

    work = Workload(fakes.model, threads=(3,), rounds=2)
    measure.measure([fakes.program("A")], work, MACHINE, os.environ, Watcher())
    figures = (Figures("pp512", (300.0,)), Figures("tg128", (30.0,)))
    assert told == [("began", 1, 2, 1), ("A", figures), ("began", 2, 2, 2), ("A", figures)]


def test_programs_are_told_model_sizes_threads_and_repetitions(fakes: Bench) -> None:
    fakes.measure(fakes.program("A"), prompt=64, generate=16, repetitions=2)
    words = (fakes.folder / "log").read_text().splitlines()[1]
    assert words == f"-m {fakes.model} -p 64 -n 16 -t 1 -r 2 -o json"


@pytest.mark.parametrize(
    ("cores", "threads"), [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (4, (1, 2, 3, 4)), (64, (1, 32, 48, 64))]
)
def test_threads_are_one_half_three_quarters_and_all_of_the_cores(cores: int, threads: tuple[int, ...]) -> None:
    assert measure.default_threads(cores) == threads


# Figures.


def test_the_speed_is_the_median_of_the_rounds_with_the_lowest_and_the_highest(fakes: Bench) -> None:
    report = fakes.measure(fakes.program("A", drift=[1.0, 3.0, 2.0]), rounds=3)
    prompt, generate = report.rows()
    assert (prompt.test, prompt.speed) == ("pp512", measure.Spread(200.0, 100.0, 300.0))
    assert (generate.test, generate.speed) == ("tg128", measure.Spread(20.0, 10.0, 30.0))


def test_repetitions_count_as_one_value_of_their_round(fakes: Bench) -> None:
    report = fakes.measure(fakes.program("A", repetitions=[1.0, 9.0, 2.0]), repetitions=3, generate=0)
    assert report.rows()[0].speed == measure.Spread(200.0, 200.0, 200.0)
    assert [(one.round, one.repetition, one.speed) for one in report.samples] == [
        (1, 1, 100.0),
        (1, 2, 900.0),
        (1, 3, 200.0),
    ]


def test_a_machine_that_slows_down_for_a_while_changes_no_ratio(fakes: Bench) -> None:
    drift = [1.0, 0.25, 4.0]
    report = fakes.measure(fakes.program("A", drift=drift), fakes.program("B", prompt=150.0, drift=drift), rounds=3)
    ratios = {(row.target, row.test): row.ratio for row in report.rows()}
    assert ratios["A", "pp512"] == measure.Spread(1.0, 1.0, 1.0)
    assert ratios["B", "pp512"] == measure.Spread(1.5, 1.5, 1.5)
    assert ratios["B", "tg128"] == measure.Spread(1.0, 1.0, 1.0)


def test_rows_to_compare_stand_together(fakes: Bench) -> None:
    report = fakes.measure(fakes.program("A"), fakes.program("B"), threads=(1, 2))
    assert [(row.test, row.threads, row.target) for row in report.rows()] == [
        (test, threads, target) for test in ("pp512", "tg128") for threads in (1, 2) for target in "AB"
    ]


def test_the_best_thread_count_is_told_for_each_test_and_compared_with_the_first_ones_best(fakes: Bench) -> None:
    # Calls go 1, 2, 4 threads: A does 100, 200, 200 (which is no gain from 2 to 4), B does 100, 200, 400.
    first = fakes.program("A", drift=[1.0, 1.0, 0.5])
    report = fakes.measure(first, fakes.program("B"), threads=(1, 2, 4), generate=0)
    assert [(best.row.target, best.row.threads, best.ratio) for best in report.best()] == [("A", 2, 1.0), ("B", 4, 2.0)]


def test_facts_are_those_that_the_program_tells(fakes: Bench) -> None:
    facts = fakes.measure(fakes.program("A")).facts["A"]
    assert (facts.commit, facts.backends, facts.model) == ("0c1e57098", "CPU", "llama ?B Q8_0")
    assert (facts.model_bytes, facts.model_weights) == (20_000_000, 18_000_000)


# Programs that fail.


def test_a_program_that_fails_is_told_of_with_its_last_lines(fakes: Bench) -> None:
    trick = "print(*range(99), 'could not load it', sep='\\n', file=sys.stderr); sys.exit(3)"
    error = refused(lambda: fakes.measure(fakes.program("A"), fakes.program("B", trick=trick)))
    assert error.reason == "bench-failed"
    lines = error.detail.splitlines()
    assert "could not load it" in error.detail and "98" in error.detail and len(lines) <= 14
    assert fakes.started == [("A", 1), ("B", 1)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGILL])
def test_a_program_that_is_killed_failed(fakes: Bench, number: signal.Signals) -> None:
    trick = f"os.kill(os.getpid(), {int(number)})"
    assert refused(lambda: fakes.measure(fakes.program("A", trick=trick))).reason == "bench-failed"


def linger(fakes: Bench) -> Contestant:
    """A program that starts another one, says so, and then neither of them ever ends."""
    trick = "\n".join(
        [
            "child = os.fork()",
            f"open({str(fakes.folder / 'child')!r}, 'w').write(str(child)) if child else None",
            "print('still loading', file=sys.stderr, flush=True)",
            "time.sleep(600)",
        ]
    )
    return fakes.program("A", trick=trick)


def child_of(fakes: Bench) -> int:
    """The process that the lingering program started."""
    file = fakes.folder / "child"
    await_that(lambda: file.exists() and bool(file.read_text()))
    return int(file.read_text())


def await_that(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_program_that_takes_too_long_is_ended_with_all_it_started(fakes: Bench) -> None:
    error = refused(lambda: fakes.measure(linger(fakes), timeout_seconds=3))
    assert error.reason == "bench-timeout"
    assert "still loading" in error.detail
    await_that(lambda: not alive(child_of(fakes)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whoever_interrupts_the_command_ends_the_programs_too(fakes: Bench, number: signal.Signals) -> None:
    linger(fakes)
    # Whoever runs the tests in the background ignores SIGINT, and so would everything below.
    command = ["env", "--default-signal=INT", *FORGE_BENCH, "./A", "--model", "model.gguf"]
    with subprocess.Popen(command, cwd=fakes.folder, env=ENVIRONMENT, stderr=subprocess.DEVNULL) as process:
        child = child_of(fakes)
        process.send_signal(number)
        assert process.wait() == 130
    await_that(lambda: not alive(child))


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    "trick",
    [
        "print('| model | t/s |'); sys.exit()",
        "print('[]'); sys.exit()",
        "print('{}'); sys.exit()",
        "print('[{}]'); sys.exit()",
        "print('7'); sys.exit()",
        "settings['prompt'] = 0.0",
        "settings['prompt'] = float('nan')",
        "settings['prompt'] = float('inf')",
        "given['-r'] = '2'",
        "given['-p'] = '64'",
        "given['-n'] = '0'",
    ],
)
def test_output_that_is_not_what_was_asked_for_is_refused(fakes: Bench, trick: str) -> None:
    assert refused(lambda: fakes.measure(fakes.program("A", trick=trick))).reason == "bench-output"


@pytest.mark.parametrize("content", ["no program\n", ""])
def test_a_file_that_the_kernel_does_not_start_is_not_runnable(fakes: Bench, content: str) -> None:
    file = fakes.folder / "text"
    file.write_text(content)
    for mode in (0o755, 0o644):
        file.chmod(mode)
        assert refused(lambda: fakes.measure(Contestant("text", file))).reason == "bench-not-runnable"
    file.unlink()
    assert refused(lambda: fakes.measure(Contestant("text", file))).reason == "bench-not-runnable"


def test_an_ape_is_started_by_a_shell(fakes: Bench) -> None:
    native = fakes.program("native")
    ape = fakes.folder / "ape"
    ape.write_text(f"MZqFpD='\n'\nexec {native.program} \"$@\"\n")
    ape.chmod(0o755)
    assert len(fakes.measure(Contestant("ape", ape)).samples) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": 0, "generate": 0},
        {"prompt": -1},
        {"threads": ()},
        {"threads": (0,)},
        {"threads": (2, 2)},
        {"rounds": 0},
        {"repetitions": 0},
        {"timeout_seconds": 0},
    ],
)
def test_a_workload_without_sense_is_refused(fakes: Bench, wrong: dict[str, Any]) -> None:
    assert refused(lambda: Workload(fakes.model, **{"threads": (1,), **wrong})).reason == "bad-workload"


# The model.


def test_a_whole_model_is_accepted(fakes: Bench) -> None:
    measure.check_model(fakes.model)
    fakes.model.write_bytes(gguf(tensor_type=999))
    measure.check_model(fakes.model)  # a type that llama.cpp knows and we do not is llama.cpp's to judge


def test_every_truncation_of_a_model_is_noticed(fakes: Bench) -> None:
    whole = gguf()
    for length in range(len(whole)):
        fakes.model.write_bytes(whole[:length])
        assert refused(lambda: measure.check_model(fakes.model)).reason == "bad-model", length


@pytest.mark.parametrize(
    "content",
    [
        b"not a model, but a text of some length",
        gguf(magic=b"ggml"),
        gguf(version=1),
        gguf(version=3 << 24),
        gguf(tensors=0),
        gguf().replace(struct.pack("<IB", 7, 1), struct.pack("<IB", 77, 1)),
        gguf().replace(struct.pack("<IIQ", 9, 6, 3), struct.pack("<IIQ", 9, 6, (1 << 64) - 1)),
        gguf().replace(struct.pack("<IIQ", 9, 8, 2), struct.pack("<IIQ", 9, 9, 2)),
    ],
)
def test_what_is_no_model_is_refused(fakes: Bench, content: bytes) -> None:
    fakes.model.write_bytes(content)
    assert refused(lambda: measure.check_model(fakes.model)).reason == "bad-model"


def test_a_model_that_is_not_there_is_refused(fakes: Bench) -> None:
    assert refused(lambda: measure.check_model(fakes.folder / "none.gguf")).reason == "no-model"
    assert refused(lambda: measure.check_model(fakes.folder)).reason == "no-model"


# Targets.


def test_a_server_is_measured_by_the_llama_bench_built_like_it(tmp_path: Path) -> None:
    wanted = targets.parse(["mmojo-server.native", "llama-bench.ape", "mmojo-server.native"], tmp_path)
    assert [one.name for one in wanted] == ["mmojo-server.native", "llama-bench.ape", "mmojo-server.native#2"]
    assert targets.targets(wanted) == ("llama-bench.native", "llama-bench.ape")


def test_the_program_is_in_bin_or_is_the_result_itself(fakes: Bench) -> None:
    program = fakes.program("here")
    (fakes.folder / "tree" / "bin").mkdir(parents=True)
    (fakes.folder / "tree" / "bin" / "llama-bench").write_text("")
    wanted = targets.parse(["llama-bench.tree", "llama-bench.ape", "./here"], fakes.folder)
    realised = {"llama-bench.tree": fakes.folder / "tree", "llama-bench.ape": program.program}
    found = targets.contestants(wanted, realised)
    assert [(one.name, one.program.relative_to(fakes.folder.resolve())) for one in found] == [
        ("llama-bench.tree", Path("tree/bin/llama-bench")),
        ("llama-bench.ape", Path("here")),
        ("./here", Path("here")),
    ]
    (fakes.folder / "tree" / "bin" / "llama-bench").unlink()
    assert refused(lambda: targets.contestants(wanted, realised)).reason == "no-program"


def test_targets_that_run_no_models_are_refused(tmp_path: Path) -> None:
    assert refused(lambda: targets.parse(["hello"], tmp_path)).reason == "not-benchable"
    assert refused(lambda: targets.parse(["./nothing"], tmp_path)).reason == "no-program"


# The picture.


def test_a_plot_names_what_it_shows_and_is_the_same_for_the_same_report(fakes: Bench) -> None:
    report = fakes.measure(fakes.program("A"), fakes.program("B"), threads=(1, 2), rounds=2)
    drawn = []
    for name in ("one.svg", "two.svg"):
        plot.draw(report, fakes.folder / name)
        drawn.append((fakes.folder / name).read_text())
    assert drawn[0] == drawn[1]
    for words in ("prompt of 512 tokens", "generation of 128 tokens", "threads", "tokens per second", "a processor"):
        assert words in drawn[0]
    plot.draw(report, fakes.folder / "one.png")
    assert (fakes.folder / "one.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["plot.doc", "plot", "nowhere/plot.svg"])
def test_a_plot_that_cannot_be_written_is_refused_beforehand(tmp_path: Path, name: str) -> None:
    assert refused(lambda: plot.check_path(tmp_path / name)).reason == "bad-plot"


# The command.


def forge(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The finished `forge bench`, in a folder that is no workspace."""
    return subprocess.run(
        [*FORGE_BENCH, *arguments], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


def test_the_command_prints_a_table_and_tells_its_progress_aside(fakes: Bench) -> None:
    fakes.program("A")
    fakes.program("B", generate=5.0)
    done = forge(fakes.folder, "./A", "./B", "--model", "model.gguf", "--threads", "2,1", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    assert [line.split("\t") for line in done.stdout.splitlines()] == [
        ["./A", "2", "pp512", "200.00", "200.00–200.00", "1.000"],
        ["./B", "2", "pp512", "200.00", "200.00–200.00", "1.000"],
        ["./A", "1", "pp512", "100.00", "100.00–100.00", "1.000"],
        ["./B", "1", "pp512", "100.00", "100.00–100.00", "1.000"],
        ["./A", "2", "tg128", "20.00", "20.00–20.00", "1.000"],
        ["./B", "2", "tg128", "10.00", "10.00–10.00", "0.500"],
        ["./A", "1", "tg128", "10.00", "10.00–10.00", "1.000"],
        ["./B", "1", "tg128", "5.00", "5.00–5.00", "0.500"],
    ]
    assert "[4/4]" in done.stderr and "fastest with 2 threads" in done.stderr


def test_the_command_gives_json_with_every_sample_and_draws(fakes: Bench) -> None:
    fakes.program("A")
    done = forge(
        fakes.folder, "./A", "--model", "model.gguf", "--threads", "1", "--rounds", "2", "--json", "--plot", "p.svg"
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == 1
    assert set(document["machine"]) == {"cpu", "cores", "system", "load"}
    assert document["model"]["path"] == str(fakes.model) and document["model"]["type"] == "llama ?B Q8_0"
    assert document["workload"] == {"threads": [1], "prompt": 512, "generate": 128, "rounds": 2, "repetitions": 1}
    assert document["targets"] == [
        {"target": "./A", "program": str(fakes.folder / "A"), "commit": "0c1e57098", "backends": "CPU"}
    ]
    assert document["results"][0] == {
        "target": "./A",
        "threads": 1,
        "test": "pp512",
        "tokens_per_second": {"median": 100.0, "lowest": 100.0, "highest": 100.0},
        "ratio": {"median": 1.0, "lowest": 1.0, "highest": 1.0},
    }
    assert [(best["test"], best["threads"], best["ratio"]) for best in document["best"]] == [
        ("pp512", 1, 1.0),
        ("tg128", 1, 1.0),
    ]
    assert len(document["samples"]) == 4
    assert [json.loads(line)["event"] for line in done.stderr.splitlines()] == ["measured", "measured"]
    assert (fakes.folder / "p.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("./A", "--model", "none.gguf"), "no-model"),
        (("./A", "--model", "A"), "bad-model"),
        (("./A", "--model", "model.gguf", "--plot", "p.doc"), "bad-plot"),
        (("./A", "--model", "model.gguf", "--prompt", "0", "--generate", "0"), "bad-workload"),
        (("hello", "--model", "model.gguf"), "not-benchable"),
    ],
)
def test_the_command_refuses_before_it_measures(fakes: Bench, arguments: tuple[str, ...], reason: str) -> None:
    fakes.program("A")
    done = forge(fakes.folder, *arguments, "--json")
    assert done.returncode == 2
    assert json.loads(done.stderr)["error"]["reason"] == reason
    assert not (fakes.folder / "log").exists()


@pytest.mark.parametrize(
    "arguments",
    [(), ("./A", "--threads", "0"), ("./A", "--threads", "1,x"), ("./A", "--model", "model.gguf", "--shape", "tiny")],
)
def test_arguments_that_make_no_sense_are_usage_errors(fakes: Bench, arguments: tuple[str, ...]) -> None:
    fakes.program("A")
    assert forge(fakes.folder, *arguments).returncode == 2
    assert not (fakes.folder / "log").exists()
