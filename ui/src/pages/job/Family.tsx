import { Link, useLocation } from "wouter-preact";
import { api, take } from "../../api/client";
import type { Job, Lineage, LineageJob } from "../../api/types";
import { tree, type Node } from "../../charts/options";
import { moment, NONE, short } from "../../format";
import { Chart } from "../../parts/Chart";
import { ErrorNotice, Loading } from "../../parts/Notices";
import { StateBadge } from "../../parts/State";
import { Table } from "../../parts/Table";
import { useLoad } from "../../state/loading";

/** The jobs that continue one another. */
export function Family({ job }: { job: Job }) {
  const [, go] = useLocation();
  const lineage = useLoad(() => take(api.GET("/v1/jobs/{id}/lineage", { params: { path: { id: job.id } } })), [job.id, job.state]);
  if (!lineage.data) return lineage.error ? <ErrorNotice error={lineage.error} again={lineage.reload} /> : <Loading />;
  const root = grown(lineage.data, job.id);
  return (
    <Chart
      title="Lineage"
      height="low"
      about="Each job continues the one to its left with more domains, or retries it. A point opens its job."
      option={(palette) => tree(root, palette)}
      pick={(id) => go(`/jobs/${id}`)}
      table={
        <Table
          dense
          caption="Lineage"
          rows={lineage.data.jobs}
          rowKey={(each) => each.id}
          columns={[
            { title: "Job", heads: true, cell: (each) => <Link href={`/jobs/${each.id}`}>{short(each.id)}</Link> },
            { title: "Domains", cell: (each) => each.domains.join(" → ") },
            { title: "State", cell: (each) => <StateBadge state={each.state} /> },
            { title: "Continues", cell: (each) => (each.continues ? short(each.continues) : each.retry_of ? `retry of ${short(each.retry_of)}` : NONE) },
            { title: "Created", cell: (each) => moment(each.created_at) },
          ]}
        />
      }
    />
  );
}

function grown(lineage: Lineage, here: string): Node {
  const node = (job: LineageJob): Node => ({
    name: job.domains.join(" → "),
    id: job.id,
    state: job.state,
    here: job.id === here,
    children: lineage.jobs.filter((each) => each.id !== job.id && (each.continues === job.id || (!each.continues && each.retry_of === job.id))).map(node),
  });
  const root = lineage.jobs.find((job) => job.id === lineage.root) ?? lineage.jobs[0];
  return root ? node(root) : { name: short(lineage.root), id: lineage.root, state: "", here: false, children: [] };
}
