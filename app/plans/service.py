"""Rules of plans: the spec is checked like a job's, then the CPU queue looks at the model."""

from sqlalchemy.orm import Session

from app.jobs.service import check_inputs, check_questions
from app.kit.ids import Prefix, new_id
from app.kit.problems import NotFound, exists
from app.lineage.continuation import complete
from app.plans import repository
from app.plans.calibration import calibrated
from app.plans.schemas import PlanRead, job_of
from app.tables.datasets import IntakeState
from app.tables.plans import Plan
from app.tables.tasks import TaskKind
from app.tasks.service import submit
from secateur.spec.job import JobContinue, JobCreate, canonical_digest


class PlanNotFound(NotFound):
    code, title = "plan_not_found", "There is no such plan"


def ask(session: Session, project: str, body: JobCreate | JobContinue) -> Plan:
    """A pending plan and the task that makes it. Raises InputRefused, and what `continuation.complete` raises."""
    completed = complete(session, project, body)
    check_inputs(session, project, completed.asked.model, completed.asked.datasets())
    check_questions(session, project, completed.asked.tasks)
    plan = Plan(
        id=new_id(Prefix.plan),
        project_id=project,
        model_id=completed.asked.model,
        state=IntakeState.pending,
        spec=completed.spec,
        spec_digest=canonical_digest(completed.spec),
    )
    session.add(plan)
    session.flush()
    submit(session, project, TaskKind.plan, plan.id)
    session.refresh(plan)
    return plan


def read(session: Session, project: str, id: str, hours: float) -> PlanRead:
    """A plan, beside what finished jobs say of its time, and what jobs of the same spec took.

    hours: how long plans are kept. Raises PlanNotFound, also for another project's."""
    plan = exists(repository.find(session, project, id), PlanNotFound)
    read = PlanRead.of(plan, hours)
    estimates = read.result.estimates if read.result is not None else None
    jobs = repository.jobs_of(session, project, plan.spec_digest) if plan.spec_digest else ()
    time = calibrated(session, read.method, estimates)
    return read.model_copy(update={"calibrated": time, "jobs": [job_of(job) for job in jobs]})
