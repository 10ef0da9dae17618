/** Uploads that say how far they are, which fetch cannot. */
import { refuseKey, sessionKey } from "../state/session";
import { jsonOf, problemOf, unreachable } from "./problem";

export interface Sending {
  method: "GET" | "POST" | "PUT";
  address: string;
  body?: Blob;
  headers?: Record<string, string>;
  sent(bytes: number): void;
  signal: AbortSignal;
}

/** The answer's JSON; null where it has none. Throws Problem, or AbortError when it was ended. */
export function send<T>({ method, address, body, headers, sent, signal }: Sending): Promise<T> {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, address);
    const key = sessionKey();
    request.setRequestHeader("Authorization", `Bearer ${key}`);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    for (const [name, value] of Object.entries(headers ?? {})) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => sent(event.loaded);
    request.onload = () => {
      const answer = jsonOf(request.responseText);
      if (request.status === 401) refuseKey(key);
      if (request.status >= 200 && request.status < 300) resolve(answer as T);
      else reject(problemOf(request.status, answer));
    };
    request.onerror = () => reject(unreachable());
    request.onabort = () => reject(new DOMException("Ended", "AbortError"));
    if (signal.aborted) return reject(new DOMException("Ended", "AbortError"));
    const stop = () => request.abort();
    signal.addEventListener("abort", stop, { once: true });
    request.onloadend = () => signal.removeEventListener("abort", stop);
    request.send(body ?? null);
  });
}
