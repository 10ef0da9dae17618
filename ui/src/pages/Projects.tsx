import { useState } from "preact/hooks";
import { all, api, once, take } from "../api/client";
import { Scope as Scopes } from "../api/schemas.json";
import type { NewKey, Project, Scope } from "../api/types";
import { moment, NONE } from "../format";
import { Check, Input } from "../parts/Fields";
import { Empty, ErrorNotice, Loading, Newest } from "../parts/Notices";
import { Remove } from "../parts/Remove";
import { Secret } from "../parts/Secret";
import { Head } from "../parts/Shell";
import { StateBadge } from "../parts/State";
import { Table } from "../parts/Table";
import { useLoad } from "../state/loading";
import { useSession } from "../state/session";
import { useTask } from "../state/task";
import { useTitle } from "../state/title";

/** Projects and keys: all of them for an operator, the own ones for whoever may make keys. */
export function ProjectsPage() {
  useTitle("Projects and keys");
  const { may, who } = useSession();
  const [chosen, setChosen] = useState<{ id: string; name: string } | null>(null);
  const shown = chosen ?? who?.project;
  if (!who) return <Loading />;
  return (
    <>
      <Head title="Projects and keys" about="Everything belongs to one project, and a key to one project." />
      {may("admin") && <Projects chosen={shown?.id} choose={setChosen} />}
      {shown && <Keys key={shown.id} project={shown} />}
    </>
  );
}

function Projects({ chosen, choose }: { chosen: string | undefined; choose(project: Project): void }) {
  const found = useLoad(() => all((cursor) => take(api.GET("/v1/projects", { params: { query: { limit: 100, cursor } } })), 1000), []);
  const [name, setName] = useState("");
  const task = useTask();
  const add = (event: SubmitEvent) => {
    event.preventDefault();
    void task.run(async () => {
      choose(await take(api.POST("/v1/projects", { params: { header: once() }, body: { name } })));
      setName("");
      found.reload();
    });
  };
  const change = (project: Project) =>
    task.run(async () => {
      await take(api.PATCH("/v1/projects/{id}", { params: { path: { id: project.id } }, body: { disabled: !project.disabled } }));
      found.reload();
    });
  return (
    <>
      <ErrorNotice error={found.error ?? task.error} again={found.reload} />
      {found.loading && <Loading />}
      <Newest found={found.data} what="projects" />
      {found.data && (
        <Table
          caption="Projects"
          captionShown
          rows={found.data.rows}
          rowKey={(each) => each.id}
          columns={[
            { title: "Name", heads: true, cell: (each) => <button type="button" class="link flush" aria-pressed={each.id === chosen} onClick={() => choose(each)}>{each.name}</button> },
            { title: "State", cell: (each) => <StateBadge state={each.disabled ? "disabled" : "alive"} /> },
            { title: "Share", figure: true, cell: (each) => each.share },
            { title: "Created", spare: true, cell: (each) => moment(each.created_at) },
            { title: "Id", spare: true, cell: (each) => <code>{each.id}</code> },
            { title: "Change", cell: (each) => <button type="button" class="link flush" aria-label={`${each.disabled ? "Enable" : "Disable"} ${each.name}`} onClick={() => change(each)}>{each.disabled ? "Enable" : "Disable"}</button> },
          ]}
        />
      )}
      <form class="card row" onSubmit={add}>
        <Input label="New project" required value={name} onValue={setName} />
        <button type="submit" class="low" disabled={task.busy}>Add project</button>
      </form>
    </>
  );
}

const SCOPES = Scopes.enum as readonly Scope[];

function Keys({ project }: { project: { id: string; name: string } }) {
  const path = { id: project.id };
  const found = useLoad(() => all((cursor) => take(api.GET("/v1/projects/{id}/keys", { params: { path, query: { limit: 100, cursor } } })), 1000), [project.id]);
  const [name, setName] = useState("");
  const [scopes, setScopes] = useState<readonly Scope[]>(SCOPES.slice(0, 4));
  const [made, setMade] = useState<NewKey | null>(null);
  const task = useTask();
  const add = (event: SubmitEvent) => {
    event.preventDefault();
    void task.run(async () => {
      setMade(await take(api.POST("/v1/projects/{id}/keys", { params: { path, header: once() }, body: { name, scopes: [...scopes] } })));
      setName("");
      found.reload();
    });
  };
  const rotate = (key: string) =>
    task.run(async () => {
      setMade(await take(api.POST("/v1/projects/{id}/keys/{key}/rotate", { params: { path: { ...path, key }, header: once() }, body: {} })));
      found.reload();
    });
  return (
    <section class="stack" aria-label={`Keys of ${project.name}`}>
      <h2>Keys of {project.name}</h2>
      <ErrorNotice error={found.error ?? task.error} again={found.reload} />
      {found.data?.rows.length === 0 && <Empty title="No keys yet" />}
      <Newest found={found.data} what="keys" />
      {found.data && found.data.rows.length > 0 && (
        <Table
          caption="Keys"
          rows={found.data.rows}
          rowKey={(each) => each.id}
          columns={[
            { title: "Name", heads: true, cell: (each) => <strong>{each.name}</strong> },
            { title: "Begins", cell: (each) => <code>{each.hint}</code> },
            { title: "State", cell: (each) => <StateBadge state={each.state} /> },
            { title: "Scopes", spare: true, cell: (each) => each.scopes.join(", ") },
            { title: "Last used", spare: true, cell: (each) => moment(each.last_used_at) },
            { title: "Expires", spare: true, cell: (each) => moment(each.expires_at) },
            {
              title: "Change",
              cell: (each) =>
                each.state === "alive" ? (
                  <span class="row">
                    <button type="button" class="link flush" aria-label={`Rotate ${each.name}`} onClick={() => rotate(each.id)}>Rotate</button>
                    <Remove verb="Revoke" name={each.name} remove={() => take(api.DELETE("/v1/projects/{id}/keys/{key}", { params: { path: { ...path, key: each.id } } }))} done={found.reload} />
                  </span>
                ) : (
                  NONE
                ),
            },
          ]}
        />
      )}
      <form class="card stack" onSubmit={add}>
        <h3>New key</h3>
        <div class="fields">
          <Input label="Name of the key" required value={name} onValue={setName} />
        </div>
        <fieldset>
          <legend class="legend">Scopes</legend>
          <div class="fields">
            {SCOPES.map((scope) => (
              <Check label={scope} checked={scopes.includes(scope)} onValue={(on) => setScopes(on ? [...scopes, scope] : scopes.filter((each) => each !== scope))} />
            ))}
          </div>
        </fieldset>
        <div class="row">
          <button type="submit" disabled={task.busy || scopes.length === 0}>Make key</button>
        </div>
      </form>
      {made && <Secret of={made.name} secret={made.secret} close={() => setMade(null)} />}
    </section>
  );
}
