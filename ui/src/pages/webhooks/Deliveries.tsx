import { useState } from "preact/hooks";
import { Link } from "wouter-preact";
import { api, take } from "../../api/client";
import { DeliveryState as DeliveryStates } from "../../api/schemas.json";
import type { Delivery, DeliveryAttempt, DeliveryState } from "../../api/types";
import { duration, moment, NONE, number, short, words } from "../../format";
import { Dialog } from "../../parts/Dialog";
import { Select } from "../../parts/Fields";
import { Empty, ErrorNotice, Loading } from "../../parts/Notices";
import { Pager, usePages } from "../../parts/Pager";
import { StateBadge } from "../../parts/State";
import { Table } from "../../parts/Table";
import { useLoad } from "../../state/loading";
import { useSession } from "../../state/session";
import { useTask } from "../../state/task";

const SIZE = 25;

/** What was sent to a webhook, newest first; `sent` counts what was done here, to show it at once. */
export function Deliveries({ webhook, enabled, sent }: { webhook: string; enabled: boolean; sent: number }) {
  const { may } = useSession();
  const pages = usePages();
  const [state, setState] = useState<DeliveryState | "">("");
  const [shown, setShown] = useState<string | null>(null);
  const query = { limit: SIZE, cursor: pages.cursor, state: state || undefined };
  const page = useLoad(() => take(api.GET("/v1/webhooks/{id}/deliveries", { params: { path: { id: webhook }, query } })), [webhook, query, sent], 3);
  const task = useTask();
  const again = (delivery: string) =>
    task.run(async () => {
      await take(api.POST("/v1/webhooks/{id}/deliveries/{delivery}/redeliver", { params: { path: { id: webhook, delivery } } }));
      page.reload();
    });
  return (
    <section class="stack">
      <h2>Deliveries</h2>
      <div class="filters">
        <Select
          label="State of the delivery"
          value={state}
          choices={[{ value: "", label: "Any" }, ...DeliveryStates.enum.map((value) => ({ value }))]}
          onValue={(value) => {
            pages.first();
            setState(value as DeliveryState | "");
          }}
        />
      </div>
      <ErrorNotice error={task.error ?? page.error} again={task.error ? undefined : page.reload} />
      {page.loading && <Loading />}
      {page.data?.data.length === 0 && <Empty title={state ? "No delivery is like that" : "Nothing was sent yet"} />}
      {page.data && page.data.data.length > 0 && (
        <Table
          caption="Deliveries"
          rows={page.data.data}
          rowKey={(each) => each.id}
          columns={[
            { title: "Message", heads: true, cell: (each) => <button type="button" class="link flush" aria-label={`Show ${each.type} ${short(each.id)}`} onClick={() => setShown(each.id)}>{each.type}</button> },
            { title: "State", cell: (each) => <StateBadge state={each.state} /> },
            { title: "Last answer", cell: (each) => <span class="clip">{answerOf(each.last_attempt)}</span> },
            { title: "Attempts", figure: true, spare: true, cell: (each) => number(each.attempts) },
            { title: "Job", spare: true, cell: (each) => (each.job ? <Link href={`/jobs/${each.job}`}><code title={each.job}>{short(each.job)}</code></Link> : NONE) },
            { title: "Next attempt", spare: true, cell: (each) => moment(each.next_attempt_at) },
            { title: "Created", spare: true, cell: (each) => moment(each.created_at) },
            ...(may("jobs:write")
              ? [{ title: "Change", cell: (each: Delivery) => <button type="button" class="link flush" disabled={task.busy || !enabled} aria-label={`Send again ${short(each.id)}`} onClick={() => again(each.id)}>Send again</button> }]
              : []),
          ]}
        />
      )}
      <Pager pages={pages} next={page.data?.next_cursor} />
      {shown && <Shown webhook={webhook} delivery={shown} close={() => setShown(null)} />}
    </section>
  );
}

/** What came of an attempt. */
function answerOf(attempt: DeliveryAttempt | null): string {
  if (!attempt) return NONE;
  if (attempt.error) return [words(attempt.error), attempt.status].filter(Boolean).join(", ");
  return attempt.status ? String(attempt.status) : "under way";
}

function Shown({ webhook, delivery, close }: { webhook: string; delivery: string; close(): void }) {
  const path = { id: webhook, delivery };
  const found = useLoad(() => take(api.GET("/v1/webhooks/{id}/deliveries/{delivery}", { params: { path } })), [delivery], 3);
  return (
    <Dialog title="Delivery" close={close}>
      <p class="quiet"><code>{delivery}</code></p>
      <ErrorNotice error={found.error} again={found.reload} />
      {found.loading && <Loading />}
      {found.data && (
        <>
          {found.data.tries.length > 0 && (
            <Table
              dense
              caption="Attempts"
              rows={found.data.tries}
              rowKey={(each) => each.number}
              columns={[
                { title: "Attempt", heads: true, cell: (each) => number(each.number) },
                { title: "Began", cell: (each) => moment(each.started_at) },
                { title: "Took", figure: true, cell: (each) => duration(each.seconds) },
                { title: "Answer", cell: (each) => answerOf(each) },
                { title: "Said", cell: (each) => each.response || NONE },
              ]}
            />
          )}
          <h3>Body</h3>
          <pre class="log" tabIndex={0} aria-label="Body">{found.data.body}</pre>
        </>
      )}
      <div class="actions">
        <button type="button" onClick={close}>Close</button>
      </div>
    </Dialog>
  );
}
