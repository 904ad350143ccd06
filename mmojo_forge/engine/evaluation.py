"""From targets to derivations: the one place where the recipes of a workspace are evaluated.

Request ──evaluate──▶ Evaluation (instances, lock) ──plan──▶ Plan ──realise/run.py──▶ results
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mmojo_forge.engine.errors import NotBuilt
from mmojo_forge.engine.graph import Graph
from mmojo_forge.engine.plan import Plan, make_plan
from mmojo_forge.engine.protocols import Metadata, Substituter
from mmojo_forge.engine.workspace import Request, Workspace, as_package
from mmojo_forge.errors import ForgeError
from mmojo_forge.model.digest import TreeId
from mmojo_forge.model.lockfile import Lock
from mmojo_forge.recipe.evaluate import Evaluator, Instance
from mmojo_forge.recipe.loader import Loader


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What the targets of a request came to against one lock: an instance each.

    `refused` has the reason of each target that cannot be instantiated here; only `evaluate_all` leaves any.
    """

    request: Request
    lock: Lock
    evaluator: Evaluator
    instances: Mapping[str, Instance]
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def graph(self) -> Graph:
        """The graph below the targets, of each target the output that it names."""
        return Graph.of_outputs((instance.node, instance.output) for instance in self.instances.values())

    def plan(self, store: Metadata, substituter: Substituter | None = None) -> Plan:
        """The plan that makes the targets valid in `store`."""
        return make_plan(self.graph, store, substituter)

    def built(self, plan: Plan, operation: str) -> dict[str, TreeId]:
        """The tree of each target, by a plan without substituter; raises NotBuilt, which says what was tried."""
        trees = {}
        for target, instance in self.instances.items():
            tree = plan.resolved.get(instance.node.id, {}).get(instance.output)
            if tree is None or tree not in plan.valid:
                raise NotBuilt(operation, target, self.request.part(target).words())
            trees[target] = tree
        return trees


def evaluate(workspace: Workspace, request: Request, lock: Lock | None = None) -> Evaluation:
    """The evaluation of the request's targets, against the workspace's lock if none is given.

    Raises LockError and RecipeError; for a whole request also where nothing heeds an option that is set
    (`unused-setting`, `overruled-setting`).
    """
    lock = workspace.read_lock() if lock is None else lock
    evaluator = workspace.evaluator(lock, overrides=request.overrides)
    instances = {target: evaluator.instantiate(as_package(target)) for target in request.targets}
    if request.whole:
        evaluator.check_overrides()
    return Evaluation(request, lock, evaluator, instances)


def evaluate_all(
    workspace: Workspace, lock: Lock | None = None, *, locking: bool = False, tolerant: bool = False
) -> Evaluation:
    """The evaluation of every target of the workspace, by name.

    `locking` gives stand-ins for pins that are missing. A `tolerant` evaluation refuses a target that cannot be
    instantiated, be it for another machine or a recipe that is being written; any other raises its RecipeError.
    """
    lock = workspace.read_lock() if lock is None else lock
    evaluator = workspace.evaluator(lock, locking=locking)
    instances: dict[str, Instance] = {}
    refused: dict[str, str] = {}
    for target in Loader(workspace.root).targets():
        try:
            instances[target] = evaluator.instantiate(as_package(target))
        except ForgeError as error:
            if not tolerant:
                raise
            refused[target] = error.reason
    return Evaluation(Request.parse(instances), lock, evaluator, instances, refused)
