"""What executors are made of, without a sandbox: requests, options, diagnosis, disk usage, logs, deadlines."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from mmojo_forge.errors import ExitCode
from mmojo_forge.executor import availability, sandbox, watch
from mmojo_forge.executor.availability import Bubblewrap, HostSettings
from mmojo_forge.executor.build_log import BuildLog
from mmojo_forge.executor.request import BadRequestError, BuildRequest, ExecutorError, Mount

REQUEST = BuildRequest(
    name="hello",
    argv=("/usr/bin/sh", "-c", "true"),
    env={"A": "1"},
    mounts=(Mount(Path("/store/userland"), "/usr"), Mount(Path("/store/zig"), "/forge/zig")),
    work=Path("/w/work"),
    out=Path("/w/out"),
    log=Path("/w/log"),
)
BWRAP = Path("/usr/bin/bwrap")


def options_of(request: BuildRequest) -> list[str]:
    with sandbox.build_command(request, disable_userns=True, status=None) as command:
        os.close(command.filter_pipe)
        text = os.pread(int(command.argv[2]), 1 << 20, 0).decode()
    return text.rstrip("\0").split("\0")


@pytest.mark.parametrize(
    "at",
    [
        *("/", "/proc", "/proc/1", "/dev/null", "/tmp/x", "/build", "/build/x", "/forge", "/forge/out", "/forge/out/x"),
        *("/etc", "/etc/passwd", "/bin", "/lib64/x", "usr", "", "/usr/", "/usr//bin", "//usr", "/usr/../x", "/u\0r"),
    ],
)
def test_an_input_cannot_take_the_place_of_what_the_sandbox_puts_there(at: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        replace(REQUEST, mounts=(Mount(Path("/store/x"), at),))
    assert caught.value.reason == "bad-mount"


@pytest.mark.parametrize("inner", ["/usr", "/usr/local"])
def test_inputs_lie_apart(inner: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        replace(REQUEST, mounts=(Mount(Path("/a"), "/usr"), Mount(Path("/b"), "/usr-x"), Mount(Path("/c"), inner)))
    assert caught.value.reason == "bad-mount"


def test_names_that_only_begin_alike_are_apart() -> None:
    places = ("/usr", "/usr-x", "/forge/a", "/forge/a-b", "/forge/output", "/etc/ssl")
    request = replace(REQUEST, mounts=tuple(Mount(Path("/a"), at) for at in places))
    assert len(request.mounts) == 6


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"argv": ()}, "empty-command"),
        ({"argv": ("",)}, "empty-command"),
        ({"argv": ("a\0b",)}, "nul-character"),
        ({"env": {"A": "\0"}}, "nul-character"),
        ({"env": {"A=B": "1"}}, "bad-variable"),
        ({"env": {"PWD": "/elsewhere"}}, "bad-variable"),
        ({"work": Path("work")}, "relative-path"),
        ({"mounts": (Mount(Path("userland"), "/usr"),)}, "relative-path"),
    ],
)
def test_a_request_that_nothing_could_run_is_refused(change: dict[str, object], reason: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        replace(REQUEST, **change)  # type: ignore[arg-type]
    assert caught.value.reason == reason


def test_the_environment_of_the_contract_yields_to_the_builds_own() -> None:
    merged = sandbox.sandbox_environment({"TZ": "CET", "X": "1"})
    assert merged["TZ"] == "CET"
    assert merged["X"] == "1"
    assert merged["SOURCE_DATE_EPOCH"] == "1"
    assert list(merged) == sorted(merged)


def test_no_path_of_this_machine_is_on_bwraps_command_line() -> None:
    with sandbox.build_command(REQUEST, disable_userns=True, status=None) as command:
        os.close(command.filter_pipe)
        assert command.argv[:2] == ("bwrap", "--args")
        assert command.argv[3:] == ("--", *REQUEST.argv)


def test_every_namespace_and_every_capability_is_let_go() -> None:
    options = options_of(REQUEST)
    wanted = {"--unshare-all", "--unshare-user", "--unshare-cgroup", "--disable-userns", "--new-session"}
    assert wanted <= set(options)
    assert {"--die-with-parent", "--clearenv", "--seccomp"} <= set(options)
    assert options[options.index("--cap-drop") + 1] == "ALL"


def test_inputs_are_read_only_and_the_root_is_closed_last() -> None:
    options = options_of(REQUEST)
    writable = [options[at + 2] for at, option in enumerate(options) if option == "--bind"]
    assert writable == ["/build", "/forge/out"]
    read_only = [options[at + 2] for at, option in enumerate(options) if option == "--ro-bind"]
    assert read_only == ["/forge/zig", "/usr"]
    assert options[-4:] == ["--remount-ro", "/", "--chdir", "/build"]


def test_the_links_to_usr_need_a_usr() -> None:
    assert "usr/bin" in options_of(REQUEST)
    assert "usr/bin" not in options_of(replace(REQUEST, mounts=()))


def test_descriptors_are_closed_with_the_command() -> None:
    before = set(os.listdir("/proc/self/fd"))
    options_of(REQUEST)
    assert set(os.listdir("/proc/self/fd")) == before


ROOT = HostSettings(is_root=True)
USER = HostSettings(is_root=False)


@pytest.mark.parametrize(
    ("settings", "said", "reason", "command"),
    [
        (replace(USER, max_user_namespaces=0), "", "no-user-namespaces", "user.max_user_namespaces=65536"),
        (replace(ROOT, max_user_namespaces=0), "", "no-user-namespaces", "user.max_user_namespaces=65536"),
        (USER, "bwrap: Creating new namespace failed: No space left on device", "no-user-namespaces", "sysctl"),
        (replace(USER, unprivileged_userns_clone=0), "", "userns-clone-disabled", "unprivileged_userns_clone=1"),
        (replace(USER, apparmor_restricts_userns=1), "", "apparmor-restricts-userns", "/etc/apparmor.d/bwrap"),
        (replace(ROOT, apparmor_restricts_userns=1), "?", "sandbox-failed", ""),
        (ROOT, "bwrap: Can't mount proc on /newroot/proc: Operation not permitted", "masked-proc", "systempaths"),
        (replace(ROOT, in_container=True), "?", "container-forbids-namespaces", "seccomp=unconfined"),
        (replace(USER, has_seccomp_filter=True), "?", "container-forbids-namespaces", "seccomp=unconfined"),
        (USER, "", "sandbox-failed", ""),
    ],
)
def test_the_setting_in_the_way_is_named_with_its_command(
    settings: HostSettings, said: str, reason: str, command: str
) -> None:
    finding = availability.diagnose(said, settings, BWRAP)
    assert not finding.ok
    assert finding.reason == reason
    assert command in finding.detail


def test_the_apparmor_fix_holds_the_profile_to_install() -> None:
    finding = availability.diagnose("", replace(USER, apparmor_restricts_userns=1), BWRAP)
    assert availability.APPARMOR_PROFILE.format(path=BWRAP) in finding.detail


def test_a_machine_without_bwrap_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ExecutorError) as caught:
        availability.find_bubblewrap(tmp_path / "bwrap")
    assert caught.value.reason == "no-bwrap"
    assert caught.value.exit_code is ExitCode.ENVIRONMENT_ERROR
    assert [finding.reason for finding in availability.probe(tmp_path / "bwrap")] == ["no-bwrap"]


def test_an_old_bwrap_is_refused_and_a_newer_one_gets_more_options(tmp_path: Path) -> None:
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho bubblewrap 0.4.1\n")
    program.chmod(0o755)
    with pytest.raises(ExecutorError) as caught:
        availability.find_bubblewrap(program)
    assert caught.value.reason == "bwrap-too-old"
    assert not Bubblewrap(program, (0, 6, 2)).can_disable_userns
    assert Bubblewrap(program, (0, 11, 0)).can_disable_userns


def test_an_input_that_is_not_there_explains_the_failure() -> None:
    error = availability.explain_failure("hello", Bubblewrap(BWRAP, (0, 8, 0)), b"", Path("/store/zig"))
    assert error.reason == "missing-input"


def test_disk_usage_counts_a_file_once_and_a_sparse_one_whole(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"x" * 4096)
    (tmp_path / "a" / "again").hardlink_to(tmp_path / "a" / "file")
    (tmp_path / "up").symlink_to("..")
    with (tmp_path / "sparse").open("wb") as sparse:
        sparse.truncate(1 << 30)
    seen = watch.measure_disk((tmp_path,), most_files=100, most_bytes=1 << 40)
    assert seen.files == 5
    assert (1 << 30) + 4096 <= seen.bytes < (1 << 30) + 65536


def test_disk_usage_stops_counting_beyond_the_bounds(tmp_path: Path) -> None:
    for name in range(50):
        (tmp_path / str(name)).touch()
    assert watch.measure_disk((tmp_path,), most_files=10, most_bytes=1).files == 11


def test_a_directory_that_is_gone_uses_nothing(tmp_path: Path) -> None:
    assert watch.measure_disk((tmp_path / "gone",), most_files=1, most_bytes=1) == watch.DiskUsage()


def test_a_process_that_is_no_sandbox_uses_nothing() -> None:
    with watch.SandboxMeter(os.getpid()) as meter:
        assert not meter.has_more_processes_than(0)
        assert meter.measure() == watch.ResourceUsage()


def decompress(path: Path) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())


def test_a_log_can_be_read_while_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with BuildLog(path, 1 << 20) as log:
        assert log.write(b"first\n")
        log.flush()
        assert decompress(path) == b"first\n"
        assert log.write(b"second\n")
    assert decompress(path) == b"first\nsecond\n"


def test_a_log_keeps_what_fits(tmp_path: Path) -> None:
    with BuildLog(tmp_path / "log", 4) as log:
        assert log.write(b"abcd")
        assert not log.write(b"e")
    assert decompress(tmp_path / "log") == b"abcd"


def test_a_full_disk_is_told_as_one() -> None:
    with pytest.raises(ExecutorError) as caught, BuildLog(Path("/dev/full"), 1 << 20) as log:
        log.write(b"x")
        log.flush()
    assert caught.value.reason == "disk-full"


def test_a_log_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExecutorError) as caught:
        BuildLog(tmp_path / "nowhere" / "log", 1)
    assert caught.value.reason == "no-log"


def test_an_empty_log_is_a_whole_frame(tmp_path: Path) -> None:
    with BuildLog(tmp_path / "log", 4):
        pass
    assert decompress(tmp_path / "log") == b""
