import createClient from "openapi-fetch";
import { refuseKey, sessionKey } from "../state/session";
import { problemOf, unreachable } from "./problem";
import type { paths } from "./schema";

/** Every call, with the key of this tab. */
export const api = createClient<paths>({ baseUrl: location.origin });

api.use({
  onRequest({ request }) {
    const key = sessionKey();
    if (key && !request.headers.has("Authorization")) request.headers.set("Authorization", `Bearer ${key}`);
    return request;
  },
  onResponse({ request, response }) {
    if (response.status === 401) refuseKey(request.headers.get("Authorization")?.replace(/^Bearer /, "") ?? null);
  },
});

interface Answered<T> {
  data?: T;
  error?: unknown;
  response: Response;
}

/** The answer's content. Throws Problem. */
export async function take<T>(call: Promise<Answered<T>>): Promise<T> {
  const { data, error, response } = await reached(call);
  if (error !== undefined || !response.ok) throw problemOf(response.status, error);
  return data as T;
}

async function reached<T>(call: Promise<Answered<T>>): Promise<Answered<T>> {
  try {
    return await call;
  } catch (error) {
    if (error instanceof DOMException) throw error;
    throw unreachable();
  }
}

interface Page<T> {
  data: T[];
  next_cursor: string | null;
}

/** All pages of a list, up to `most` rows; `whole` says whether these are all. */
export async function all<T>(
  page: (cursor: string | undefined) => Promise<Page<T>>,
  most = 5000,
): Promise<{ rows: T[]; whole: boolean }> {
  const rows: T[] = [];
  let cursor: string | undefined;
  do {
    const next = await page(cursor);
    rows.push(...next.data);
    cursor = next.next_cursor ?? undefined;
  } while (cursor !== undefined && rows.length < most);
  return { rows, whole: cursor === undefined };
}

/** A key for a call that makes something: sent again, it makes nothing twice. */
export const once = () => ({ "Idempotency-Key": randomName() });

function randomName(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
