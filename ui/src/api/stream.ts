/** Server-sent events by fetch, because the key goes in a header. */
import { createParser } from "eventsource-parser";
import { refuseKey, sessionKey } from "../state/session";
import { problemOf } from "./problem";

const SILENCE = 30_000;
const LONGEST = 30_000;

export type Connection = "connecting" | "open" | "ended";

interface Told<Row> {
  row(row: Row): void;
  state(state: Connection): void;
  problem(problem: Error): void;
}

/**
 * Follows a stream from the row behind `after` until its end, over any number of connections; nothing is lost and nothing
 * comes twice. While the page is not seen it holds no connection. The returned function ends it.
 */
export function follow<Row extends { seq: number }>(address: string, told: Told<Row>): () => void {
  const over = new AbortController();
  void run(address, told, over.signal);
  return () => over.abort();
}

async function run<Row extends { seq: number }>(address: string, told: Told<Row>, over: AbortSignal): Promise<void> {
  let last = 0;
  let pause = 1000;
  let failures = 0;
  while (!over.aborted) {
    await seen(over);
    told.state("connecting");
    const key = sessionKey();
    try {
      const ended = await connection(address, key, last, over, {
        open: () => {
          failures = 0;
          told.state("open");
        },
        row: (row: Row) => {
          last = Math.max(last, row.seq);
          told.row(row);
        },
        retry: (milliseconds) => (pause = milliseconds),
      });
      if (ended) return told.state("ended");
    } catch (error) {
      if (over.aborted) return;
      const refused = error as { status?: number } & Error;
      if (refused.status === 401) return refuseKey(key);
      if (refused.status !== undefined && refused.status >= 400 && refused.status < 500 && refused.status !== 429) {
        return told.problem(refused);
      }
      failures += 1;
    }
    await wait(Math.min(LONGEST, pause * 2 ** Math.min(failures, 5)) * (0.75 + Math.random() / 2), over);
  }
}

interface Heard<Row> {
  open(): void;
  row(row: Row): void;
  retry(milliseconds: number): void;
}

/** Whether there will be nothing more. */
async function connection<Row>(address: string, key: string | null, last: number, over: AbortSignal, heard: Heard<Row>): Promise<boolean> {
  const mine = new AbortController();
  const stop = () => mine.abort();
  const hidden = () => document.hidden && stop();
  over.addEventListener("abort", stop);
  document.addEventListener("visibilitychange", hidden);
  let silence = setTimeout(stop, SILENCE);
  try {
    const headers = { Accept: "text/event-stream", Authorization: `Bearer ${key}`, "Last-Event-ID": String(last) };
    const answer = await fetch(address, { headers, signal: mine.signal, cache: "no-store" });
    if (answer.status === 204) return true;
    if (!answer.ok || !answer.body) throw problemOf(answer.status, await answer.json().catch(() => null));
    heard.open();
    const parser = createParser({
      onEvent: (event) => heard.row(JSON.parse(event.data) as Row),
      onRetry: heard.retry,
    });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return false;
      clearTimeout(silence);
      silence = setTimeout(stop, SILENCE);
      parser.feed(value);
    }
  } finally {
    clearTimeout(silence);
    over.removeEventListener("abort", stop);
    document.removeEventListener("visibilitychange", hidden);
    mine.abort();
  }
}

/** Until the time has passed, or it is over. */
export function wait(milliseconds: number, over: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    over.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}

function seen(over: AbortSignal): Promise<void> {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    const look = () => {
      if (document.hidden && !over.aborted) return;
      document.removeEventListener("visibilitychange", look);
      resolve();
    };
    document.addEventListener("visibilitychange", look);
    over.addEventListener("abort", look, { once: true });
  });
}
