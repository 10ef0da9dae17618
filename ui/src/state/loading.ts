import { useCallback, useEffect, useRef, useState } from "preact/hooks";

export interface Loaded<T> {
  data: T | undefined;
  error: Error | undefined;
  /** While nothing is there yet. */
  loading: boolean;
  reload(): void;
  replace(data: T): void;
}

/**
 * What `load` answers, again whenever one of `dependencies` changes, and every `seconds` while the page is seen, until
 * `over` says that nothing more will come. What was there stays until the next answer of the same dependencies, so that
 * nothing jumps. One call is under way at a time: a slow line is not asked faster than it answers.
 */
export function useLoad<T>(
  load: () => Promise<T>,
  dependencies: readonly unknown[],
  seconds?: number,
  over?: (data: T) => boolean,
): Loaded<T> {
  const [state, setState] = useState<{ data?: T; error?: Error }>({});
  const asking = useRef<{ again: boolean } | null>(null);
  const key = JSON.stringify(dependencies);
  const current = useRef({ load, over, state });
  current.current = { load, over, state };

  const ask = useCallback(async () => {
    const mine = { again: false };
    asking.current = mine;
    do {
      mine.again = false;
      const answer = await current.current.load().then(
        (data) => () => setState({ data }),
        (error: Error) => () => setState((before) => ({ ...before, error })),
      );
      if (asking.current !== mine) return;
      answer();
    } while (mine.again);
    asking.current = null;
  }, []);

  const reload = useCallback(() => {
    if (asking.current) asking.current.again = true;
    else void ask();
  }, []);

  useEffect(() => {
    setState({});
    void ask();
    return () => void (asking.current = null);
  }, [key]);

  useEffect(() => {
    if (seconds === undefined) return;
    const timer = setInterval(() => {
      const { over, state } = current.current;
      if (document.hidden || asking.current || (state.data !== undefined && over?.(state.data))) return;
      void ask();
    }, seconds * 1000);
    return () => clearInterval(timer);
  }, [key, seconds]);

  return {
    data: state.data,
    error: state.error,
    loading: state.data === undefined && state.error === undefined,
    reload,
    replace: (data) => {
      asking.current = null;
      setState({ data });
    },
  };
}
