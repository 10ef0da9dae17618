import type { ComponentChildren } from "preact";
import { lines, type Line } from "../charts/options";
import { BlockTable } from "./BlockTable";
import { Chart } from "./Chart";

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
  const at = (name: string, block: number) => series.find((line) => line.name === name)?.points.find(([each]) => each === block)?.[1];
  return (
    <Chart
      title={title}
      about={about}
      option={(palette) => lines(series, "block", unit, palette)}
      table={<BlockTable caption={title} blocks={blocks} names={series.map(({ name }) => name)} at={at} />}
    />
  );
}
