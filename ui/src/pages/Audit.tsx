import { useEffect, useState } from "preact/hooks";
import { Link } from "wouter-preact";
import { api, take } from "../api/client";
import { faultsOf, Problem } from "../api/problem";
import type { AuditEvent } from "../api/types";
import { moment, NONE, number, short, words } from "../format";
import { Input } from "../parts/Fields";
import { Empty, ErrorNotice, Loading } from "../parts/Notices";
import { Pager, usePages } from "../parts/Pager";
import { Head } from "../parts/Shell";
import { Table, type Column } from "../parts/Table";
import { dayOf, useFilters, type Filters } from "../state/filters";
import { useLoad } from "../state/loading";
import { useSession } from "../state/session";
import { useTitle } from "../state/title";

const FILTERS = ["action", "object_id", "key", "outcome", "project", "created_after", "created_before"] as const;
type Filter = (typeof FILTERS)[number];
const SIZE = 50;

/** Who changed what, newest first. */
export function AuditPage() {
  useTitle("Audit log");
  const { may } = useSession();
  const pages = usePages();
  const filters = useFilters(FILTERS, pages.first);
  const { created_after, created_before, ...texts } = filters.values;
  const said = Object.fromEntries(Object.entries(texts).filter(([, value]) => value));
  const query = { ...said, limit: SIZE, cursor: pages.cursor, created_after: dayOf(created_after), created_before: dayOf(created_before) };
  const page = useLoad(() => take(api.GET("/v1/audit", { params: { query } })), [query]);
  return (
    <>
      <Head title="Audit log" about="Every call that changed something, and keys that were refused.">
        <button type="button" onClick={page.reload}>Reload</button>
      </Head>
      <FilterForm filters={filters} everywhere={may("admin")} error={page.error} />
      <ErrorNotice error={page.error} again={page.reload} />
      {page.loading && <Loading />}
      {page.data?.data.length === 0 && <Empty title={filters.some ? "Nothing is like that" : "Nothing was changed yet"} />}
      {page.data && page.data.data.length > 0 && <Table dense caption="Audit log" columns={COLUMNS} rows={page.data.data} rowKey={(each) => each.id} />}
      <Pager pages={pages} next={page.data?.next_cursor} />
    </>
  );
}

function FilterForm({ filters, everywhere, error }: { filters: Filters<Filter>; everywhere: boolean; error: Error | undefined }) {
  const [draft, setDraft] = useState(filters.values);
  useEffect(() => setDraft(filters.values), [JSON.stringify(filters.values)]);
  const fault = (name: Filter) => (error instanceof Problem ? (error.fields.find((each) => each.parameter === name)?.detail ?? faultsOf(error)(`/${name}`)) : undefined);
  const field = (name: Filter, label: string, rest: { placeholder?: string; type?: string } = {}) => (
    <Input label={label} {...rest} value={draft[name]} fault={fault(name)} onValue={(value) => setDraft({ ...draft, [name]: value })} />
  );
  return (
    <form class="filters" role="search" aria-label="Filter the log" onSubmit={(event) => { event.preventDefault(); filters.change(draft); }}>
      {field("action", "Action", { placeholder: "create_job" })}
      {field("object_id", "Object", { placeholder: "job_…" })}
      {field("key", "Key", { placeholder: "key_…" })}
      {field("outcome", "Outcome", { placeholder: "done" })}
      {everywhere && field("project", "Project", { placeholder: "prj_…" })}
      {field("created_after", "From", { type: "date" })}
      {field("created_before", "Before", { type: "date" })}
      <button type="submit">Filter</button>
      {filters.some && <button type="button" class="quiet-button" onClick={filters.clear}>Clear</button>}
    </form>
  );
}

const id = (value: string | null) => (value ? <code title={value}>{short(value)}</code> : NONE);

const COLUMNS: readonly Column<AuditEvent>[] = [
  { title: "When", cell: (each) => <time dateTime={each.at}>{moment(each.at)}</time> },
  { title: "Action", heads: true, cell: (each) => <strong>{words(each.action)}</strong> },
  { title: "Object", cell: (each) => (each.object_id?.startsWith("job_") ? <Link href={`/jobs/${each.object_id}`}>{id(each.object_id)}</Link> : id(each.object_id)) },
  { title: "Outcome", cell: (each) => words(each.outcome) },
  { title: "Times", figure: true, spare: true, cell: (each) => number(each.count) },
  { title: "Key", spare: true, cell: (each) => id(each.key) },
  { title: "Project", spare: true, cell: (each) => id(each.project) },
  { title: "From", spare: true, cell: (each) => each.client ?? NONE },
  { title: "Request", spare: true, cell: (each) => id(each.request_id) },
];
