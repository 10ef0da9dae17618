import { useState } from "preact/hooks";
import { useLocation } from "wouter-preact";
import { api, once, take } from "../../api/client";
import type { NewWebhook } from "../../api/types";
import { moment, NONE, number } from "../../format";
import { ErrorNotice, Loading, Notice } from "../../parts/Notices";
import { Remove } from "../../parts/Remove";
import { Secret } from "../../parts/Secret";
import { Head } from "../../parts/Shell";
import { StateBadge } from "../../parts/State";
import { useLoad } from "../../state/loading";
import { useSession } from "../../state/session";
import { useTask } from "../../state/task";
import { useTitle } from "../../state/title";
import { Deliveries } from "./Deliveries";
import { filtersOf, stateOf } from "./Webhooks";

/** One webhook: what it is told of, whether its receiver answers, and what was sent to it. */
export function WebhookPage({ id }: { id: string }) {
  useTitle("Webhook");
  const { may } = useSession();
  const [, go] = useLocation();
  const path = { id };
  const found = useLoad(() => take(api.GET("/v1/webhooks/{id}", { params: { path } })), [id], 10);
  const [made, setMade] = useState<NewWebhook | null>(null);
  const [sent, setSent] = useState(0);
  const task = useTask();
  const webhook = found.data;
  if (!webhook) return found.error ? <ErrorNotice error={found.error} again={found.reload} /> : <Loading />;
  const name = webhook.description || webhook.url;

  const test = () =>
    task.run(async () => {
      await take(api.POST("/v1/webhooks/{id}/test", { params: { path, header: once() } }));
      setSent((before) => before + 1);
    });
  const enable = (enabled: boolean) =>
    task.run(async () => {
      found.replace(await take(api.PATCH("/v1/webhooks/{id}", { params: { path }, body: { enabled } })));
      setSent((before) => before + 1);
    });
  const rotate = () => task.run(async () => setMade(await take(api.POST("/v1/webhooks/{id}/rotate", { params: { path, header: once() } }))));

  return (
    <>
      <Head title={<>Webhook <StateBadge state={stateOf(webhook)} /></>} about={name}>
        {may("jobs:write") && (
          <>
            <button type="button" disabled={task.busy || !webhook.enabled} onClick={test}>Send a test</button>
            <button type="button" disabled={task.busy} onClick={() => enable(!webhook.enabled)}>{webhook.enabled ? "Disable" : "Enable"}</button>
            <button type="button" disabled={task.busy} onClick={rotate}>New secret</button>
            <Remove name={name} remove={() => take(api.DELETE("/v1/webhooks/{id}", { params: { path } }))} done={() => go("/webhooks")} />
          </>
        )}
      </Head>
      <ErrorNotice error={task.error ?? found.error} again={task.error ? undefined : found.reload} />
      {webhook.disabled_reason && <Notice kind="warn">Switched off by the service: {webhook.disabled_reason}</Notice>}
      <section class="card">
        <dl class="facts">
          <dt>Address</dt>
          <dd>{webhook.url}</dd>
          <dt>Told of</dt>
          <dd>{filtersOf(webhook)}</dd>
          <dt>Failing since</dt>
          <dd>{webhook.failing_since ? `${moment(webhook.failing_since)}, ${number(webhook.failures)} attempts` : NONE}</dd>
          {webhook.previous_secret_until && (
            <>
              <dt>Secret before signs until</dt>
              <dd>{moment(webhook.previous_secret_until)}</dd>
            </>
          )}
          <dt>Created</dt>
          <dd>{moment(webhook.created_at)}</dd>
          <dt>Id</dt>
          <dd><code>{webhook.id}</code></dd>
        </dl>
      </section>
      <Deliveries webhook={id} enabled={webhook.enabled} sent={sent} />
      {made && <Secret of={name} secret={made.secret} close={() => { setMade(null); found.reload(); }} />}
    </>
  );
}
