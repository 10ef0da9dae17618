import { useEffect, useState } from "preact/hooks";
import { follow, type Connection } from "../api/stream";

export interface Rows<Row> {
  rows: readonly Row[];
  /** How many there were with those that are not kept. */
  all: number;
  state: Connection;
  error: Error | undefined;
}

const KEPT = 5000;

/** The rows of a stream as they come, the newest 5,000 of them. */
export function useRows<Row extends { seq: number }>(address: string): Rows<Row> {
  const [found, setFound] = useState<Rows<Row>>({ rows: [], all: 0, state: "connecting", error: undefined });
  useEffect(() => {
    setFound({ rows: [], all: 0, state: "connecting", error: undefined });
    let coming: Row[] = [];
    let frame = 0;
    const flush = () => {
      frame = 0;
      const next = coming;
      coming = [];
      setFound((before) => ({ ...before, rows: [...before.rows, ...next].slice(-KEPT), all: before.all + next.length }));
    };
    const end = follow<Row>(address, {
      row: (row) => {
        coming.push(row);
        frame ||= requestAnimationFrame(flush);
      },
      state: (state) => setFound((before) => ({ ...before, state })),
      problem: (error) => setFound((before) => ({ ...before, error, state: "ended" })),
    });
    return () => {
      end();
      cancelAnimationFrame(frame);
    };
  }, [address]);
  return found;
}
