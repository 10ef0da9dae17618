import type { ComponentChildren } from "preact";
import { lines, type Line } from "../charts/options";
import { figure } from "../format";
import { Chart } from "./Chart";
import { Table } from "./Table";

interface Properties {
  title: string;
  about: ComponentChildren;
  unit: string;
  /** Each has a point for every block, in order. */
  series: Line[];
}

/** Figures by block, a line each. */
export function BlockLines({ title, about, unit, series }: Properties) {
  const blocks = series[0]?.points.map(([block]) => block) ?? [];
  return (
    <Chart
      title={title}
      about={about}
      option={(palette) => lines(series, "block", unit, palette)}
      table={
        <Table
          dense
          caption={title}
          rows={blocks}
          rowKey={(block) => block}
          columns={[
            { title: "Block", heads: true, cell: (block) => block },
            ...series.map(({ name, points }) => ({ title: name, figure: true, cell: (block: number) => figure(points.find(([at]) => at === block)?.[1]) })),
          ]}
        />
      }
    />
  );
}
