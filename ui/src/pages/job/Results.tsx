import { all, api, take } from "../../api/client";
import type { Evaluation, Job } from "../../api/types";
import { heatMap, lines, type Line } from "../../charts/options";
import { figure, modelOf, number, percent, signed } from "../../format";
import { Chart } from "../../parts/Chart";
import { Empty, ErrorNotice, Loading, Newest } from "../../parts/Notices";
import { hasEnded } from "../../parts/State";
import { Table } from "../../parts/Table";
import { useLoad } from "../../state/loading";

/** R, and perplexity over sparsity among the jobs of the same model. */
export function Results({ job }: { job: Job }) {
  const evaluation = useLoad(
    () => take(api.GET("/v1/jobs/{id}/evaluation", { params: { path: { id: job.id } } })),
    [job.id, job.state],
    hasEnded(job) ? undefined : 10,
  );
  const found = evaluation.data;
  if (!found) return evaluation.error ? <ErrorNotice error={evaluation.error} again={evaluation.reload} /> : <Loading />;
  if (found.rows.length === 0) return <Empty title="Nothing has been measured yet">Perplexities come after the dense model's turn, and after every stage.</Empty>;
  return (
    <>
      <dl class="tiles">
        <Tile name="Mean perplexity" value={figure(found.mean_perplexity)} />
        <Tile name="Dense" value={figure(found.dense_mean_perplexity)} />
        <Tile name="BWT" value={signed(found.bwt)} />
        <Tile name="log BWT" value={signed(found.log_bwt, 3)} />
      </dl>
      <R evaluation={found} />
      {found.tasks.length > 0 && <Tasks tasks={found.tasks} />}
      <Curve job={job} />
    </>
  );
}

function Tile({ name, value }: { name: string; value: string }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}

function R({ evaluation }: { evaluation: Evaluation }) {
  const rows = evaluation.rows.map((row) => (modelOf(row)));
  const values = evaluation.rows.map((row) => evaluation.domains.map((domain) => row.perplexity[domain]));
  return (
    <Chart
      title="R: perplexity of every domain after every stage"
      about="A row is the model after a stage, a column a domain's held-out text; the stronger the colour, the worse. The first row is the dense model. BWT says how much earlier domains lost."
      option={(palette) => heatMap({ rows, columns: evaluation.domains, values, log: true, labels: evaluation.domains.length <= 8 }, palette)}
      table={
        <Table
          dense
          caption="R"
          rows={evaluation.rows}
          rowKey={(row) => row.row}
          columns={[
            { title: "Model", heads: true, cell: (row) => rows[evaluation.rows.indexOf(row)] },
            ...evaluation.domains.map((domain) => ({ title: domain, figure: true, cell: (row: Evaluation["rows"][number]) => figure(row.perplexity[domain]) })),
          ]}
        />
      }
    />
  );
}

function Tasks({ tasks }: { tasks: Evaluation["tasks"] }) {
  const rows = tasks.flatMap((task) => (task.metrics.length > 0 ? task.metrics : [null]).map((metric) => ({ task, metric })));
  const versions = [...new Set(tasks.flatMap((task) => task.harness ?? []))];
  return (
    <Table
      dense
      caption={`Tasks of the lm-evaluation-harness ${versions.join(", ")}`}
      rows={rows}
      rowKey={(row) => rows.indexOf(row)}
      columns={[
        { title: "Task", heads: true, cell: ({ task }) => (versions.length > 1 ? `${task.name} (${task.harness ?? "–"})` : task.name) },
        { title: "Model", cell: ({ task }) => task.model },
        { title: "Figure", cell: ({ task, metric }) => (metric ? `${metric.name}${metric.filter === "none" ? "" : ` (${metric.filter})`}` : task.error) },
        { title: "Value", figure: true, cell: ({ metric }) => metric && metric.value.toFixed(4) },
        { title: "± error", figure: true, cell: ({ metric }) => metric?.stderr?.toFixed(4) },
        { title: "Rows", figure: true, cell: ({ task }) => number(task.rows) },
        { title: "Few-shot", figure: true, cell: ({ task }) => number(task.few_shot) },
      ]}
    />
  );
}

function Curve({ job }: { job: Job }) {
  const jobs = useLoad(
    () => all((cursor) => take(api.GET("/v1/jobs", { params: { query: { model: job.model, state: ["succeeded"], limit: 100, cursor } } })), 500),
    [job.model, job.state],
  );
  const domains = (each: Job) => each.spec.domains.map((domain) => domain.dataset).join();
  const alike = (jobs.data?.rows ?? []).filter((each) => domains(each) === domains(job) && each.result?.mean_perplexity && each.result.sparsity);
  const figures = alike.map((each) => ({ job: each, sparsity: 100 * (each.result?.sparsity ?? 0), perplexity: each.result?.mean_perplexity ?? null }));
  if (figures.length < 2) return <Newest found={jobs.data} what="jobs of this model" />;
  const methods = [...new Set(alike.map((each) => each.method))].sort();
  const series: Line[] = methods.map((method) => ({
    name: method,
    points: figures
      .filter((each) => each.job.method === method)
      .map((each) => [each.sparsity, each.perplexity] as const)
      .sort((one, other) => one[0] - other[0]),
  }));
  return (
    <Chart
      title="Perplexity over sparsity"
      about={`Succeeded jobs of this model over the same datasets${jobs.data?.whole ? "" : `, of its newest ${number(jobs.data?.rows.length)}`}.`}
      option={(palette) => lines(series, "sparsity, %", "mean perplexity", palette)}
      table={
        <Table
          dense
          caption="Perplexity over sparsity"
          rows={figures}
          rowKey={(each) => each.job.id}
          columns={[
            { title: "Job", heads: true, cell: (each) => <code>{each.job.id}</code> },
            { title: "Method", cell: (each) => each.job.method },
            { title: "Sparsity", figure: true, cell: (each) => percent(each.sparsity / 100, 2) },
            { title: "Perplexity", figure: true, cell: (each) => figure(each.perplexity) },
          ]}
        />
      }
    />
  );
}
