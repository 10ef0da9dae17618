import type { ComponentChildren } from "preact";
import { Link } from "wouter-preact";
import { api, take } from "../../api/client";
import type { Event, Job } from "../../api/types";
import { ago, count, duration, figure, moment, NONE, number, percent, short, signed, words } from "../../format";
import { Bar } from "../../parts/Bar";
import { Notice } from "../../parts/Notices";
import { hasEnded, StateBadge } from "../../parts/State";
import { Table } from "../../parts/Table";
import { useLoad } from "../../state/loading";
import type { Names } from "../../state/names";
import { EventList } from "./Events";

/** How it stands, what it is, and what it came to. */
export function Overview({ job, names, events }: { job: Job; names: Names; events: readonly Event[] }) {
  return (
    <>
      {job.failure && (
        <div class="notice bad" role="alert">
          <p>
            <strong>{job.failure.message}</strong>
          </p>
          <p>
            <code>{job.failure.code}</code>
            {job.failure.field && <> at <code>{job.failure.field}</code></>} ·{" "}
            {job.failure.cause === "user" ? "Change the job and submit it again." : "A fault of the service's; a retry may help."}
          </p>
        </div>
      )}
      {(job.result?.warnings ?? []).map((warning) => (
        <Notice kind="warn">{warning.message}</Notice>
      ))}
      {job.state === "queued" && <Queue id={job.id} />}
      {!hasEnded(job) && job.progress && <Progress job={job} />}
      {job.result && <Figures job={job} />}
      <div class="columns">
        <div class="stack">
          <Stages job={job} />
          <section class="card">
            <h2>Latest events</h2>
            {events.length ? <EventList events={events.slice(-8).reverse()} /> : <p class="quiet">None yet.</p>}
          </section>
        </div>
        <section class="card stack">
          <h2>Job</h2>
          <dl class="facts">
            <Fact name="Model">{names.model(job.model)}</Fact>
            <Fact name="Domains">
              {job.spec.domains.map((domain) => `${domain.name} (${names.dataset(domain.dataset)})`).join(" → ")}
            </Fact>
            <Fact name="Sparsity">
              {percent(job.spec.sparsity.target)} {job.spec.sparsity.pattern ?? ""} · {job.spec.sparsity.allocation ?? "uniform"} allocation
            </Fact>
            {job.spec.effort && <Fact name="Effort">{job.spec.effort}</Fact>}
            <Fact name="Created">{moment(job.created_at)}</Fact>
            {job.started_at && <Fact name="Started">{moment(job.started_at)}</Fact>}
            {job.finished_at && <Fact name="Finished">{moment(job.finished_at)}</Fact>}
            <Fact name="Ran">{duration(job.runtime_seconds)} in {count(job.attempts, "attempt")}</Fact>
            <Fact name="Priority">{job.priority}</Fact>
            {Object.keys(job.labels).length > 0 && (
              <Fact name="Labels">{Object.entries(job.labels).map(([name, value]) => `${name}: ${value}`).join(", ")}</Fact>
            )}
            {job.retry_of && <Fact name="Retry of"><Link href={`/jobs/${job.retry_of}`}>{short(job.retry_of)}</Link></Fact>}
            {job.continues && <Fact name="Continues"><Link href={`/jobs/${job.continues}`}>{short(job.continues)}</Link></Fact>}
          </dl>
          <details>
            <summary>Spec</summary>
            <pre class="spec" tabIndex={0}>{JSON.stringify(job.spec, null, 2)}</pre>
          </details>
        </section>
      </div>
    </>
  );
}

function Fact({ name, children }: { name: string; children: ComponentChildren }) {
  return (
    <>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </>
  );
}

function Progress({ job }: { job: Job }) {
  const at = job.progress;
  if (!at) return null;
  const left = at.eta_at ? (Date.parse(at.eta_at) - Date.now()) / 1000 : null;
  const where = [
    words(at.phase),
    at.stage !== null && at.stages && `stage ${at.stage + 1} of ${at.stages}`,
    at.domain,
    at.block !== null && at.blocks && `block ${at.block} of ${at.blocks}`,
  ].filter(Boolean);
  return (
    <section class="card stack" aria-label="Progress">
      <Bar wide value={at.fraction} label="Progress of the job" />
      <p>
        {where.join(" · ")}
        <span class="quiet">
          {left !== null && left > 0 && <> · about {duration(left)} left, until {moment(at.eta_at)}</>} · seen {ago(at.updated_at)}
        </span>
      </p>
    </section>
  );
}

function Figures({ job }: { job: Job }) {
  const result = job.result;
  if (!result) return null;
  const figures: [string, string][] = [
    ["Mean perplexity", figure(result.mean_perplexity)],
    ["Dense", figure(result.dense_mean_perplexity)],
    ["BWT", signed(result.bwt)],
    ["Sparsity", percent(result.sparsity, 2)],
    ["Files", number(result.files)],
  ];
  return (
    <dl class="tiles">
      {figures.map(([name, value]) => (
        <div>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

const WAITS: Record<string, string> = {
  model: "its model is still being taken in",
  dataset: "a dataset is still being taken in",
  backoff: "it pauses after a failed attempt",
  estimate: "how much memory it needs is being found out",
  memory: "no worker that is there has the memory that it needs",
  quota: "its project runs as many jobs as it may",
  jobs: "other jobs come first",
  worker: "it is next, and waits for a worker",
};

function Queue({ id }: { id: string }) {
  const place = useLoad(() => take(api.GET("/v1/jobs/{id}/queue", { params: { path: { id } } })), [id], 5);
  if (!place.data || place.data.position === null) return null;
  const waits = place.data.waits_for.map((wait) => WAITS[wait.code] ?? words(wait.code));
  return (
    <Notice kind="info">
      <strong>Number {place.data.position} in the queue.</strong> {waits.length > 0 && <>Now {waits.join("; ")}.</>}
    </Notice>
  );
}

function Stages({ job }: { job: Job }) {
  const stages = useLoad(() => take(api.GET("/v1/jobs/{id}/stages", { params: { path: { id: job.id } } })), [job.id, job.state], hasEnded(job) ? undefined : 5);
  return (
    <Table
      caption="Stages"
      captionShown
      rows={stages.data?.data ?? []}
      rowKey={(stage) => stage.stage}
      columns={[
        { title: "Domain", heads: true, cell: (stage) => stage.domain },
        { title: "State", cell: (stage) => <StateBadge state={stage.state} /> },
        { title: "Blocks", figure: true, cell: (stage) => (stage.blocks ? `${stage.blocks_done} / ${stage.blocks}` : NONE) },
        { title: "Sparsity", figure: true, cell: (stage) => percent(stage.sparsity) },
        { title: "Error", figure: true, cell: (stage) => figure(stage.held_out_error ?? stage.relative_error, 3) },
        { title: "Time", figure: true, cell: (stage) => duration(stage.seconds) },
      ]}
    />
  );
}
