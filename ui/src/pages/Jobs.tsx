import { useEffect, useState } from "preact/hooks";
import { Link } from "wouter-preact";
import { api, take } from "../api/client";
import { State } from "../api/schemas.json";
import type { Job, JobState } from "../api/types";
import { ago, duration, figure, moment, NONE, percent, short, words } from "../format";
import { Input, Select } from "../parts/Fields";
import { Empty, ErrorNotice, Loading } from "../parts/Notices";
import { Pager, usePages } from "../parts/Pager";
import { Head } from "../parts/Shell";
import { StateBadge } from "../parts/State";
import { Table, type Column } from "../parts/Table";
import { Bar } from "../parts/Bar";
import { dayOf, useFilters, type Filters } from "../state/filters";
import { useLoad } from "../state/loading";
import { useNames, type Names } from "../state/names";
import { useSession } from "../state/session";
import { useTitle } from "../state/title";

const STATES = State.enum as readonly JobState[];
const FILTERS = ["state", "method", "model", "label", "lineage", "created_after", "created_before"] as const;
type Filter = (typeof FILTERS)[number];
const SIZE = 50;

/** All jobs of the project, by filters that are in the address. */
export function JobsPage() {
  useTitle("Jobs");
  const { may } = useSession();
  const names = useNames();
  const pages = usePages();
  const filters = useFilters(FILTERS, pages.first);
  const page = useLoad(() => take(api.GET("/v1/jobs", { params: { query: query(filters.values, pages.cursor) } })), [filters.values, pages.cursor], 5);

  return (
    <>
      <Head title="Jobs">
        <Link href="/compare" class="button">Compare</Link>
        {may("jobs:write") && (
          <Link href="/new" class="button primary">New job</Link>
        )}
      </Head>
      <FilterForm filters={filters} names={names} />
      <ErrorNotice error={page.error} again={page.reload} />
      {page.loading && <Loading />}
      {page.data && page.data.data.length === 0 && (
        <Empty title={filters.some ? "No job is like that" : "No jobs yet"}>
          {filters.some ? "Other filters may find some." : "A job prunes a model over one or several texts. Upload a dataset, register a model, and begin."}
        </Empty>
      )}
      {page.data && page.data.data.length > 0 && (
        <Table caption="Jobs" columns={columns(names)} rows={page.data.data} rowKey={(job) => job.id} />
      )}
      <Pager pages={pages} next={page.data?.next_cursor} />
    </>
  );
}

function query(filters: Record<Filter, string>, cursor: string | undefined) {
  return {
    limit: SIZE,
    cursor,
    state: filters.state ? [filters.state as JobState] : undefined,
    method: (filters.method || undefined) as Job["spec"]["method"]["name"] | undefined,
    model: filters.model || undefined,
    label: filters.label ? [filters.label] : undefined,
    lineage: filters.lineage || undefined,
    created_after: dayOf(filters.created_after),
    created_before: dayOf(filters.created_before),
  };
}

function FilterForm({ filters, names }: { filters: Filters<Filter>; names: Names }) {
  const { values, change } = filters;
  const any = { value: "", label: "Any" };
  const [label, setLabel] = useState(values.label);
  useEffect(() => setLabel(values.label), [values.label]);
  const set = (name: Filter) => (value: string) => change({ [name]: value });
  return (
    <form class="filters" role="search" aria-label="Filter jobs" onSubmit={(event) => { event.preventDefault(); change({ label }); }}>
      <Select label="State" value={values.state} choices={[any, ...STATES.map((value) => ({ value, label: words(value) }))]} onValue={set("state")} />
      <Select label="Method" value={values.method} choices={[any, ...names.methods.map((value) => ({ value }))]} onValue={set("method")} />
      <Select label="Model" value={values.model} choices={[any, ...names.modelChoices]} onValue={set("model")} />
      <Input label="Label" placeholder="team:search" value={label} onValue={setLabel} onBlur={() => label !== values.label && change({ label })} />
      <Input label="Created from" type="date" value={values.created_after} onValue={set("created_after")} />
      <Input label="Created before" type="date" value={values.created_before} onValue={set("created_before")} />
      {filters.some && (
        <button type="button" class="quiet-button" onClick={filters.clear}>Clear</button>
      )}
    </form>
  );
}

function columns(names: Names): Column<Job>[] {
  return [
    {
      title: "Job",
      heads: true,
      cell: (job) => (
        <Link href={`/jobs/${job.id}`} class="job-link">
          <span class="title">{job.method}</span> <code title={job.id}>{short(job.id)}</code>
        </Link>
      ),
    },
    { title: "State", cell: (job) => <StateBadge state={job.state} /> },
    { title: "Progress", cell: (job) => <Progress job={job} /> },
    { title: "Model", spare: true, cell: (job) => names.model(job.model) },
    { title: "Domains", spare: true, cell: (job) => job.spec.domains.map((domain) => domain.name).join(" → ") },
    { title: "Sparsity", spare: true, figure: true, cell: (job) => percent(job.result?.sparsity ?? job.spec.sparsity.target, 0) },
    { title: "Perplexity", figure: true, cell: (job) => figure(job.result?.mean_perplexity) },
    { title: "BWT", spare: true, figure: true, cell: (job) => figure(job.result?.bwt, 3) },
    { title: "Ran", spare: true, figure: true, cell: (job) => (job.runtime_seconds ? duration(job.runtime_seconds) : NONE) },
    { title: "Created", spare: true, cell: (job) => <time dateTime={job.created_at} title={moment(job.created_at)}>{ago(job.created_at)}</time> },
  ];
}

function Progress({ job }: { job: Job }) {
  if (job.failure) return <span class="quiet clip" title={job.failure.message}>{words(job.failure.code)}</span>;
  if (!job.progress || job.state === "succeeded") return <span class="quiet">{NONE}</span>;
  return <Bar value={job.progress.fraction} label={`Progress of ${job.id}`} />;
}
