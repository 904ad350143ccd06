"""Removing trees and blobs so that a kill at any moment leaves a whole store: intent, rows, files, intent away."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Self

from mmojo_forge.model.digest import TreeId
from mmojo_forge.store import layout, objects, recovery, scratch
from mmojo_forge.store.batch import Blob
from mmojo_forge.store.database import Database
from mmojo_forge.store.scratch import ProcessScratch


class Removal:
    """Removes from a store. Its methods need the publish lock, exclusively; its end must come when that is released:
    there a removal that failed halfway is brought to its end."""

    def __init__(self, root: str, database: Database, process: ProcessScratch) -> None:
        self._root = root
        self._database = database
        self._process = process
        self._intent: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._intent is not None:
            recovery.retract(self._root, self._database, os.path.join(self._process.path, self._intent))
            self._process.drop_intent(self._intent)
            self._intent = None

    def remove(self, trees: Collection[TreeId], blobs: Sequence[Blob] = ()) -> None:
        """Remove trees with their objects, and blobs that no other tree has."""
        if not trees and not blobs:
            return
        files = [f"{layout.BLOBS}/{layout.blob_path(*blob)}" for blob in blobs]
        files += [f"{layout.TREES}/{tree}" for tree in trees]
        self._intent = self._process.note_intent([*files, *(f"{layout.OBJECTS}/{tree}" for tree in trees)])
        with self._database.transaction() as connection:
            connection.executemany("DELETE FROM trees WHERE id = ?", [(tree,) for tree in trees])
            connection.executemany("DELETE FROM blobs WHERE digest = ? AND executable = ?", blobs)
        for path in files:
            try:
                os.unlink(os.path.join(self._root, path))
            except FileNotFoundError:
                continue
            except IsADirectoryError:
                # Damage; a repair comes by here.
                scratch.throw_away(self._root, self._process, path)
        if trees:
            self.remove_objects(set(trees))
        self._process.drop_intent(self._intent)
        self._intent = None

    def remove_objects(self, trees: Collection[TreeId]) -> None:
        """Remove the objects of trees; where those stay, they are checked out anew when they are needed."""
        for tree, name in list(objects.list_objects(self._root)):
            if tree in trees:
                scratch.throw_away(self._root, self._process, f"{layout.OBJECTS}/{name}")
