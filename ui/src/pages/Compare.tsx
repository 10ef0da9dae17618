import { Link, useSearchParams } from "wouter-preact";
import { all, api, take } from "../api/client";
import type { Comparison, Job } from "../api/types";
import type { Line } from "../charts/options";
import { figure, modelOf, number, percent, short, signed } from "../format";
import { BlockLines } from "../parts/BlockLines";
import { Select } from "../parts/Fields";
import { Empty, ErrorNotice, Loading, Newest, Notice } from "../parts/Notices";
import { Head } from "../parts/Shell";
import { Table, type Column } from "../parts/Table";
import { useLoad } from "../state/loading";
import { useNames, type Names } from "../state/names";
import { useTitle } from "../state/title";

/** Two jobs side by side. */
export function ComparePage() {
  useTitle("Compare");
  const names = useNames();
  const [parameters, setParameters] = useSearchParams();
  const [one, other] = [parameters.get("job") ?? "", parameters.get("other") ?? ""];
  const jobs = useLoad(() => all((cursor) => take(api.GET("/v1/jobs", { params: { query: { state: ["succeeded"], limit: 200, cursor } } })), 1000), []);
  const comparison = useLoad(() => (one && other ? compare(one, other) : Promise.resolve(null)), [one, other]);
  const known = jobs.data?.rows ?? [];
  const older = [one, other].filter((id) => id && !known.some((job) => job.id === id));
  const choices = [
    { value: "", label: "Choose…" },
    ...known.map((job) => ({ value: job.id, label: title(job, names) })),
    ...[...new Set(older)].map((id) => ({ value: id, label: short(id) })),
  ];
  const set = (name: string) => (value: string) =>
    setParameters((before) => {
      const after = new URLSearchParams(before);
      after.set(name, value);
      return after;
    }, { replace: true });
  return (
    <>
      <Head title="Compare" about="What two succeeded jobs came to, by the same measure. A difference is the second job's less the first's." />
      <div class="fields">
        <Select label="First job" value={one} choices={choices} onValue={set("job")} />
        <Select label="Second job" value={other} choices={choices} onValue={set("other")} />
      </div>
      <Newest found={jobs.data} what="succeeded jobs" />
      <ErrorNotice error={jobs.error} again={jobs.reload} />
      <ErrorNotice error={comparison.error} again={comparison.reload} />
      {comparison.loading && <Loading />}
      {comparison.data ? <Compared found={comparison.data} /> : !comparison.loading && !comparison.error && <Empty title="Choose two jobs" />}
    </>
  );
}

/** With all pages of the matrices, up to 5,000 rows. */
async function compare(id: string, other: string): Promise<Comparison> {
  const found: Comparison[] = [];
  const matrices = await all(async (cursor) => {
    const next = await take(api.GET("/v1/jobs/{id}/compare/{other}", { params: { path: { id, other }, query: { limit: 1000, cursor } } }));
    found.push(next);
    return next.history?.matrices ?? { data: [], next_cursor: null };
  });
  const [first] = found as [Comparison];
  const { history } = first;
  const next_cursor = matrices.whole ? null : (found.at(-1)?.history?.matrices.next_cursor ?? null);
  return { ...first, history: history && { ...history, matrices: { ...history.matrices, data: matrices.rows, next_cursor } } };
}

const title = (job: Job, names: Names) =>
  `${job.method}, ${percent(job.result?.sparsity ?? job.spec.sparsity.target, 0)}, ${names.model(job.model)} (${short(job.id)})`;

interface Two {
  name: string;
  job: number | null;
  other: number | null;
  difference: number | null;
}

const TWO: Column<Two>[] = [
  { title: "Figure", heads: true, cell: (row) => row.name },
  { title: "First", figure: true, cell: (row) => figure(row.job) },
  { title: "Second", figure: true, cell: (row) => figure(row.other) },
  { title: "Difference", figure: true, cell: (row) => signed(row.difference) },
];

function Compared({ found }: { found: Comparison }) {
  const { evaluation, history } = found;
  const rows: Two[] = evaluation
    ? [
        { name: "Mean perplexity", ...evaluation.mean_perplexity },
        { name: "BWT", ...evaluation.bwt },
        { name: "log BWT", ...evaluation.log_bwt },
        ...evaluation.rows.flatMap((row) =>
          Object.entries(row.perplexity).map(([domain, two]) => ({ name: `${domain}, ${modelOf(row)}`, ...two })),
        ),
      ]
    : [];
  return (
    <>
      <p>
        <Link href={`/jobs/${found.job}`}>First: {short(found.job)}</Link> · <Link href={`/jobs/${found.other}`}>Second: {short(found.other)}</Link>
      </p>
      {rows.length > 0 && <Table caption="Perplexities" captionShown rows={rows} rowKey={(row) => row.name} columns={TWO} />}
      {history?.matrices.next_cursor && <Notice kind="warn">Only the first {number(history.matrices.data.length)} matrices are compared here; the API has all.</Notice>}
      {history && <ByBlock history={history} />}
      {history && (
        <dl class="tiles">
          <div><dt>Matrices of both</dt><dd>{number(history.agreement.matrices)}</dd></div>
          <div><dt>Same masks</dt><dd>{number(history.agreement.same_masks)}</dd></div>
          <div><dt>Same weights</dt><dd>{number(history.agreement.same_weights)}</dd></div>
        </dl>
      )}
    </>
  );
}

function ByBlock({ history }: { history: NonNullable<Comparison["history"]> }) {
  const rows = history.matrices.data;
  const blocks = [...new Set(rows.map((row) => row.block))].sort((a, b) => a - b);
  const mean = (block: number, which: "job" | "other") => {
    const known = rows.filter((row) => row.block === block).map((row) => row.relative_error[which]).filter((value) => value !== null);
    return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
  };
  const series: Line[] = (["job", "other"] as const).map((which) => ({ name: which === "job" ? "first" : "second", points: blocks.map((block) => [block, mean(block, which)] as const) }));
  if (!series.some((line) => line.points.some(([, value]) => value !== null))) return null;
  return <BlockLines title="Error by block" about="Mean relative error of the outputs of a block's matrices." unit="relative error" series={series} />;
}
