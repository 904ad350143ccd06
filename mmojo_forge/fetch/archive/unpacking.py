"""One archive on its way into a tree: places each member, has it written, counts, and checks the whole at the end."""

from __future__ import annotations

from mmojo_forge.fetch.archive.errors import ArchiveError, Reason
from mmojo_forge.fetch.archive.member import Member, MemberKind
from mmojo_forge.fetch.archive.options import Budget, ExtractOptions, ExtractReport
from mmojo_forge.fetch.archive.placement import MERGED_DIRECTORIES, Placement, TreePath, split_name
from mmojo_forge.fetch.archive.writer import Content, TreeWriter


class Unpacking:
    """Adds the members of one archive to a tree by the rules of ExtractOptions."""

    def __init__(self, writer: TreeWriter, budget: Budget, options: ExtractOptions) -> None:
        self.writer = writer
        self.budget = budget
        self._options = options
        self._placement = Placement(options)
        self._prefix = split_name(options.prefix, options.limits) if options.prefix else ()
        self._files = self._symlinks = self._skipped = 0

    def place(self, member: Member) -> TreePath | None:
        """Where a member goes, before merging and without the prefix; None if it is not wanted."""
        self.budget.add_member()
        path = self._placement.select(member.name)
        if path is None:
            self._skipped += 1
        elif member.kind is MemberKind.DEVICE:
            raise ArchiveError(f"{member.name}: a device, FIFO or socket", reason=Reason.DEVICE)
        elif not path and member.kind is not MemberKind.DIRECTORY:
            raise ArchiveError(f"{member.name}: the root of the archive is no directory", reason=Reason.BAD_NAME)
        return path

    def merge(self, path: TreePath) -> TreePath:
        """The path to write for one that `place` gave."""
        return (*self._prefix, *self._placement.merge(path))

    def place_file(self, path: TreePath, size: int) -> TreePath:
        """Where a file of this size at `path` is to be written, counted and with its directory made."""
        path = self.merge(path)
        self.budget.add_file("/".join(path), size)
        self.writer.make_directory(path[:-1])
        self._files += 1
        return path

    def add(self, member: Member, content: Content) -> None:
        """Write a member as it comes, if it is wanted."""
        path = self.place(member)
        if path is None:
            return
        if member.kind is MemberKind.FILE:
            self.writer.write_file(self.place_file(path, member.size), content, executable=member.executable)
        elif member.kind is MemberKind.DIRECTORY:
            self.make_directory(path)
        elif member.kind is MemberKind.SYMLINK:
            self.add_symlink(path, member.target)
        else:
            self._add_hard_link(path, member.target)

    def make_directory(self, path: TreePath) -> None:
        """See to a directory placed at `path`."""
        self.writer.make_directory(self.merge(path))

    def add_symlink(self, path: TreePath, target: str) -> None:
        """Write a symlink placed at `path`, unless merging makes it name itself."""
        checked = self._placement.symlink_target(path, target)
        if checked is not None:
            self.writer.make_symlink(self.merge(path), checked)
            self._symlinks += 1

    def finish(self, format_name: str) -> ExtractReport:
        """What was written, once everything is; raises ArchiveError for what only the whole tree shows to be bad."""
        if self._placement.selects and not self._options.may_be_empty and not self._files + self._symlinks:
            raise ArchiveError(
                f"none of {self._skipped} entries is selected",
                detail="Check strip_components, subpath, include and exclude against the names in the archive.",
                reason=Reason.NOTHING_SELECTED,
            )
        if self._options.merge_usr:
            for name in sorted(MERGED_DIRECTORIES):
                if self.writer.is_directory(("usr", name)):
                    self.writer.make_symlink((name,), f"usr/{name}")
        self.writer.check_symlinks()
        return ExtractReport(
            format=format_name,
            files=self._files,
            symlinks=self._symlinks,
            directories=self.writer.directories,
            bytes=self.budget.bytes,
            skipped=self._skipped,
        )

    def _add_hard_link(self, path: TreePath, target: str) -> None:
        """Trees have no hard links, and one file changed through another name would surprise: a copy is made."""
        source = self._placement.select(target)
        if source is None:
            raise ArchiveError(
                f"{'/'.join(path)}: hard link to {target}, which is not extracted", reason=Reason.HARD_LINK
            )
        self.writer.copy_file(self.merge(path), self.merge(source))
        self._files += 1
