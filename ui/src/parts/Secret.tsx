import { Dialog } from "./Dialog";

/** A secret that the service shows this once. */
export function Secret({ of, secret, close }: { of: string; secret: string; close(): void }) {
  return (
    <Dialog title={`The secret of ${of}`} close={close}>
      <p>It is shown this once. Keep it where secrets are kept.</p>
      <code class="secret">{secret}</code>
      <div class="actions">
        <button type="button" class="primary" onClick={close}>I have it</button>
      </div>
    </Dialog>
  );
}
