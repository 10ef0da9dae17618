import type { ProblemDocument, ProblemField } from "./types";

/** An answer that refuses, or none at all. */
export class Problem extends Error {
  readonly status: number;
  readonly code: string;
  readonly fields: readonly ProblemField[];
  readonly requestId: string | null;

  constructor(status: number, document: Partial<ProblemDocument>) {
    super(document.detail || document.title || `The service answered ${status}.`);
    this.status = status;
    this.code = document.code ?? "unknown";
    this.fields = document.errors ?? [];
    this.requestId = document.request_id ?? null;
  }
}

/** What an answer's body says, whatever came. */
export function problemOf(status: number, body: unknown): Problem {
  if (typeof body === "object" && body !== null) return new Problem(status, body as Partial<ProblemDocument>);
  const found = typeof body === "string" ? jsonOf(body) : null;
  return new Problem(status, typeof found === "object" && found !== null ? found : {});
}

/** What a text says as JSON; null where it is none: a proxy may have answered in the service's place. */
export function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

export const unreachable = () =>
  new Problem(0, { code: "unreachable", detail: "The service does not answer. Is it running, and the network there?" });

/** What is wrong with the field at a JSON pointer. */
export type Faults = (pointer: string) => string | undefined;

export function faultsOf(error: Error | undefined): Faults {
  const fields = error instanceof Problem ? error.fields : [];
  return (pointer) => fields.find((field) => field.pointer === pointer)?.detail;
}
