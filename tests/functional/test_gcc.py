"""The gcc toolchain and OpenBLAS, in the sandbox: what is compiled runs, and is the same bytes each time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mmojo_forge.model.lockfile import Lock
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.toolchain

SOURCES = {
    "hello.c": """
#include <stdio.h>
int main(void) { puts("hello"); return 0; }
""",
    "threads.cpp": """
#include <atomic>
#include <iostream>
#include <stdexcept>
#include <thread>
#include <vector>
int main() {
    std::atomic<int> sum{0};
    std::vector<std::thread> threads;
    for (int i = 1; i <= 4; ++i)
        threads.emplace_back([&sum, i] {
            try { throw std::runtime_error("thrown"); } catch (const std::exception &) { sum += i; }
        });
    for (auto &thread : threads) thread.join();
    std::cout << "sum " << sum << "\\n";
}
""",
    "openmp.c": """
#include <stdio.h>
int main(void) {
    int threads = 0;
    #pragma omp parallel reduction(+ : threads)
    threads += 1;
    printf("threads %d\\n", threads);
}
""",
    "main.c": "int three(void); int main(void) { return three() == 3 ? 0 : 1; }\n",
    "three.c": "int three(void) { return 3; }\n",
    "sgemm.c": """
#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#define M 257
#define N 191
#define K 333
int main(void) {
    static float a[M * K], b[K * N], c[M * N];
    for (int i = 0; i < M * K; ++i) a[i] = (float) (i * 7 % 13) / 13 - 0.5f;
    for (int i = 0; i < K * N; ++i) b[i] = (float) (i * 5 % 11) / 11 - 0.5f;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, M, N, K, 1, a, K, b, N, 0, c, N);
    double worst = 0;
    for (int i = 0; i < M; ++i)
        for (int j = 0; j < N; ++j) {
            double sum = 0;
            for (int k = 0; k < K; ++k) sum += (double) a[i * K + k] * b[k * N + j];
            worst = fmax(worst, fabs(sum - c[i * N + j]));
        }
    fprintf(stderr, "%s, %d threads, worst difference %g\\n", openblas_get_config(), openblas_get_num_threads(), worst);
    printf("threads %d %s\\n", openblas_get_num_threads(), worst < 1e-4 ? "right" : "wrong");
}
""",
}

RECIPE = """
from mmojo_forge.recipe import Files, Package, Spec, build, recipe

@recipe("programs")
def programs(gcc: Package, userland: Package, *, attempt: str = "first") -> Spec:
    return build(
        "programs",
        userland=userland,
        inputs={"gcc": gcc, "source": Files("source")},
        env={"PATH": "/forge/gcc/bin:/usr/bin", "ATTEMPT": attempt},
        phases={"compile": '''
# Where it is compiled, when, and with how many processes must not matter.
mkdir "/build/$ATTEMPT" && cp /forge/source/* "/build/$ATTEMPT" && cd "/build/$ATTEMPT"
mkdir -p /forge/out/out/bin && out=/forge/out/out
gcc -O2 hello.c -o $out/bin/hello
g++ -O2 -pthread threads.cpp -o $out/bin/threads
g++ -O2 -pthread -static threads.cpp -o $out/bin/threads-static
gcc -O2 -fopenmp openmp.c -o $out/bin/openmp
gcc -O2 -flto -c main.c && gcc -O2 -flto -c three.c
gcc-ar rcs libthree.a three.o && gcc-nm libthree.a | grep ' T three'
gcc -O2 -flto=auto main.o libthree.a -o $out/bin/lto
gcc -O2 -c three.c && ar rcs $out/libplain.a three.o
$out/bin/hello > $out/hello.txt
$out/bin/threads > $out/threads.txt
$out/bin/threads-static > $out/threads-static.txt
OMP_NUM_THREADS=3 $out/bin/openmp > $out/openmp.txt
$out/bin/lto
nm $out/bin/lto > $out/lto.txt
for program in $out/bin/*; do readelf -dW $program > $out/$(basename $program).needed; done
if gcc -march=native -c hello.c 2> $out/native.txt; then exit 1; fi
env | grep LD_ && exit 1 || true
'''},
    )

@recipe("programs.product")
def product(gcc: Package, openblas: Package, userland: Package) -> Spec:
    return build(
        "product",
        userland=userland,
        inputs={"gcc": gcc, "openblas": openblas, "source": Files("source")},
        env={"PATH": "/forge/gcc/bin:/usr/bin"},
        phases={"compile": '''
flags=$(sed -n 's/^Libs: //p' /forge/openblas/lib/pkgconfig/openblas.pc | sed 's,${libdir},/forge/openblas/lib,')
gcc -O2 -I/forge/openblas/include /forge/source/sgemm.c -o sgemm $flags
for threads in 1 4; do OMP_NUM_THREADS=$threads ./sgemm >> /forge/out/out; done
OPENBLAS_CORETYPE=Prescott OMP_NUM_THREADS=2 ./sgemm >> /forge/out/out
'''},
    )
"""

Realize = Callable[..., Path]


@pytest.fixture(scope="module")
def realize(tmp_path_factory: pytest.TempPathFactory) -> Realize:
    """A function that realises a target of a workspace with gcc, OpenBLAS and the programs here, in the warm store."""
    root = tmp_path_factory.mktemp("gcc")
    for package in ("toolchains/gcc", "toolchains/userland", "recipes/openblas", "recipes/lib"):
        shutil.copytree(REPOSITORY / package, root / package)
    source = root / "recipes/programs/source"
    source.mkdir(parents=True)
    for name, text in SOURCES.items():
        (source / name).write_text(text)
    (source.parent / "recipe.py").write_text(RECIPE)
    lock = Lock.parse((REPOSITORY / "forge.lock").read_text())
    (root / "forge.lock").write_text(Lock(sources=lock.sources, userlands=lock.userlands).dump())

    def run(target: str, *options: str) -> Path:
        command = [sys.executable, "-m", "mmojo_forge", "-C", str(root), "realize", "--no-link", "--quiet"]
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "FORGE_STORE": os.environ.get("FORGE_STORE", str(REPOSITORY / "store")),
        }
        done = subprocess.run(
            [*command, *options, target], cwd=root, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.strip())

    return run


@pytest.fixture(scope="module")
def programs(realize: Realize) -> Path:
    """The programs, compiled and run in the sandbox, with what they printed."""
    return realize("programs")


def test_c_runs(programs: Path) -> None:
    assert (programs / "hello.txt").read_text() == "hello\n"


def test_c_plus_plus_throws_in_threads_with_shared_and_with_static_libraries(programs: Path) -> None:
    assert (programs / "threads.txt").read_text() == "sum 10\n"
    assert (programs / "threads-static.txt").read_text() == "sum 10\n"


def test_a_static_program_needs_nothing_of_the_sandbox(programs: Path) -> None:
    done = subprocess.run([programs / "bin" / "threads-static"], capture_output=True, text=True, check=True)
    assert done.stdout == "sum 10\n"
    assert "NEEDED" not in (programs / "threads-static.needed").read_text()


def test_openmp_has_its_threads_and_its_library_inside(programs: Path) -> None:
    assert (programs / "openmp.txt").read_text() == "threads 3\n"
    needed = [line for line in (programs / "openmp.needed").read_text().splitlines() if "NEEDED" in line]
    assert [line.partition("[")[2] for line in needed] == ["libc.so.6]"]


def test_link_time_optimisation_goes_through_archives(programs: Path) -> None:
    symbols = {line.split()[-1] for line in (programs / "lto.txt").read_text().splitlines()}
    assert "main" in symbols
    assert "three" not in symbols  # inlined, though it came from an archive


def test_compiling_for_the_machine_that_builds_is_refused(programs: Path) -> None:
    assert "-march=native" in (programs / "native.txt").read_text()


def test_the_same_bytes_come_out_of_another_folder(realize: Realize, programs: Path) -> None:
    again = realize("programs", "--set", "attempt=second", "-j", "1")
    files = sorted(path.relative_to(programs) for path in programs.rglob("*") if path.is_file())
    assert files
    for file in files:
        assert (again / file).read_bytes() == (programs / file).read_bytes(), file


def test_no_program_knows_where_it_was_made(programs: Path) -> None:
    for program in (*(programs / "bin").iterdir(), programs / "libplain.a"):
        for place in (b"/forge", b"/build", b"/tmp/", str(programs.parent).encode()):
            assert place not in program.read_bytes(), (program.name, place)


def test_openblas_multiplies_as_one_does_by_hand(realize: Realize) -> None:
    lines = realize("programs.product").read_text().splitlines()
    assert lines == ["threads 1 right", "threads 4 right", "threads 2 right"]


def test_openblas_is_portable_and_knows_no_place(realize: Realize) -> None:
    openblas = realize("openblas")
    names = sorted(path.relative_to(openblas).as_posix() for path in openblas.rglob("*") if path.is_file())
    assert names == [
        "include/cblas.h",
        "include/f77blas.h",
        "include/openblas_config.h",
        "lib/libopenblas.a",
        "lib/pkgconfig/openblas.pc",
    ]
    library = (openblas / "lib/libopenblas.a").read_bytes()
    for core in (b"PRESCOTT", b"NEHALEM", b"HASWELL", b"ZEN", b"SKYLAKEX", b"COOPERLAKE"):
        assert b"gotoblas_" + core in library
    for name in names:
        content = (openblas / name).read_bytes()
        assert b"/forge/" not in content, name
        assert b"/build" not in content, name
