import { useMemo, useRef, useState } from "preact/hooks";
import { all, api, once, take } from "../api/client";
import { modelFiles, uploadModel, type Begun, type Step } from "../api/model_upload";
import { Problem } from "../api/problem";
import { bytes, moment, number } from "../format";
import { Bar } from "../parts/Bar";
import { FilePicker, Input, Select } from "../parts/Fields";
import { Empty, ErrorNotice, Loading, Newest } from "../parts/Notices";
import { Remove } from "../parts/Remove";
import { Head } from "../parts/Shell";
import { StateBadge } from "../parts/State";
import { Table } from "../parts/Table";
import { useLoad } from "../state/loading";
import { forgetNames } from "../state/names";
import { useSession } from "../state/session";
import { useTask } from "../state/task";
import { useTitle } from "../state/title";

/** The models of the project. */
export function ModelsPage() {
  useTitle("Models");
  const { may } = useSession();
  const found = useLoad(() => all((cursor) => take(api.GET("/v1/models", { params: { query: { limit: 100, cursor } } })), 1000), [], 5);
  const changed = () => {
    forgetNames();
    found.reload();
  };
  return (
    <>
      <Head title="Models" about="What jobs prune: from the hub, from a folder of the operator's, or uploaded." />
      {may("data:write") && <Add done={changed} />}
      <ErrorNotice error={found.error} again={found.reload} />
      {found.loading && <Loading />}
      {found.data?.rows.length === 0 && <Empty title="No models yet" />}
      <Newest found={found.data} what="models" />
      {found.data && found.data.rows.length > 0 && (
        <Table
          caption="Models"
          rows={found.data.rows}
          rowKey={(each) => each.id}
          columns={[
            { title: "Name", heads: true, cell: (each) => <strong>{each.name}</strong> },
            { title: "State", cell: (each) => <><StateBadge state={each.state} /> {each.error?.message}</> },
            { title: "Architecture", spare: true, cell: (each) => each.architecture ?? "–" },
            { title: "Parameters", figure: true, cell: (each) => number(each.parameters) },
            { title: "Blocks", spare: true, figure: true, cell: (each) => number(each.blocks) },
            { title: "Size", figure: true, cell: (each) => bytes(each.bytes) },
            { title: "Created", spare: true, cell: (each) => moment(each.created_at) },
            { title: "Id", spare: true, cell: (each) => <code>{each.id}</code> },
            ...(may("data:write")
              ? [{ title: "Delete", cell: (each: { id: string; name: string }) => <Remove name={each.name} remove={() => take(api.DELETE("/v1/models/{id}", { params: { path: { id: each.id } } }))} done={changed} /> }]
              : []),
          ]}
        />
      )}
    </>
  );
}

type Kind = "hub" | "folder" | "gguf" | "upload";
const KINDS = [
  { value: "hub", label: "From the hub" },
  { value: "folder", label: "A folder of the operator's" },
  { value: "gguf", label: "A GGUF file of the operator's" },
  { value: "upload", label: "Upload a folder" },
];

function Add({ done }: { done(): void }) {
  const [kind, setKind] = useState<Kind>("hub");
  const [name, setName] = useState("");
  const [place, setPlace] = useState("");
  const [revision, setRevision] = useState("");
  const [files, setFiles] = useState<readonly File[]>([]);
  const [step, setStep] = useState<Step>({ doing: "", share: 0 });
  const upload = useRef<Begun>({});
  // Pressed again after a call without an answer, it makes nothing twice.
  const header = useMemo(once, [kind, name, place, revision]);
  const task = useTask();
  const add = (event: SubmitEvent) => {
    event.preventDefault();
    void task.run(async (signal) => {
      if (kind === "upload") {
        await uploadModel(name, modelFiles(files), upload.current, setStep, signal);
        upload.current = {};
      } else {
        const source =
          kind === "hub" ? { type: kind, id: place, ...(revision ? { revision } : {}) } : { type: kind, path: place };
        await take(api.POST("/v1/models", { params: { header }, body: { name, source } as never, signal }));
      }
      setName("");
      setPlace("");
      setFiles([]);
      done();
    });
  };
  const fault = (end: string) => (task.error instanceof Problem ? task.error.fields.find((each) => each.pointer?.endsWith(end))?.detail : undefined);
  return (
    <form class="card stack" onSubmit={add}>
      <h2>Add a model</h2>
      <div class="fields">
        <Select label="Source" value={kind} choices={KINDS} onValue={(value) => setKind(value as Kind)} />
        <Input label="Name" required value={name} onValue={setName} fault={fault("/name")} />
        {kind === "hub" && <Input label="Repository" required placeholder="owner/name" value={place} onValue={setPlace} fault={fault("/id")} />}
        {kind === "hub" && <Input label="Revision" placeholder="main" value={revision} onValue={setRevision} fault={fault("/revision")} />}
        {(kind === "folder" || kind === "gguf") && <Input label="Path" required value={place} onValue={setPlace} fault={fault("/path")} hint="Within the model roots." />}
        {kind === "upload" && <FilePicker folder label="Folder" files={files} onFiles={setFiles} hint="As save_pretrained writes it." />}
      </div>
      <ErrorNotice error={task.error} />
      {task.busy && kind === "upload" && (
        <div>
          <p class="quiet">{step.doing}</p>
          <Bar wide value={step.share} label="Upload" />
        </div>
      )}
      <div class="row">
        <button type="submit" class="primary" disabled={task.busy || (kind === "upload" && files.length === 0)}>Add</button>
        {task.busy && <button type="button" onClick={task.end}>Stop</button>}
      </div>
    </form>
  );
}
