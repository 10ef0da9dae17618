import { useMemo, useState } from "preact/hooks";
import { all, api, once, take } from "../api/client";
import { Problem } from "../api/problem";
import { send } from "../api/upload";
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

/** The texts of the project. */
export function DatasetsPage() {
  useTitle("Datasets");
  const { may } = useSession();
  const found = useLoad(() => all((cursor) => take(api.GET("/v1/datasets", { params: { query: { limit: 100, cursor } } })), 1000), [], 5);
  const changed = () => {
    forgetNames();
    found.reload();
  };
  return (
    <>
      <Head title="Datasets" about="Texts that models are calibrated and measured on." />
      {may("data:write") && <Upload done={changed} />}
      <ErrorNotice error={found.error} again={found.reload} />
      {found.loading && <Loading />}
      {found.data?.rows.length === 0 && <Empty title="No datasets yet">A dataset is a text file, or one document a line.</Empty>}
      <Newest found={found.data} what="datasets" />
      {found.data && found.data.rows.length > 0 && (
        <Table
          caption="Datasets"
          rows={found.data.rows}
          rowKey={(each) => each.id}
          columns={[
            { title: "Name", heads: true, cell: (each) => <strong>{each.name}</strong> },
            { title: "State", cell: (each) => (each.error ? <span title={each.error.message}><StateBadge state={each.state} /> {each.error.message}</span> : <StateBadge state={each.state} />) },
            { title: "Format", spare: true, cell: (each) => each.format },
            { title: "Documents", figure: true, cell: (each) => number(each.documents) },
            { title: "Size", figure: true, cell: (each) => bytes(each.bytes) },
            { title: "Created", spare: true, cell: (each) => moment(each.created_at) },
            { title: "Id", spare: true, cell: (each) => <code>{each.id}</code> },
            ...(may("data:write")
              ? [{ title: "Delete", cell: (each: { id: string; name: string }) => <Remove name={each.name} remove={() => take(api.DELETE("/v1/datasets/{id}", { params: { path: { id: each.id } } }))} done={changed} /> }]
              : []),
          ]}
        />
      )}
    </>
  );
}

const FORMATS = ["txt", "jsonl", "csv", "parquet"];

function Upload({ done }: { done(): void }) {
  const [files, setFiles] = useState<readonly File[]>([]);
  const [name, setName] = useState("");
  const [format, setFormat] = useState("txt");
  const [field, setField] = useState("");
  const [share, setShare] = useState(0);
  const task = useTask();
  // Pressed again after a call without an answer, it makes nothing twice.
  const headers = useMemo(once, [files, name, format, field]);
  const [file] = files;
  const pick = (picked: readonly File[]) => {
    setFiles(picked);
    const [first] = picked;
    if (!first) return;
    const end = first.name.split(".").at(-1) ?? "";
    if (FORMATS.includes(end)) setFormat(end);
    if (!name) setName(first.name.replace(/\.\w+$/, ""));
  };
  const upload = (event: SubmitEvent) => {
    event.preventDefault();
    if (!file) return;
    setShare(0);
    void task.run(async (signal) => {
      const query = new URLSearchParams({ name, format });
      if (field) query.set("text_field", field);
      const sent = (bytes: number) => setShare(bytes / (file.size || 1));
      await send({ method: "POST", address: `/v1/datasets/upload?${query}`, body: file, headers, sent, signal });
      setFiles([]);
      setName("");
      done();
    });
  };
  const fault = (parameter: string) => (task.error instanceof Problem ? task.error.fields.find((each) => each.parameter === parameter)?.detail : undefined);
  return (
    <form class="card stack" onSubmit={upload}>
      <h2>Upload a text</h2>
      <div class="fields">
        <FilePicker label="File" files={files} onFiles={pick} accept=".txt,.jsonl,.csv,.parquet" />
        <Input label="Name" required value={name} onValue={setName} fault={fault("name")} />
        <Select label="Format" value={format} choices={FORMATS.map((value) => ({ value }))} onValue={setFormat} fault={fault("format")} />
        {format !== "txt" && <Input label="Text field" placeholder="text" value={field} onValue={setField} fault={fault("text_field")} />}
      </div>
      <ErrorNotice error={task.error} />
      {task.busy && <Bar wide value={share} label="Upload" />}
      <div class="row">
        <button type="submit" class="primary" disabled={!file || task.busy}>Upload</button>
        {task.busy && <button type="button" onClick={task.end}>Stop</button>}
      </div>
    </form>
  );
}
