"""What is fresh and what is not, asked without Prefect, torch or MLflow: the answer of a run with nothing to do."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.memory import Memory, State
from pipeline.records import EvaluateRecord, RegisterRecord
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class Glance:
    """The state of a workspace."""

    states: dict[str, State]
    evaluated: EvaluateRecord | None  # of the last finished evaluation, fresh or not
    registered: RegisterRecord | None  # of that evaluation, where it is registered

    @property
    def nothing_to_do(self) -> bool:
        return all(state.fresh for state in self.states.values()) and self.registered is not None


def glance(place: Workspace) -> Glance:
    """Asks DVC about every stage, and the receipt about the registration."""
    from pipeline.errors import MemoryFault
    from pipeline.receipts import receipt_is_current

    states = Memory(place.root).states()
    try:
        evaluated = EvaluateRecord.load(place.output("evaluate"))
    except MemoryFault:
        return Glance(states, None, None)
    return Glance(states, evaluated, receipt_is_current(place.config(), place, evaluated))
