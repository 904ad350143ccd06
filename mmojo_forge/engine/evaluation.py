"""Evaluates the recipes of a workspace: from targets to derivations. All commands evaluate through this module.

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
    """The targets of a request, instantiated against one lock.

    `refused` maps each target that cannot be instantiated here to the error's reason. Only a tolerant `evaluate_all`
    fills it.
    """

    request: Request
    lock: Lock
    evaluator: Evaluator
    instances: Mapping[str, Instance]
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def graph(self) -> Graph:
        """The closure of the targets' outputs. For a target with several outputs, only the named one is wanted."""
        return Graph.of_outputs((instance.node, instance.output) for instance in self.instances.values())

    def plan(self, store: Metadata, substituter: Substituter | None = None) -> Plan:
        """The plan to make the targets valid in `store`."""
        return make_plan(self.graph, store, substituter)

    def built(self, plan: Plan, operation: str) -> dict[str, TreeId]:
        """The tree of each target that is built. `plan` must be made without a substituter.

        Raises NotBuilt, which names `operation` and the command that builds the target.
        """
        trees = {}
        for target, instance in self.instances.items():
            tree = plan.resolved.get(instance.node.id, {}).get(instance.output)
            if tree is None or tree not in plan.valid:
                raise NotBuilt(operation, target, self.request.part(target).words())
            trees[target] = tree
        return trees


def evaluate(workspace: Workspace, request: Request, lock: Lock | None = None) -> Evaluation:
    """The evaluation of the request's targets, against `lock` or else the workspace's lock.

    Raises LockError and RecipeError. A whole request also fails if an option has no effect (`unused-setting`,
    `overruled-setting`); a part of a request does not, because another part may use the option.
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
    """The evaluation of every target of the workspace.

    With `locking`, placeholders replace missing pins. With `tolerant`, a target that cannot be instantiated (it is for
    another machine, or its recipe is unfinished) goes to `refused`. Otherwise its error is raised.
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
