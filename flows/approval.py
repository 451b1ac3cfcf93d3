"""The flow in which a person answers a request for approval, from Prefect's pages or by
a deployment.

It is a flow of its own: a retraining that paused for an answer would train anew when it
is resumed. The request lies in the journal, so nothing runs while it waits, and it
lapses by its date.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from prefect import flow

from flows.promotion import answer_request
from flows.step_task import PrefectConsole
from pipeline import redaction
from pipeline.storage import storage_errors
from pipeline.workspace import Workspace


@flow(name="approval", persist_result=False)
def approval(
    workspace: str,
    version: str,
    answer: Literal["approve", "refuse"],
    by: str,
    comment: str,
) -> str:
    """Answer the request for approval of a version.

    Args:
        workspace: the workspace's folder.
        version: of the registered model, such as 3.
        answer: approve: it becomes champion; refuse: the champion stays.
        by: who answers.
        comment: why; kept in the journal.

    Returns:
        What was done, in a sentence.

    Raises:
        ConfigError: the version does not wait for an answer.
        ServingError: it cannot be served.
        JournalMovedError: another became champion meanwhile.
    """
    redaction.install()
    place = Workspace(Path(workspace))
    console = PrefectConsole()

    def answer_it() -> str:
        with storage_errors(place.root):
            return answer_request(
                place, version, by, comment, console, approve=answer == "approve"
            )

    done = redaction.guarded(answer_it)()
    console.info(done)
    return done
