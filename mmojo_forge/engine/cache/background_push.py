"""Pushes results to caches during a run. One thread does it, so builds never wait for a push.

    built ──▶ queue ──▶ trees and signed trace into each cache;  finish ──▶ the indexes of the roots

If a push to a cache fails, the user gets one warning and the rest of the run skips that cache. The run itself does not
fail, because its own results do not depend on the push.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from queue import SimpleQueue

from mmojo_forge.cache.transport.protocol import Transport
from mmojo_forge.engine.cache.push import PushPlan, pack, push
from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.plan import make_plan
from mmojo_forge.engine.protocols import Signer
from mmojo_forge.engine.realise.builder import object_name
from mmojo_forge.engine.reporter import Reporter
from mmojo_forge.engine.sbom.redistribution import restricted
from mmojo_forge.errors import ForgeError
from mmojo_forge.model.derivation import Derivation
from mmojo_forge.model.trace import Trace
from mmojo_forge.store.protocol import Store

_PATIENCE = 1.0
"""Seconds that Ctrl-C waits for a push that does not react to a closed connection."""


class BackgroundPublisher:
    """Implements Publisher. The thread starts with the first result.

    The process may end at any time: a cache stays consistent after a partial push.
    """

    def __init__(
        self, places: Mapping[str, Callable[[], Transport]], store: Store, signer: Signer, reporter: Reporter
    ) -> None:
        self._places = dict(places)
        self._open: dict[str, Transport] = {}
        self._store = store
        self._signer = signer
        self._reporter = reporter
        self._queue: SimpleQueue[PushPlan | None] = SimpleQueue()
        self._graph: Graph | None = None
        self._shared: frozenset[str] = frozenset()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def begin(self, graph: Graph) -> None:
        """Start publishing nodes of this graph. Nodes of other graphs are not published."""
        with self._starting:
            self._graph, self._shared = graph, frozenset()

    def built(self, node: Derivation, trace: Trace) -> None:
        """Queue a signed result from the store. The caller decides whether it is useful on other machines.

        Skips nodes that are not redistributable, and nodes outside of the graph given to `begin`, because nobody
        checked those.
        """
        with self._starting:
            self._look_at_graph()
        if node.id not in self._shared:
            return
        trees = {output.tree: object_name(trace.name, name) for name, output in trace.outputs.items()}
        self._queue.put(PushPlan(trees, (trace,), {}))
        with self._starting:
            if self._thread is None:
                # A daemon thread, so that a hanging transfer cannot keep the process alive.
                self._thread = threading.Thread(target=self._run, name="forge-publish", daemon=True)
                self._thread.start()

    def _look_at_graph(self) -> None:
        """Find out which nodes are redistributable; none, with a warning, if recipes contradict the graph."""
        graph, self._graph = self._graph, None
        if graph:
            try:
                self._shared = frozenset(graph.nodes).difference(restricted(graph))
            except ForgeError as error:
                self._reporter.warning(f"push is off for this run: {error.message}")

    def finish(self, graph: Graph | None) -> None:
        """Wait until the queue is pushed, including the indexes of the graph's reproducible roots."""
        if self._thread is None:
            return
        waiting = self._queue.qsize()
        if waiting > 1:
            self._reporter.note(f"pushing {waiting} results to {', '.join(self._places)}")
        roots = [graph.nodes[root] for root in graph.roots] if graph else []
        derivations = [root for root in roots if isinstance(root, Derivation) and root.id in self._shared]
        portable = [root for root in derivations if root.label.reproducible]
        if graph and portable:
            self._offer(portable, graph)
        self._queue.put(None)
        try:
            self._thread.join()
        except KeyboardInterrupt:
            self.abandon()
            raise
        self._thread = None

    def abandon(self) -> None:
        """Stop pushing and cut off running transfers. A later push reuses what has arrived."""
        self._places.clear()
        for transport in list(self._open.values()):
            transport.close()
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(_PATIENCE)
            self._thread = None

    def _offer(self, roots: list[Derivation], graph: Graph) -> None:
        outputs = ((root, output) for root in roots for output in graph.outputs.get(root.id, root.outputs))
        plan = make_plan(Graph.of_outputs(outputs), self._store)
        try:
            self._queue.put(pack(plan, self._store, self._signer, closure=False))
        except ForgeError as error:
            self._reporter.warning(f"the index of {roots[0].name} is not pushed: {error.message}")

    def _run(self) -> None:
        while (push_plan := self._queue.get()) is not None:
            for name in list(self._places):
                try:
                    push(push_plan, self._transport(name), self._store, self._signer)
                except ForgeError as error:
                    # `abandon` cleared the places, so the error comes from a transport that it closed.
                    if self._places.pop(name, None) is None:
                        return
                    self._reporter.warning(f"push to {name} is off for the rest of this run: {error.message}")

    def _transport(self, name: str) -> Transport:
        if name not in self._open:
            self._open[name] = self._places[name]()
        return self._open[name]
