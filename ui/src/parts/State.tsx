import type { Job } from "../api/types";
import { words } from "../format";

type AnyState = Job["state"] | "pending" | "ready" | "uploading" | "done" | "alive" | "expired" | "revoked" | "disabled" | "enabled" | "failing" | "skipped";

const KINDS: Record<AnyState, "good" | "bad" | "busy" | "idle" | "warn"> = {
  queued: "idle",
  running: "busy",
  pausing: "warn",
  paused: "warn",
  cancelling: "warn",
  succeeded: "good",
  failed: "bad",
  cancelled: "idle",
  pending: "busy",
  uploading: "busy",
  ready: "good",
  done: "good",
  alive: "good",
  expired: "idle",
  revoked: "idle",
  disabled: "warn",
  enabled: "good",
  failing: "bad",
  skipped: "idle",
};

/** A state by word and colour. */
export function StateBadge({ state }: { state: AnyState }) {
  return <span class={`badge ${KINDS[state]}`}>{words(state)}</span>;
}

export const ENDED: readonly Job["state"][] = ["succeeded", "failed", "cancelled"];
export const hasEnded = (job: Job) => ENDED.includes(job.state);
