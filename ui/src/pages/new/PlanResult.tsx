import type { Plan } from "../../api/types";
import { bytes, duration, number, percent } from "../../format";
import { Notice } from "../../parts/Notices";
import { Table } from "../../parts/Table";

/** What a plan came to: what would be done, what it would take, and what stays. */
export function PlanResult({ plan }: { plan: Plan }) {
  if (plan.error) {
    return (
      <div class="notice bad" role="alert">
        <p>
          <strong>This job could not run: {plan.error.message}</strong>
        </p>
        {plan.error.field && <p>See <code>{plan.error.field}</code>.</p>}
      </div>
    );
  }
  const result = plan.result;
  if (!result) return <Notice kind="warn">The plan is not ready yet; plan again in a moment.</Notice>;
  const { estimates } = result;
  const figures: [string, string][] = [
    ["Weights pruned", `${number(result.zeros)} of ${number(result.weights)}`],
    ["Sparsity", percent(result.sparsity, 2)],
    ["Time", duration(plan.calibrated?.seconds ?? estimates.seconds.total)],
    ["Memory", bytes(estimates.memory_bytes.total)],
    ["Disk", bytes(estimates.disk_bytes.total)],
  ];
  if (estimates.artifact_bytes) figures.push(["Artifact", bytes(estimates.artifact_bytes.total)]);
  return (
    <section class="card stack" aria-label="Plan" role="status">
      <h2>Plan</h2>
      <dl class="tiles">
        {figures.map(([name, value]) => (
          <div>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      {(result.warnings ?? []).map((warning) => (
        <Notice kind="warn">{warning.message}</Notice>
      ))}
      {result.skipped.length > 0 && (
        <details>
          <summary>{result.skipped.length} tensors stay as they are</summary>
          <Table
            dense
            caption="Tensors that stay"
            rows={result.skipped}
            rowKey={(each) => each.name}
            columns={[
              { title: "Tensor", heads: true, cell: (each) => <code>{each.name}</code> },
              { title: "Why", cell: (each) => each.reason },
            ]}
          />
        </details>
      )}
    </section>
  );
}
