"""Rules of plans: the spec is checked like a job's, then the CPU queue looks at the model."""

from sqlalchemy.orm import Session

from app.jobs.service import check_inputs
from app.kit.ids import Prefix, new_id
from app.kit.problems import NotFound, exists
from app.lineage.continuation import complete
from app.plans import repository
from app.tables.datasets import IntakeState
from app.tables.plans import Plan
from app.tables.tasks import TaskKind
from app.tasks.service import submit
from secateur.spec.job import JobContinue, JobCreate


class PlanNotFound(NotFound):
    code, title = "plan_not_found", "There is no such plan"


def ask(session: Session, project: str, body: JobCreate | JobContinue) -> Plan:
    """A pending plan and the task that makes it. Raises InputRefused, and what `continuation.complete` raises."""
    completed = complete(session, project, body)
    check_inputs(session, project, completed.asked.model, completed.asked.datasets())
    plan = Plan(
        id=new_id(Prefix.plan),
        project_id=project,
        model_id=completed.asked.model,
        state=IntakeState.pending,
        spec=completed.spec,
    )
    session.add(plan)
    session.flush()
    submit(session, project, TaskKind.plan, plan.id)
    session.refresh(plan)
    return plan


def read(session: Session, project: str, id: str) -> Plan:
    """Raises PlanNotFound, also for another project's."""
    return exists(repository.find(session, project, id), PlanNotFound)
