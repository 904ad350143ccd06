"""Writes a file tree below one directory descriptor, and nothing outside it, even for hostile names.

The writer opens each directory of a path separately, with O_NOFOLLOW, from the descriptor of its parent. The kernel
never resolves a whole path. Symlinks in the tree (from this archive, an earlier one or another process) therefore
cannot lead out of it, and no path is too long for the kernel.

The writer never replaces a directory. This makes the rule for symlinks safe: a target of some `..` followed by plain
names starts from a real directory and stays in the tree. A `..` *after* a name is allowed only behind real directories
(`check_symlinks`).

openat2(RESOLVE_BENEATH) would save nothing here, because all files of a directory reuse its open descriptor.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from types import TracebackType

from mmojo_forge.fetch.archive.errors import ArchiveError, Reason
from mmojo_forge.fetch.archive.options import UnpackBudget
from mmojo_forge.fetch.archive.placement import TreePath

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_COPY_CHUNK = 1 << 20

Content = Iterable[bytes | memoryview]


class ArchiveTreeWriter:
    """Writes one archive's entries into a directory that may hold entries of earlier archives.

    It changes nothing outside the directory and replaces no existing directory. It replaces a file or symlink of an
    earlier archive only with `replace`. A writer is for one thread; `sibling` makes one for another thread.
    """

    def __init__(self, root: int, budget: UnpackBudget, *, replace: bool) -> None:
        self._root = root
        self._budget = budget
        self._replace = replace
        self._path: TreePath = ()
        self._descriptors = [root]
        self._files: set[TreePath] = set()
        self._symlinks: dict[TreePath, str] = {}
        self.directories = 0

    def __enter__(self) -> ArchiveTreeWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(0)

    def sibling(self) -> ArchiveTreeWriter:
        """Another writer for the same tree and another thread. It does not know which files this one wrote."""
        return ArchiveTreeWriter(self._root, self._budget, replace=self._replace)

    def make_directory(self, path: TreePath) -> None:
        """Make a directory and its parents, unless they exist."""
        self._enter(path)

    def write_file(self, path: TreePath, content: Content, *, executable: bool) -> None:
        """Write a file. Without `replace`, a file of an earlier archive at `path` must have the same bytes and mode."""
        directory = self._enter(path[:-1])
        name = _leaf(path)
        mode = 0o755 if executable else 0o644
        try:
            descriptor = os.open(name, _CREATE, mode, dir_fd=directory)
        except FileExistsError:
            if not self._may_replace(path):
                _compare_file(directory, path, content, executable=executable)
                self._files.add(path)
                return
            _remove(directory, path)
            descriptor = os.open(name, _CREATE, mode, dir_fd=directory)
        try:
            for piece in content:
                _write(descriptor, piece)
        finally:
            os.close(descriptor)
        self._symlinks.pop(path, None)
        self._files.add(path)

    def copy_file(self, path: TreePath, source: TreePath) -> int:
        """Copy a file that this writer wrote before, in place of a hard link. Returns the size in bytes."""
        if source not in self._files:
            raise ArchiveError(
                f"{'/'.join(path)}: hard link to {'/'.join(source)}, which is not an earlier file of the archive",
                reason=Reason.HARD_LINK,
            )
        if source == path:
            return 0
        descriptor = os.open(_leaf(source), _READ, dir_fd=self._enter(source[:-1]))
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ArchiveError(
                    f"{'/'.join(path)}: hard link to something that is not a regular file", reason=Reason.HARD_LINK
                )
            self._budget.add_file("/".join(path), status.st_size)
            executable = bool(status.st_mode & stat.S_IXUSR)
            self.write_file(path, _read(descriptor), executable=executable)
            return status.st_size
        finally:
            os.close(descriptor)

    def make_symlink(self, path: TreePath, target: str) -> None:
        """Write a symlink whose target has passed `Placement.symlink_target`."""
        directory = self._enter(path[:-1])
        name = _leaf(path)
        try:
            os.symlink(target.encode(), name, dir_fd=directory)
        except FileExistsError:
            if not self._may_replace(path):
                _compare_symlink(directory, path, target)
            else:
                _remove(directory, path)
                os.symlink(target.encode(), name, dir_fd=directory)
        self._files.discard(path)
        self._symlinks[path] = target

    def is_directory(self, path: TreePath) -> bool:
        """Whether `path` and all its parents are real directories."""
        try:
            self._enter(path, create=False)
        except (ArchiveError, OSError):
            return False
        return True

    def check_symlinks(self) -> None:
        """Raise ArchiveError if a `..` in a symlink's target follows a part that is not a real directory.

        As text, `a/../b` stays in the directory where it starts. If `a` is a symlink, or becomes one later, the target
        may lead anywhere. The writer never replaces real directories, so the result of this check stays true.
        """
        for path, target in self._symlinks.items():
            if not _has_inner_dotdot(target):
                continue
            here = list(path[:-1])
            for part in target.split("/"):
                if part != "..":
                    here += [part] if part not in {"", "."} else []
                elif not here or not self.is_directory(tuple(here)):
                    raise ArchiveError(
                        f"{'/'.join(path)}: symlink to {target} has '..' after a part that is not a directory",
                        reason=Reason.SYMLINK_ESCAPES,
                    )
                else:
                    here.pop()

    def _may_replace(self, path: TreePath) -> bool:
        """Whether an existing entry may be replaced. In a tar, a later entry replaces an earlier one (see `tar -r`)."""
        return self._replace or path in self._files or path in self._symlinks

    def _enter(self, path: TreePath, *, create: bool = True) -> int:
        """The descriptor of a directory, valid until the next call. Descriptors of common parents stay open."""
        if path == self._path:
            return self._descriptors[-1]
        common = 0
        for mine, wanted in zip(self._path, path, strict=False):
            if mine != wanted:
                break
            common += 1
        self._leave(common)
        for depth in range(common, len(path)):
            self._descriptors.append(self._open(path[: depth + 1], create=create))
            self._path = path[: depth + 1]
        return self._descriptors[-1]

    def _open(self, path: TreePath, *, create: bool) -> int:
        name, above = _leaf(path), self._descriptors[-1]
        # The second turn opens the directory that the first one made.
        for _ in range(2):
            try:
                return os.open(name, _DIRECTORY, dir_fd=above)
            except FileNotFoundError as error:
                if not create:
                    raise ArchiveError(f"{'/'.join(path)}: no such directory", reason=Reason.CORRUPT) from error
                self._budget.add_member()
                self.directories += 1
                _make_directory(name, above)
            except OSError as error:
                mode = os.stat(name, dir_fd=above, follow_symlinks=False).st_mode
                if stat.S_ISLNK(mode):
                    raise ArchiveError(f"{'/'.join(path)}: is a symlink", reason=Reason.THROUGH_SYMLINK) from error
                if not stat.S_ISDIR(mode):
                    raise ArchiveError(f"{'/'.join(path)}: not a directory", reason=Reason.DUPLICATE) from error
                raise
        raise ArchiveError(f"{'/'.join(path)}: another process removes the directory", reason=Reason.CANNOT_WRITE)

    def _leave(self, depth: int) -> None:
        """Close the directories that are more than `depth` levels below the root."""
        while len(self._descriptors) > depth + 1:
            os.close(self._descriptors.pop())
        self._path = self._path[:depth]


def _leaf(path: TreePath) -> bytes:
    if not path:
        raise ArchiveError("the root of the archive is not a directory", reason=Reason.BAD_NAME)
    return path[-1].encode()


def _make_directory(name: bytes, above: int) -> None:
    with contextlib.suppress(FileExistsError):  # another thread made it first; opening it checks that it is a directory
        os.mkdir(name, 0o755, dir_fd=above)


def _write(descriptor: int, piece: bytes | memoryview) -> None:
    written = os.write(descriptor, piece)
    while written < len(piece):
        piece = piece[written:]
        written = os.write(descriptor, piece)


def _read(descriptor: int) -> Iterator[bytes]:
    while chunk := os.read(descriptor, _COPY_CHUNK):
        yield chunk


def _remove(directory: int, path: TreePath) -> None:
    """Remove a file or symlink; raises ArchiveError for a directory."""
    if stat.S_ISDIR(os.stat(_leaf(path), dir_fd=directory, follow_symlinks=False).st_mode):
        raise ArchiveError(f"{'/'.join(path)}: a directory with this name exists", reason=Reason.DUPLICATE)
    os.unlink(_leaf(path), dir_fd=directory)


def _compare_file(directory: int, path: TreePath, content: Content, *, executable: bool) -> None:
    """Raise ArchiveError unless the existing file has this content and mode."""
    differs = ArchiveError(f"{'/'.join(path)}: already exists with other content or mode", reason=Reason.DUPLICATE)
    try:
        descriptor = os.open(_leaf(path), _READ, dir_fd=directory)
    except OSError as error:
        raise differs from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode) or bool(mode & stat.S_IXUSR) != executable:
            raise differs
        offset = 0
        for piece in content:
            if os.pread(descriptor, len(piece), offset) != piece:
                raise differs
            offset += len(piece)
        if os.pread(descriptor, 1, offset):
            raise differs
    finally:
        os.close(descriptor)


def _compare_symlink(directory: int, path: TreePath, target: str) -> None:
    try:
        if os.readlink(_leaf(path), dir_fd=directory) == target.encode():
            return
    except OSError:
        pass  # not a symlink, so it differs
    raise ArchiveError(f"{'/'.join(path)}: already exists, but not as a symlink to {target}", reason=Reason.DUPLICATE)


def _has_inner_dotdot(target: str) -> bool:
    """Whether a `..` comes after a name, as in `a/../b`."""
    parts = [part for part in target.split("/") if part not in {"", "."}]
    return ".." in parts[next((i for i, part in enumerate(parts) if part != ".."), len(parts)) :]
