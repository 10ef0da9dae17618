/** Names for ids: models, datasets and methods of the project, read once a minute at the most. */
import { useEffect, useState } from "preact/hooks";
import { all, api, take } from "../api/client";
import { Problem } from "../api/problem";
import type { Dataset, Method, Model } from "../api/types";
import { short } from "../format";
import { sessionKey } from "./session";

export interface Names {
  models: readonly Model[];
  datasets: readonly Dataset[];
  methods: readonly string[];
  catalogue: readonly Method[];
  modelChoices: readonly { value: string; label: string }[];
  model(id: string): string;
  dataset(id: string): string;
  loaded: boolean;
  /** Whether these are all models and datasets, not the newest 1,000 of each. */
  whole: boolean;
  /** Why there are none. */
  error: Error | undefined;
  again(): void;
}

interface Read {
  models: Model[];
  datasets: Dataset[];
  catalogue: Method[];
  whole: boolean;
}

const KEPT = 60_000;
let kept: { key: string | null; at: number; read: Promise<Read> } | null = null;

/** Read them anew at the next use: something was added. */
export const forgetNames = () => void (kept = null);

function read(): Promise<Read> {
  const key = sessionKey();
  if (!kept || kept.key !== key || Date.now() - kept.at > KEPT) {
    const asked = { key, at: Date.now(), read: ask() };
    kept = asked;
    asked.read.catch(() => kept === asked && forgetNames());
  }
  return kept.read;
}

async function ask(): Promise<Read> {
  const [models, datasets, methods] = await Promise.all([
    all((cursor) => take(api.GET("/v1/models", { params: { query: { limit: 200, cursor } } })), 1000).catch(hidden({ rows: [], whole: true })),
    all((cursor) => take(api.GET("/v1/datasets", { params: { query: { limit: 200, cursor } } })), 1000).catch(hidden({ rows: [], whole: true })),
    take(api.GET("/v1/methods")).catch(hidden({ data: [] })),
  ]);
  return { models: models.rows, datasets: datasets.rows, catalogue: methods.data, whole: models.whole && datasets.whole };
}

/** A key that may not read one of them is shown ids. */
function hidden<T>(instead: T): (error: unknown) => T {
  return (error) => {
    if (error instanceof Problem && error.status === 403) return instead;
    throw error;
  };
}

export function useNames(): Names {
  const [found, setFound] = useState<Read | null>(null);
  const [error, setError] = useState<Error>();
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    let here = true;
    setError(undefined);
    read().then(
      (names) => here && setFound(names),
      (problem: Error) => here && setError(problem),
    );
    return () => void (here = false);
  }, [turn]);
  const { models, datasets, catalogue, whole } = found ?? { models: [], datasets: [], catalogue: [], whole: true };
  return {
    models,
    datasets,
    catalogue,
    whole,
    methods: catalogue.map((method) => method.name),
    modelChoices: models.map((model) => ({ value: model.id, label: model.name })),
    model: (id) => models.find((model) => model.id === id)?.name ?? short(id),
    dataset: (id) => datasets.find((dataset) => dataset.id === id)?.name ?? short(id),
    loaded: found !== null,
    error,
    again: () => setTurn((before) => before + 1),
  };
}
