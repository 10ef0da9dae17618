import { useState } from "preact/hooks";
import { api, take } from "../../api/client";
import { Problem } from "../../api/problem";
import type { Job } from "../../api/types";
import { bytes, count } from "../../format";
import { Empty, ErrorNotice, Loading } from "../../parts/Notices";
import { Table } from "../../parts/Table";
import { useLoad } from "../../state/loading";

/** Larger files pass through this page's memory; the command line writes them to the disk as they come. */
const MOST = 256 * 2 ** 20;

export function Files({ job, ended }: { job: Job; ended: boolean }) {
  const manifest = useLoad(() => take(api.GET("/v1/jobs/{id}/artifacts", { params: { path: { id: job.id } } })), [job.id, job.state]);
  const [error, setError] = useState<Error>();
  if (job.state !== "succeeded") return <Empty title={ended ? "This job left no files" : "The files come when the job has succeeded"} />;
  if (!manifest.data) return manifest.error ? <ErrorNotice error={manifest.error} again={manifest.reload} /> : <Loading />;
  const save = async (path: string) => {
    setError(undefined);
    try {
      // Not from the store, where a redirect would lead: the page's policy lets it ask this service alone.
      const params = { path: { id: job.id, path }, query: { redirect: false } };
      const blob = await take(api.GET("/v1/jobs/{id}/artifacts/{path}", { params, parseAs: "blob" }));
      const link = document.createElement("a");
      link.href = URL.createObjectURL(blob as unknown as Blob);
      link.download = path.split("/").at(-1) ?? path;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    } catch (problem) {
      setError(problem instanceof Problem ? problem : new Error("The file could not be saved."));
    }
  };
  return (
    <section class="stack">
      <p>
        {count(manifest.data.files.length, "file")}, {bytes(manifest.data.bytes)}. All of them, verified: <code>secateur download {job.id} FOLDER</code>
      </p>
      <ErrorNotice error={error} />
      <Table
        caption="Files"
        rows={manifest.data.files}
        rowKey={(file) => file.path}
        columns={[
          { title: "Path", heads: true, cell: (file) => <code>{file.path}</code> },
          { title: "Size", figure: true, cell: (file) => bytes(file.bytes) },
          { title: "SHA-256", cell: (file) => <code title={file.sha256}>{file.sha256.slice(0, 12)}…</code> },
          {
            title: "Save",
            cell: (file) =>
              file.bytes <= MOST ? (
                <button type="button" class="link" aria-label={`Save ${file.path}`} onClick={() => save(file.path)}>
                  Save
                </button>
              ) : (
                <span class="quiet">by command</span>
              ),
          },
        ]}
      />
    </section>
  );
}
