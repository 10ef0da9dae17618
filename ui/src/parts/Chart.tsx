import type { EChartsType } from "echarts/core";
import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { init } from "../charts/engine";
import type { Option } from "../charts/options";
import { paletteOf, type Palette } from "../charts/palette";
import { useTheme } from "../state/theme";

interface Properties {
  title: string;
  /** What one sees in it, in a sentence. */
  about: ComponentChildren;
  option(palette: Palette): Option;
  /** The same figures as a table. */
  table: ComponentChildren;
  height?: "low" | "high";
  pick?(value: string): void;
}

/** A picture with its figures behind it; whoever sees no picture is told where these are. */
export function Chart({ title, about, option, table, height, pick }: Properties) {
  const { dark } = useTheme();
  const place = useRef<HTMLDivElement>(null);
  const chart = useRef<EChartsType | null>(null);
  const picked = useRef(pick);
  picked.current = pick;
  useEffect(() => {
    if (!place.current) return;
    const made = init(place.current, null, { renderer: "canvas" });
    chart.current = made;
    made.on("click", ({ value }) => typeof value === "string" && picked.current?.(value));
    const watch = new ResizeObserver(() => made.resize());
    watch.observe(place.current);
    return () => {
      watch.disconnect();
      made.dispose();
    };
  }, []);
  useEffect(() => {
    const style = { animation: false, textStyle: { fontFamily: getComputedStyle(document.body).fontFamily } };
    chart.current?.setOption({ ...style, ...option(paletteOf(dark)) }, true);
  });
  return (
    <figure class="card chart">
      <figcaption>
        <h2>{title}</h2>
        <p class="quiet">{about}</p>
      </figcaption>
      <div class={`canvas ${height ?? ""}`} ref={place} role="img" aria-label={`${title}. The figures are in the table below.`} />
      <details>
        <summary>Figures</summary>
        {table}
      </details>
    </figure>
  );
}
