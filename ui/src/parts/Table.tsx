import type { ComponentChildren } from "preact";

export interface Column<Row> {
  title: string;
  cell(row: Row): ComponentChildren;
  /** Figures are set to the right, in digits of one width. */
  figure?: boolean;
  /** Left out where there is no room for it. */
  spare?: boolean;
  /** The cell that names the row. */
  heads?: boolean;
}

interface Properties<Row> {
  caption: string;
  columns: readonly Column<Row>[];
  rows: readonly Row[];
  rowKey(row: Row): string | number;
  captionShown?: boolean;
  dense?: boolean;
}

/** A table of records; what is too wide is scrolled within its frame, also by keys. */
export function Table<Row>({ caption, columns, rows, rowKey, captionShown, dense }: Properties<Row>) {
  return (
    <div class="table-frame" tabIndex={0} role="region" aria-label={caption}>
      <table class={dense ? "dense" : undefined}>
        <caption class={captionShown ? undefined : "unseen"}>{caption}</caption>
        <thead>
          <tr>
            {columns.map((column) => (
              <th scope="col" class={classes(column)}>
                {column.title}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={rowKey(row)}>
              {columns.map((column) =>
                column.heads ? (
                  <th scope="row" class={classes(column)}>
                    {column.cell(row)}
                  </th>
                ) : (
                  <td class={classes(column)}>{column.cell(row)}</td>
                ),
              )}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function classes<Row>(column: Column<Row>): string | undefined {
  return [column.figure && "figure", column.spare && "spare"].filter(Boolean).join(" ") || undefined;
}
