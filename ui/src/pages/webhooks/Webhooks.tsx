import { useMemo, useState } from "preact/hooks";
import { Link, useLocation } from "wouter-preact";
import { all, api, once, take } from "../../api/client";
import { faultsOf } from "../../api/problem";
import { EventType as EventTypes, State } from "../../api/schemas.json";
import type { EventType, JobState, NewWebhook, Webhook } from "../../api/types";
import { moment, words } from "../../format";
import { Check, Input } from "../../parts/Fields";
import { Empty, ErrorNotice, Loading, Newest } from "../../parts/Notices";
import { Secret } from "../../parts/Secret";
import { Head } from "../../parts/Shell";
import { StateBadge } from "../../parts/State";
import { Table } from "../../parts/Table";
import { useLoad } from "../../state/loading";
import { useSession } from "../../state/session";
import { useTask } from "../../state/task";
import { useTitle } from "../../state/title";

/** Who is told of the project's jobs. */
export function WebhooksPage() {
  useTitle("Webhooks");
  const { may } = useSession();
  const found = useLoad(() => all((cursor) => take(api.GET("/v1/webhooks", { params: { query: { limit: 100, cursor } } })), 1000), [], 10);
  return (
    <>
      <Head title="Webhooks" about="Addresses that are told of events of this project's jobs." />
      <ErrorNotice error={found.error} again={found.reload} />
      {found.loading && <Loading />}
      {found.data?.rows.length === 0 && <Empty title="No webhooks yet">With one, nobody has to ask again and again how a job is.</Empty>}
      <Newest found={found.data} what="webhooks" />
      {found.data && found.data.rows.length > 0 && (
        <Table
          caption="Webhooks"
          rows={found.data.rows}
          rowKey={(each) => each.id}
          columns={[
            { title: "Address", heads: true, cell: (each) => <Link href={`/webhooks/${each.id}`} class="clip" title={each.url}>{each.description || each.url}</Link> },
            { title: "State", cell: (each) => <StateBadge state={stateOf(each)} /> },
            { title: "Told of", cell: (each) => <span class="clip">{filtersOf(each)}</span> },
            { title: "Created", spare: true, cell: (each) => moment(each.created_at) },
            { title: "Id", spare: true, cell: (each) => <code>{each.id}</code> },
          ]}
        />
      )}
      {may("jobs:write") && <NewForm />}
    </>
  );
}

export const stateOf = (webhook: Webhook) => (!webhook.enabled ? "disabled" : webhook.failing_since ? "failing" : "enabled");

/** Which events get through, in words. */
export function filtersOf({ events, states, labels }: Webhook): string {
  const parts = [
    events ? events.map(words).join(", ") : "all events",
    states && `then ${states.map(words).join(" or ")}`,
    ...Object.entries(labels).map(([name, value]) => `${name}:${value}`),
  ];
  return parts.filter(Boolean).join(" · ");
}

function NewForm() {
  const [, go] = useLocation();
  const [url, setUrl] = useState("");
  const [description, setDescription] = useState("");
  const [label, setLabel] = useState("");
  const [events, setEvents] = useState<readonly EventType[]>([]);
  const [states, setStates] = useState<readonly JobState[]>([]);
  const [made, setMade] = useState<NewWebhook | null>(null);
  const task = useTask();
  const header = useMemo(once, [url, description, label, events, states]);
  const faults = faultsOf(task.error);
  const add = (event: SubmitEvent) => {
    event.preventDefault();
    const [name, value] = label.split(":");
    const body = {
      url,
      description,
      events: events.length ? [...events] : null,
      states: states.length ? [...states] : null,
      labels: name ? { [name.trim()]: (value ?? "").trim() } : {},
    };
    void task.run(async () => setMade(await take(api.POST("/v1/webhooks", { params: { header }, body }))));
  };
  return (
    <form class="card stack" noValidate onSubmit={add}>
      <h2>New webhook</h2>
      <ErrorNotice error={task.error} />
      <div class="fields">
        <Input label="Address" type="url" placeholder="https://ci.example.com/secateur" value={url} onValue={setUrl} fault={faults("/url")} />
        <Input label="Description" value={description} onValue={setDescription} fault={faults("/description")} />
        <Input label="Label that the job must have" placeholder="team:search" value={label} onValue={setLabel} fault={faults("/labels")} />
      </div>
      <Several legend="Events" hint="All where none is chosen." choices={EventTypes.enum as readonly EventType[]} chosen={events} choose={setEvents} />
      <Several legend="States of the job after the event" hint="Any where none is chosen." choices={State.enum as readonly JobState[]} chosen={states} choose={setStates} />
      <div class="row">
        <button type="submit" class="primary" disabled={task.busy}>Make webhook</button>
      </div>
      {made && <Secret of={made.description || made.url} secret={made.secret} close={() => go(`/webhooks/${made.id}`)} />}
    </form>
  );
}

interface SeveralProperties<Value extends string> {
  legend: string;
  hint: string;
  choices: readonly Value[];
  chosen: readonly Value[];
  choose(chosen: readonly Value[]): void;
}

function Several<Value extends string>({ legend, hint, choices, chosen, choose }: SeveralProperties<Value>) {
  return (
    <fieldset class="stack">
      <legend class="legend">{legend} <span class="hint">{hint}</span></legend>
      <div class="fields">
        {choices.map((each) => (
          <Check key={each} label={words(each)} checked={chosen.includes(each)} onValue={(on) => choose(on ? [...chosen, each] : chosen.filter((other) => other !== each))} />
        ))}
      </div>
    </fieldset>
  );
}
