import { figure } from "../format";
import { Table } from "./Table";

interface Properties {
  caption: string;
  blocks: readonly number[];
  /** A column each. */
  names: readonly string[];
  at(name: string, block: number): number | null | undefined;
}

/** The figures of a picture, a row a block. */
export function BlockTable({ caption, blocks, names, at }: Properties) {
  return (
    <Table
      dense
      caption={caption}
      rows={blocks}
      rowKey={(block) => block}
      columns={[
        { title: "Block", heads: true, cell: (block) => block },
        ...names.map((name) => ({ title: name, figure: true, cell: (block: number) => figure(at(name, block)) })),
      ]}
    />
  );
}
