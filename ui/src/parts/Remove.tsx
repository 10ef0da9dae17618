import { useState } from "preact/hooks";
import { useTask } from "../state/task";
import { Dialog } from "./Dialog";
import { ErrorNotice } from "./Notices";

/** A deletion, after a question. */
export function Remove({ name, remove, done, verb = "Delete" }: { name: string; remove(): Promise<unknown>; done(): void; verb?: string }) {
  const [asked, setAsked] = useState(false);
  const task = useTask();
  const act = () =>
    task.run(async () => {
      await remove();
      setAsked(false);
      done();
    });
  return (
    <>
      <button type="button" class="link" aria-label={`${verb} ${name}`} onClick={() => setAsked(true)}>
        {verb}
      </button>
      {asked && (
        <Dialog title={`${verb} ${name}?`} close={() => setAsked(false)}>
          <p>This cannot be taken back.</p>
          <ErrorNotice error={task.error} />
          <div class="actions">
            <button type="button" onClick={() => setAsked(false)}>Keep it</button>
            <button type="button" class="danger" disabled={task.busy} onClick={act}>{verb}</button>
          </div>
        </Dialog>
      )}
    </>
  );
}
