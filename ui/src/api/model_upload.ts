/** A folder of a model, file by file and part by part, going on where an earlier try ended. */
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { api, once, take } from "./client";
import { Problem } from "./problem";
import { wait } from "./stream";
import type { Model } from "./types";
import { send } from "./upload";

const PART = 64 * 2 ** 20;
const READ = 4 * 2 ** 20;
const TRIES = 5;
/** What a file of a model may be called, as in the command line; its card is one, for the licence. Code and pickles stay. */
const NAMES =
  /^(?:[A-Za-z0-9_][A-Za-z0-9_.-]*\.(?:safetensors|json|txt|model|jinja)|(?:LICENSE|NOTICE|USE_POLICY|COPYING)[A-Z_-]*(?:\.(?:md|rst|pdf))?|README\.md)$/;

export interface Step {
  doing: string;
  /** From 0 to 1. */
  share: number;
}

/** What of an upload outlives a try that failed: pressed again, it goes on with the same model. */
export interface Begun {
  /** The request, as text; another one is another upload. */
  of?: string;
  header?: ReturnType<typeof once>;
  model?: string;
}

/** The model's files of a folder: of those at its top, not below. Throws Error for a folder that is no model. */
export function modelFiles(files: readonly File[]): File[] {
  const found = files.filter((file) => file.webkitRelativePath.split("/").length <= 2 && NAMES.test(file.name));
  if (!found.some((file) => file.name === "config.json") || !found.some((file) => file.name.endsWith(".safetensors"))) {
    throw new Error("The folder has no config.json with .safetensors files: save the model with save_pretrained.");
  }
  return found;
}

/** The registered model. Every file is hashed before anything is sent: the service checks what it gets. */
export async function uploadModel(
  name: string,
  files: readonly File[],
  begun: Begun,
  tell: (step: Step) => void,
  signal: AbortSignal,
): Promise<Model> {
  const total = files.reduce((sum, file) => sum + file.size, 0) || 1;
  let done = 0;
  const declared = [];
  for (const file of files) {
    const digest = await hash(file, (read) => tell({ doing: `Hashing ${file.name}`, share: (done + read) / total }), signal);
    declared.push({ path: file.name, bytes: file.size, sha256: digest });
    done += file.size;
  }
  const model = await begin({ name, source: { type: "upload", files: declared } }, begun, signal);
  if (model.state !== "uploading") return model;
  const path = { id: model.id };
  const { data: listed } = await take(api.GET("/v1/models/{id}/files", { params: { path }, signal }));
  done = 0;
  for (const file of files) {
    const address = `/v1/models/${model.id}/files/${encodeURIComponent(file.name)}`;
    let received = listed.find((each) => each.path === file.name)?.received ?? 0;
    while (received < file.size) {
      const before = received;
      const sent = (bytes: number) => tell({ doing: `Sending ${file.name}`, share: (done + before + bytes) / total });
      received = await sendPart(address, file, before, sent, signal);
    }
    done += file.size;
  }
  return take(api.POST("/v1/models/{id}/complete", { params: { path, header: once() }, signal }));
}

interface Request {
  name: string;
  source: { type: "upload"; files: { path: string; bytes: number; sha256: string }[] };
}

/** The model of an earlier try of the same request, unless it has failed; else a new one. */
async function begin(body: Request, begun: Begun, signal: AbortSignal): Promise<Model> {
  const of = JSON.stringify(body);
  if (begun.of === of && begun.model) {
    const params = { path: { id: begun.model } };
    const known = await take(api.GET("/v1/models/{id}", { params, signal })).catch((error: unknown) => {
      if (error instanceof Problem && error.status === 404) return null;
      throw error;
    });
    if (known && known.state !== "failed") return known;
  }
  if (begun.of !== of || begun.model) Object.assign(begun, { of, header: once(), model: undefined });
  const made = await take(api.POST("/v1/models", { params: { header: begun.header ?? once() }, body, signal }));
  begun.model = made.id;
  return made;
}

/** How much of the file the service has then. After a failure it is asked, for it keeps what had come. */
async function sendPart(address: string, file: File, from: number, sent: (bytes: number) => void, signal: AbortSignal): Promise<number> {
  let offset = from;
  for (let tried = 1; ; tried++) {
    const body = file.slice(offset, offset + PART);
    try {
      await send({ method: "PUT", address, body, headers: { "Upload-Offset": String(offset) }, sent, signal });
      return offset + body.size;
    } catch (error) {
      if (!(error instanceof Problem) || !mayPass(error) || tried === TRIES) throw error;
    }
    await wait(500 * 2 ** tried, signal);
    const received = await receivedOf(address, signal);
    if (received !== null && received > offset) return received;
    offset = received ?? offset;
  }
}

/** Null while the service cannot be asked. */
async function receivedOf(address: string, signal: AbortSignal): Promise<number | null> {
  const ignored = () => {};
  try {
    return (await send<{ received: number }>({ method: "GET", address, sent: ignored, signal })).received;
  } catch (error) {
    if (error instanceof Problem && mayPass(error)) return null;
    throw error;
  }
}

const mayPass = ({ status, code }: Problem) => code === "offset_mismatch" || [0, 429, 502, 503, 504].includes(status);

async function hash(file: File, read: (bytes: number) => void, signal: AbortSignal): Promise<string> {
  const state = sha256.create();
  for (let offset = 0; offset < file.size; offset += READ) {
    signal.throwIfAborted();
    state.update(new Uint8Array(await file.slice(offset, offset + READ).arrayBuffer()));
    read(offset);
  }
  return bytesToHex(state.digest());
}
