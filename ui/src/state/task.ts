import { useEffect, useRef, useState } from "preact/hooks";

/** One piece of work that is under way or not, with what went wrong; leaving the page ends it. */
export function useTask() {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<Error>();
  const ending = useRef<AbortController | null>(null);
  useEffect(() => () => ending.current?.abort(), []);
  return {
    busy,
    error,
    end: () => ending.current?.abort(),
    async run(work: (signal: AbortSignal) => Promise<void>): Promise<void> {
      ending.current = new AbortController();
      setBusy(true);
      setError(undefined);
      try {
        await work(ending.current.signal);
      } catch (problem) {
        if ((problem as Error).name !== "AbortError") setError(problem as Error);
      } finally {
        setBusy(false);
      }
    },
  };
}
