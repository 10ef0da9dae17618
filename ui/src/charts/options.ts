/** What the pictures show, as pure functions of figures. */
import type { EChartsCoreOption } from "echarts/core";
import { figure } from "../format";
import type { Palette } from "./palette";

export type Option = EChartsCoreOption;
type Value = number | null | undefined;

const axis = (palette: Palette) => ({
  axisLine: { lineStyle: { color: palette.line } },
  axisTick: { show: false },
  axisLabel: { color: palette.quiet, hideOverlap: true },
  splitLine: { lineStyle: { color: palette.line } },
  nameTextStyle: { color: palette.quiet },
});

const tooltip = (palette: Palette) => ({
  // Drawn, not made of markup: the page's policy allows no inline styles.
  renderMode: "richText",
  backgroundColor: palette.surface,
  borderColor: palette.line,
  textStyle: { color: palette.text, fontSize: 12 },
  confine: true,
});

export interface Cells {
  rows: readonly string[];
  columns: readonly string[];
  values: readonly (readonly Value[])[];
  columnTitle?: string;
  rowTitle?: string;
  /** Whether colour follows the logarithm. */
  log?: boolean;
  labels?: boolean;
}

/** A matrix by colour, the first row on top. */
export function heatMap({ rows, columns, values, log, labels, columnTitle, rowTitle }: Cells, palette: Palette): Option {
  const colour = (value: number) => (log ? Math.log10(Math.max(value, 1e-12)) : value);
  const cells = values.flatMap((row, y) =>
    row.flatMap((value, x) => (typeof value === "number" ? [[x, y, colour(value), value]] : [])),
  );
  const colours = cells.map((each) => each[2] as number);
  const [least, most] = [Math.min(...colours), Math.max(...colours)];
  // A label stands out against its cell.
  const strong = (value: number) => (value - least) / (most - least || 1) > 0.5;
  const data = cells.map((value) => ({ value, label: { color: strong(value[2] as number) ? palette.surface : palette.text } }));
  return {
    grid: { left: 8, right: 12, top: columnTitle ? 30 : 12, bottom: 8, containLabel: true },
    tooltip: {
      ...tooltip(palette),
      formatter: ({ value }: { value: number[] }) =>
        `${rows[value[1] ?? 0]}\n${columns[value[0] ?? 0]}: ${figure(value[3])}`,
    },
    xAxis: { type: "category", data: columns, position: "top", name: columnTitle, nameLocation: "middle", nameGap: 26, ...axis(palette), splitLine: { show: false } },
    yAxis: { type: "category", data: rows, inverse: true, name: rowTitle, ...axis(palette), splitLine: { show: false } },
    visualMap: {
      show: false, dimension: 2, min: least, max: most > least ? most : least + 1,
      inRange: { color: [...palette.ramp] },
    },
    series: [
      {
        type: "heatmap",
        data,
        itemStyle: { borderColor: palette.surface, borderWidth: 2, borderRadius: 3 },
        label: {
          show: labels ?? false,
          fontSize: 12,
          formatter: ({ value }: { value: number[] }) => figure(value[3]),
        },
      },
    ],
  };
}

export interface Line {
  name: string;
  points: readonly (readonly [number, number | null])[];
}

/** Lines over a figure. */
export function lines(series: readonly Line[], x: string, y: string, palette: Palette, log = false): Option {
  return {
    color: [...palette.series],
    grid: { left: 12, right: 16, top: 48, bottom: 28, containLabel: true },
    legend: { top: 0, left: 0, textStyle: { color: palette.text }, icon: "roundRect", itemHeight: 4, type: "plain" },
    tooltip: { ...tooltip(palette), trigger: "axis", valueFormatter: (value: number | null) => figure(value) },
    xAxis: { type: "value", name: x, nameLocation: "middle", nameGap: 26, minInterval: x === "block" ? 1 : undefined, scale: true, ...axis(palette), splitLine: { show: false } },
    yAxis: { type: log ? "log" : "value", name: y, scale: true, ...axis(palette), nameTextStyle: { color: palette.quiet, align: "left" }, axisLabel: { color: palette.quiet, formatter: (value: number) => figure(value, 3) } },
    series: series.map(({ name, points }, index) => ({
      type: "line",
      name,
      data: points.map(([at, value]) => [at, value]),
      showSymbol: points.length < 40,
      symbol: ["circle", "rect", "triangle", "diamond"][index % 4],
      symbolSize: 7,
      lineStyle: { width: 2, type: index < 3 ? "solid" : "dashed" },
      emphasis: { focus: "series" },
    })),
  };
}

/** Bars up and down from nothing. */
export function bars(names: readonly string[], values: readonly number[], y: string, palette: Palette): Option {
  return {
    grid: { left: 12, right: 16, top: 30, bottom: 8, containLabel: true },
    tooltip: { ...tooltip(palette), trigger: "axis", valueFormatter: (value: number) => `${figure(value)} %` },
    xAxis: { type: "category", data: names, name: "", ...axis(palette) },
    yAxis: { type: "value", name: y, ...axis(palette), nameTextStyle: { color: palette.quiet, align: "left" } },
    series: [
      {
        type: "bar",
        data: values.map((value) => ({ value, itemStyle: { color: palette.series[value > 0 ? 0 : 1] } })),
        barMaxWidth: 28,
      },
    ],
  };
}

export interface Node {
  name: string;
  id: string;
  state: string;
  here: boolean;
  children: Node[];
}

/** A tree from left to right; the job that is looked at is filled. */
export function tree(root: Node, palette: Palette): Option {
  const colours: Record<string, string> = { succeeded: palette.good, failed: palette.bad };
  const drawn = (node: Node): object => ({
    name: node.name,
    value: node.id,
    symbolSize: node.here ? 14 : 10,
    itemStyle: { color: colours[node.state] ?? palette.idle, borderColor: node.here ? palette.text : colours[node.state] ?? palette.idle, borderWidth: 2 },
    label: { fontWeight: node.here ? 700 : 400 },
    children: node.children.map(drawn),
  });
  return {
    tooltip: { ...tooltip(palette), formatter: ({ data }: { data: { name: string; value: string } }) => `${data.name}\n${data.value}` },
    series: [
      {
        type: "tree", data: [drawn(root)], left: 90, right: 110, top: 20, bottom: 20,
        symbol: "circle", expandAndCollapse: false, initialTreeDepth: -1, roam: false,
        lineStyle: { color: palette.idle, width: 1.5 },
        label: { position: "bottom", distance: 6, color: palette.text, fontSize: 12 },
        leaves: { label: { position: "bottom" } },
      },
    ],
  };
}
