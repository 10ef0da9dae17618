import { useState } from "preact/hooks";

export interface Pages {
  /** Of the page that is shown; undefined for the first. */
  cursor: string | undefined;
  first(): void;
  older(cursor: string): void;
  newer(): void;
}

export function usePages(): Pages {
  const [cursors, setCursors] = useState<readonly string[]>([]);
  return {
    cursor: cursors.at(-1),
    first: () => setCursors([]),
    older: (cursor) => setCursors([...cursors, cursor]),
    newer: () => setCursors(cursors.slice(0, -1)),
  };
}

/** To the pages before and behind; nothing where there is one only. */
export function Pager({ pages, next }: { pages: Pages; next: string | null | undefined }) {
  if (!pages.cursor && !next) return null;
  return (
    <div class="pager">
      <button type="button" disabled={!pages.cursor} onClick={pages.newer}>Newer</button>
      <button type="button" disabled={!next} onClick={() => next && pages.older(next)}>Older</button>
    </div>
  );
}
