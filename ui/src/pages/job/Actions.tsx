import { useState } from "preact/hooks";
import { Link, useLocation } from "wouter-preact";
import { api, once, take } from "../../api/client";
import type { Job } from "../../api/types";
import { Input } from "../../parts/Fields";
import { ErrorNotice } from "../../parts/Notices";
import { Dialog } from "../../parts/Dialog";
import { hasEnded } from "../../parts/State";
import { useSession } from "../../state/session";

type Asked = "cancel" | "priority" | null;

/** What can be done with the job as it is. */
export function Actions({ job, replace }: { job: Job; replace(job: Job): void }) {
  const { may } = useSession();
  const [, go] = useLocation();
  const [asked, setAsked] = useState<Asked>(null);
  const [error, setError] = useState<Error>();
  const [busy, setBusy] = useState(false);
  if (!may("jobs:write")) return null;
  const params = { path: { id: job.id } };

  const act = async (call: () => Promise<Job>, then: (job: Job) => void = replace) => {
    setBusy(true);
    setError(undefined);
    try {
      then(await call());
      setAsked(null);
    } catch (problem) {
      setError(problem as Error);
    } finally {
      setBusy(false);
    }
  };
  const pausable = ["queued", "running"].includes(job.state);
  return (
    <>
      {pausable && (
        <button type="button" disabled={busy || job.pause_requested} onClick={() => act(() => take(api.POST("/v1/jobs/{id}/pause", { params })))}>
          Pause
        </button>
      )}
      {["paused", "pausing"].includes(job.state) && (
        <button type="button" disabled={busy} onClick={() => act(() => take(api.POST("/v1/jobs/{id}/resume", { params })))}>
          Resume
        </button>
      )}
      {["queued", "paused"].includes(job.state) && (
        <button type="button" onClick={() => setAsked("priority")}>
          Priority {job.priority}
        </button>
      )}
      {["failed", "cancelled"].includes(job.state) && (
        <button
          type="button"
          class="primary"
          disabled={busy}
          onClick={() => act(() => take(api.POST("/v1/jobs/{id}/retry", { params: { ...params, header: once() } })), (made) => go(`/jobs/${made.id}`))}
        >
          Retry
        </button>
      )}
      {job.state === "succeeded" && (
        <Link class="button" href={`/new?continues=${job.id}`}>
          Continue with a domain
        </Link>
      )}
      {!hasEnded(job) && (
        <button type="button" class="danger" disabled={busy || job.cancel_requested} onClick={() => setAsked("cancel")}>
          Cancel
        </button>
      )}
      {asked === null && <ErrorNotice error={error} />}
      {asked === "cancel" && (
        <Dialog title="Cancel this job?" close={() => setAsked(null)}>
          <p>It ends as cancelled. What is committed is kept for some days; a retry goes on from there.</p>
          <ErrorNotice error={error} />
          <div class="actions">
            <button type="button" onClick={() => setAsked(null)}>
              Keep it
            </button>
            <button type="button" class="danger" disabled={busy} onClick={() => act(() => take(api.POST("/v1/jobs/{id}/cancel", { params })))}>
              Cancel the job
            </button>
          </div>
        </Dialog>
      )}
      {asked === "priority" && (
        <Priority
          job={job}
          error={error}
          close={() => setAsked(null)}
          save={(priority) => act(() => take(api.PATCH("/v1/jobs/{id}", { params, body: { priority } })))}
        />
      )}
    </>
  );
}

function Priority({ job, error, close, save }: { job: Job; error: Error | undefined; close(): void; save(priority: number): void }) {
  const [value, setValue] = useState(String(job.priority));
  return (
    <Dialog title="Priority" close={close}>
      <form
        class="stack"
        onSubmit={(event) => {
          event.preventDefault();
          save(Number(value));
        }}
      >
        <Input label="Priority" type="number" step={1} required value={value} onValue={setValue} hint="Higher goes before other jobs of this project." />
        <ErrorNotice error={error} />
        <div class="actions">
          <button type="button" onClick={close}>
            Close
          </button>
          <button type="submit" class="primary">
            Save
          </button>
        </div>
      </form>
    </Dialog>
  );
}
