import { useState } from "preact/hooks";
import { all, api, take } from "../../api/client";
import type { BlockSensitivity, Job, Matrix } from "../../api/types";
import { bars, heatMap, type Line } from "../../charts/options";
import { figure, percent, signed } from "../../format";
import { BlockLines } from "../../parts/BlockLines";
import { BlockTable } from "../../parts/BlockTable";
import { Chart } from "../../parts/Chart";
import { Select } from "../../parts/Fields";
import { Empty, ErrorNotice, Loading, Notice } from "../../parts/Notices";
import { Table } from "../../parts/Table";
import { useLoad } from "../../state/loading";

/** What became of the blocks: by depth, by domain, by matrix. */
export function History({ job }: { job: Job }) {
  const domains = job.spec.domains.map((domain) => domain.name);
  const [stage, setStage] = useState(Math.max(0, (job.progress?.stage ?? domains.length) - (job.progress && job.state !== "succeeded" ? 0 : 1)));
  const chosen = Math.min(stage, domains.length - 1);
  const path = { id: job.id };
  const matrices = useLoad(
    () => all((cursor) => take(api.GET("/v1/jobs/{id}/matrices", { params: { path, query: { stage: chosen, limit: 500, cursor } } }))),
    [job.id, chosen, job.state],
  );
  const blocks = useLoad(
    () => all((cursor) => take(api.GET("/v1/jobs/{id}/sensitivity/blocks", { params: { path, query: { limit: 500, cursor } } }))),
    [job.id, job.state],
  );
  const shares = useLoad(
    () => all((cursor) => take(api.GET("/v1/jobs/{id}/sensitivity", { params: { path, query: { stage: chosen, limit: 500, cursor } } }))),
    [job.id, chosen, job.state],
  );
  const rows = matrices.data?.rows ?? [];
  return (
    <>
      <div class="filters">
        <Select label="Stage" value={String(chosen)} choices={domains.map((name, index) => ({ value: String(index), label: `${index + 1}: ${name}` }))} onValue={(value) => setStage(Number(value))} />
      </div>
      <ErrorNotice error={matrices.error ?? blocks.error ?? shares.error} again={matrices.reload} />
      {matrices.loading && <Loading />}
      {[matrices, blocks, shares].some(({ data }) => data && !data.whole) && <Notice kind="warn">Only the first 5,000 rows of a table are shown; the Parquet export has all.</Notice>}
      {matrices.data && rows.length === 0 && <Empty title="No block of this stage is done yet" />}
      {rows.length > 0 && (
        <div class="columns">
          <Depth rows={rows} />
          <Allocation rows={rows} target={job.spec.sparsity.target ?? null} />
        </div>
      )}
      {blocks.data && blocks.data.rows.length > 0 && <ByDomain rows={blocks.data.rows} />}
      {shares.data && shares.data.rows.length > 0 && (
        <ByMatrix title="Sensitivity by block and matrix" rows={shares.data.rows.map((each) => ({ block: each.block, matrix: each.matrix, value: each.mean }))} />
      )}
      {rows.length > 0 && <Matrices rows={rows} />}
    </>
  );
}

const kind = (matrix: string) => matrix.replace(/\.weight$/, "").split(".").slice(-1)[0] ?? matrix;

/** Means over a block's matrices, weighted by their sizes; null where nothing was measured. */
function byBlock(rows: readonly Matrix[], value: (row: Matrix) => number | null): [number, number | null][] {
  const blocks = [...new Set(rows.map((row) => row.block))].sort((one, other) => one - other);
  return blocks.map((block) => {
    const known = rows.filter((row) => row.block === block && value(row) !== null);
    const weights = known.reduce((sum, row) => sum + row.weights, 0);
    return [block, weights ? known.reduce((sum, row) => sum + row.weights * (value(row) ?? 0), 0) / weights : null];
  });
}

function Depth({ rows }: { rows: readonly Matrix[] }) {
  const series: Line[] = [
    { name: "sparsity", points: byBlock(rows, (row) => row.sparsity) },
    { name: "error, solved on", points: byBlock(rows, (row) => row.relative_error) },
    { name: "error, held out", points: byBlock(rows, (row) => row.held_out_error) },
    { name: "mask changed", points: byBlock(rows, (row) => row.mask_changed) },
  ].filter((line) => line.points.some(([, value]) => value !== null));
  const about = "Means over each block's matrices: the share of zeros, the relative error of outputs, and the share of the mask that the stage changed.";
  return <BlockLines title="By depth" about={about} unit="share" series={series} />;
}

function Allocation({ rows, target }: { rows: readonly Matrix[]; target: number | null }) {
  const mean = rows.reduce((sum, row) => sum + row.zeros, 0) / rows.reduce((sum, row) => sum + row.weights, 0);
  const against = target ?? mean;
  const points = byBlock(rows, (row) => row.sparsity).map(([block, value]) => [block, 100 * ((value ?? against) - against)] as const);
  return (
    <Chart
      title="Where the allocation took weights from"
      about={`Each block's sparsity less the target of ${percent(against)}, in percentage points: above nothing it lost more weights than the model as a whole.`}
      option={(palette) => bars(points.map(([block]) => String(block)), points.map(([, value]) => Number(value.toFixed(4))), "points", palette)}
      table={
        <Table
          dense
          caption="Sparsity less the target"
          rows={points}
          rowKey={([block]) => block}
          columns={[
            { title: "Block", heads: true, cell: ([block]) => block },
            { title: "Points", figure: true, cell: ([, value]) => signed(value) },
          ]}
        />
      }
    />
  );
}

function ByDomain({ rows }: { rows: readonly BlockSensitivity[] }) {
  const domains = [...new Set(rows.map((row) => row.domain))];
  const blocks = [...new Set(rows.map((row) => row.block))].sort((one, other) => one - other);
  const at = (domain: string, block: number) => {
    const found = rows.find((row) => row.domain === domain && row.block === block);
    return found?.share ?? found?.total;
  };
  return (
    <Chart
      title="Sensitivity by block and domain"
      about="The share of each domain's sensitivity that a block holds: blocks of stronger colour matter more to that domain."
      height="low"
      option={(palette) => heatMap({ rows: domains, columns: blocks.map(String), values: domains.map((domain) => blocks.map((block) => at(domain, block))), columnTitle: "block" }, palette)}
      table={<BlockTable caption="Sensitivity by block and domain" blocks={blocks} names={domains} at={at} />}
    />
  );
}

function ByMatrix({ title, rows }: { title: string; rows: readonly { block: number; matrix: string; value: number }[] }) {
  const kinds = [...new Set(rows.map((row) => kind(row.matrix)))];
  const blocks = [...new Set(rows.map((row) => row.block))].sort((one, other) => one - other);
  const at = (name: string, block: number) => rows.find((row) => row.block === block && kind(row.matrix) === name)?.value;
  return (
    <Chart
      title={title}
      about="Mean sensitivity of a weight, by logarithm: matrices of stronger colour matter more."
      option={(palette) => heatMap({ rows: kinds, columns: blocks.map(String), values: kinds.map((name) => blocks.map((block) => at(name, block))), columnTitle: "block", log: true }, palette)}
      table={<BlockTable caption={title} blocks={blocks} names={kinds} at={at} />}
    />
  );
}

function Matrices({ rows }: { rows: readonly Matrix[] }) {
  return (
    <details class="card">
      <summary>All {rows.length} matrices</summary>
      <Table
        dense
        caption="Matrices"
        rows={rows}
        rowKey={(row) => row.matrix}
        columns={[
          { title: "Matrix", heads: true, cell: (row) => <code>{row.matrix}</code> },
          { title: "Sparsity", figure: true, cell: (row) => percent(row.sparsity, 2) },
          { title: "Error", figure: true, cell: (row) => figure(row.relative_error) },
          { title: "Held out", figure: true, cell: (row) => figure(row.held_out_error) },
          { title: "Mask changed", figure: true, cell: (row) => percent(row.mask_changed) },
          { title: "Solver", cell: (row) => row.solver },
        ]}
      />
    </details>
  );
}
